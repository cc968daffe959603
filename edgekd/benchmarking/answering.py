"""Have one model answer in this fresh process.

    python answering.py JOB.json RESULT.json

This file is pushed to boards as it is, beside `runner.py`: Python >= 3.9, the standard library and what the runner
takes; nothing of edgekd.

JOB: `model`, `sha256` and `threads` as of `runner.py`; `wanted`, the name of an output, or None for the first; and
`answers`, a list of
`{"inputs": path of an .npz, "names": of the input that each of its arrays is for, "output": name of an .npy}`. The
output for each is written under that name and its inputs are removed. What has been answered already is left, so that
a job which was cut short can go on.

RESULT: versions; or an error, as of `runner.py`.
"""

from __future__ import annotations

import platform
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any


def answer(job: dict[str, Any], runner: Any) -> dict[str, Any]:
    """Write the wanted output for each batch of the job."""
    runner.check_sha256(job["model"], job["sha256"])
    runtime = runner.import_runtime()
    import numpy as np

    session = runner.open_session(runtime, job["model"], job["threads"])
    wanted = job["wanted"] or session.get_outputs()[0].name
    for batch in job["answers"]:
        output = Path(batch["output"])
        if output.exists():
            continue
        try:
            with np.load(batch["inputs"], allow_pickle=False) as arrays:
                feeds = {name: arrays[f"arr_{index}"] for index, name in enumerate(batch["names"])}
        except (OSError, ValueError, EOFError, KeyError) as error:
            raise runner.JobError("device", f"{batch['inputs']}: the inputs did not arrive whole: {error}") from error
        try:
            values = session.run([wanted], feeds)[0]
        except Exception as error:
            raise runner.refusal(error, "the model loads but cannot run") from error
        partial = output.with_name(output.name + ".partial")
        with partial.open("wb") as stream:
            np.save(stream, values, allow_pickle=False)
        partial.replace(output)
        Path(batch["inputs"]).unlink()  # a board has little space
    return {"schema": runner.SCHEMA, "python": platform.python_version(), "onnxruntime": runtime.__version__}


if __name__ == "__main__":
    the_runner = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("runner.py"))))
    sys.exit(the_runner.main(sys.argv[1], sys.argv[2], work=lambda job: answer(job, the_runner)))
