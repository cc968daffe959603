"""Jobs: a script, a JSON file that goes in, a JSON file that comes out. On any device."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any, Final

from edgekd.errors import DataError, DeviceError, ModelError
from edgekd.temporary import temporary_folder, temporary_room

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from edgekd.drivers.protocol import Driver
    from edgekd.errors import EdgekdError

_KINDS: Final[dict[str, type[EdgekdError]]] = {"model": ModelError, "data": DataError, "device": DeviceError}


def run_job(
    driver: Driver, script: Path, job: Mapping[str, Any], subjects: Mapping[str, str], beside: Sequence[str] = ()
) -> dict[str, Any]:
    """Run a job on an open driver and return its result.

    Args:
        driver: Where it runs.
        script: Takes the names of a job file and a result file. A result may be an error of some kind.
        job: What to do, as JSON; paths in it are the device's.
        subjects: What a message of each kind (`model`, `data`, `device`) begins with, such as the user's path.
        beside: Modules that the script imports, by their names in its folder.

    Raises:
        ModelError, DataError, DeviceError: as the script says, or `DeviceError` if it says nothing.
    """
    result_name = f"result-{uuid.uuid4().hex}.json"  # an earlier run's result can never pass for this one's
    with temporary_folder() as folder:
        job_file, result_file = folder / "job.json", folder / "result.json"
        with temporary_room():
            job_file.write_text(json.dumps(job, allow_nan=False), encoding="utf-8")
        finished = driver.run(driver.push(script, beside), [driver.push(job_file), result_name])
        try:
            driver.pull(result_name, result_file)
        except DeviceError as error:
            raise DeviceError(f"{error}; exit status {finished.exit_code}, it said: {finished.log}") from error
        result: dict[str, Any] = json.loads(result_file.read_text(encoding="utf-8"))
    if "error" in result:
        kind, message = result["error"]["kind"], result["error"]["message"]
        raise _KINDS[kind](f"{subjects[kind]}: {message}")
    return result
