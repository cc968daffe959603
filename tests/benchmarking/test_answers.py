from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgekd.artifact import sha256_file
from edgekd.benchmarking import answers
from edgekd.benchmarking.answers import device_answers
from edgekd.devices import load_profile
from edgekd.drivers.local import LocalDriver
from edgekd.errors import DeviceError, ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from conftest import MakeModel

    from edgekd.drivers import Finished

BATCHES = [({"x": np.full((2, 16), value, np.float32)}, 2) for value in range(5)]


class Interrupted(LocalDriver):
    """Loses its runs after one answer each, or at once."""

    def __init__(self, done: Sequence[int]) -> None:
        super().__init__(load_profile("local"))
        self.done = list(done)
        self.asked: list[int] = []

    def run(self, script: str, arguments: Sequence[str]) -> Finished:
        job_file = Path(arguments[0])
        job: dict[str, Any] = json.loads(job_file.read_text())
        self.asked.append(len(job["answers"]))
        if not self.done:
            return super().run(script, arguments)
        job["answers"] = job["answers"][: self.done.pop(0)]
        job_file.write_text(json.dumps(job))
        super().run(script, arguments)
        raise DeviceError("the connection was lost")


def test_answers_are_those_of_the_model(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()
    groups = []
    for size in (1, 1 << 30):
        monkeypatch.setattr(answers, "GROUP_BYTES", size)
        with Interrupted([]) as driver:
            groups.append(list(device_answers(driver, model, sha256_file(model), BATCHES)))
        assert driver.asked == ([1] * 5 if size == 1 else [5])
    for (one, count), (other, _) in zip(*groups, strict=True):
        assert (one.shape, count) == ((2, 16), 2)
        np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(groups[0][3][0], 3 * groups[0][1][0], rtol=1e-5)


def test_a_lost_run_goes_on_where_it_was(make_model: MakeModel) -> None:
    model = make_model()
    with Interrupted([2, 1]) as driver:
        found = list(device_answers(driver, model, sha256_file(model), BATCHES))
    assert driver.asked == [5, 3, 2]
    assert [round(float(one[0, 0] / found[1][0][0, 0])) for one, _ in found] == [0, 1, 2, 3, 4]


def test_a_run_that_answers_nothing_is_given_up(make_model: MakeModel) -> None:
    model = make_model()
    with Interrupted([2, 0, 1]) as driver, pytest.raises(DeviceError, match="connection was lost"):
        list(device_answers(driver, model, sha256_file(model), BATCHES))
    assert driver.asked == [5, 3]


def test_another_model_is_refused(make_model: MakeModel) -> None:
    model = make_model()
    with Interrupted([]) as driver, pytest.raises(ModelError, match=r"model.onnx on device local: .*expected sha256"):
        list(device_answers(driver, model, "0" * 64, BATCHES))


def test_a_model_that_cannot_run(unrunnable_model: Path) -> None:
    batches = [({"ids": np.zeros(1, np.int64)}, 1)]
    with Interrupted([]) as driver, pytest.raises(ModelError, match="loads but cannot run"):
        list(device_answers(driver, unrunnable_model, sha256_file(unrunnable_model), batches))
