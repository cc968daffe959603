"""What a model answers on a device: batches go there, its outputs come back."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from edgekd.benchmarking.shipping import ANSWERING, RUNNER, ship_model
from edgekd.drivers.jobs import run_job
from edgekd.errors import DeviceError
from edgekd.temporary import temporary_folder, temporary_room

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from edgekd.drivers import Driver

    Batch: TypeAlias = tuple[Mapping[str, NDArray[Any]], int]

# So much input goes to the device for one process there, which has to start Python and load the model each time.
GROUP_BYTES = 32 << 20


def device_answers(
    driver: Driver, model: Path, sha256: str, batches: Iterable[Batch], *, output: str | None = None
) -> Iterator[tuple[NDArray[Any], int]]:
    """Yield one output of the model for each batch, with the batch's number of samples, in order.

    Args:
        driver: Open.
        model: The file.
        sha256: Of the file; the device checks it.
        batches: Arrays by input name, and how many samples they stand for.
        output: Name of the output; by default the first.

    Raises:
        ModelError: the device cannot load or run the model.
        DeviceError: the device failed, twice without one more batch answered.
    """
    remote = ship_model(driver, model)
    job = {"model": remote, "sha256": sha256, "threads": 0, "wanted": output}
    subject = f"device {driver.name}"
    subjects = {"model": f"{model} on {subject}", "data": subject, "device": subject}
    first = 0
    for group in _groups(batches):
        yield from _answer_group(driver, job, subjects, first, group)
        first += len(group)


def _groups(batches: Iterable[Batch]) -> Iterator[list[Batch]]:
    group: list[Batch] = []
    size = 0
    for feeds, count in batches:
        group.append((feeds, count))
        size += sum(array.nbytes for array in feeds.values())
        if size >= GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _answer_group(
    driver: Driver, job: Mapping[str, Any], subjects: Mapping[str, str], first: int, group: list[Batch]
) -> Iterator[tuple[NDArray[Any], int]]:
    with temporary_folder() as folder:
        waiting = {}
        for number, (feeds, _) in enumerate(group, start=first):
            inputs, answer = folder / f"inputs-{number:06}.npz", f"answer-{number:06}.npy"
            with temporary_room():
                np.savez(inputs, *feeds.values())
            waiting[answer] = {"inputs": driver.push(inputs), "names": list(feeds), "output": answer}
        while waiting:
            for answer in _answer(driver, {**job, "answers": list(waiting.values())}, subjects, folder):
                del waiting[answer]
        for number, (_, count) in enumerate(group, start=first):
            yield np.load(folder / f"answer-{number:06}.npy", allow_pickle=False), count


def _answer(driver: Driver, job: Mapping[str, Any], subjects: Mapping[str, str], folder: Path) -> list[str]:
    """Run a job and fetch its answers; if it was cut short, those that are there, if there are any."""
    answers = [batch["output"] for batch in job["answers"]]
    try:
        run_job(driver, ANSWERING, job, subjects, [RUNNER.name])
    except DeviceError:
        fetched = []
        for answer in answers:
            with suppress(DeviceError):
                driver.pull(answer, folder / answer)
                fetched.append(answer)
        if not fetched:
            raise
        return fetched
    for answer in answers:
        driver.pull(answer, folder / answer)
    return answers
