"""Two processes, started by torchrun and connected by gloo, against one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import together
from launching import TORCHRUN

from edgekd.distillation.processes import Processes, join
from edgekd.errors import DeviceError, UsageError
from edgekd.launch import Launch, launched, refuse_several

if TYPE_CHECKING:
    from collections.abc import Iterator

Found = dict[str, Any]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")


@pytest.fixture(scope="module")
def one(folders: tuple[Path, Path]) -> Iterator[Found]:
    """What one process finds."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("SHARD_BYTES", "BATCH"):  # the experiments make them small
            patch.setattr(together.cache, name, getattr(together.cache, name))
        yield together.main(folders[0])


@pytest.fixture(scope="module")
def two(folders: tuple[Path, Path]) -> list[Found]:
    """What each of two finds."""
    script = Path(together.__file__)
    subprocess.run([*TORCHRUN, str(script), str(folders[1])], check=True, timeout=600)
    return [json.loads((folders[1] / f"{rank}.json").read_text()) for rank in range(2)]


def test_there_are_two(one: Found, two: list[Found]) -> None:
    assert [(found["rank"], found["size"]) for found in two] == [(0, 2), (1, 2)]
    assert one["size"] == 1


@pytest.mark.parametrize("training", ["labels", "accumulated", "taught"])
def test_without_batch_statistics_two_processes_learn_what_one_does(
    one: Found, two: list[Found], training: str
) -> None:
    """47 samples in batches of 13 or 7, which two cannot share out evenly."""
    for found in two:
        assert found[training]["losses"] == pytest.approx(one[training]["losses"], rel=1e-4)
        for expected, judged in zip(one[training]["validation"], found[training]["validation"], strict=True):
            assert judged == pytest.approx(expected, rel=1e-4)
        assert found[training]["weights"] == pytest.approx(one[training]["weights"], rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("training", ["labels", "accumulated", "taught", "batch_norm"])
def test_all_processes_end_with_the_same_network(two: list[Found], training: str) -> None:
    assert two[0][training] == two[1][training]
    assert two[0][training]["processes"] == 2


def test_batch_norm_uses_each_process_statistics(one: Found, two: list[Found]) -> None:
    """The loss is another one, of the same size."""
    assert two[0]["batch_norm"]["losses"] != pytest.approx(one["batch_norm"]["losses"], rel=1e-4)
    assert two[0]["batch_norm"]["losses"] == pytest.approx(one["batch_norm"]["losses"], rel=0.2)


def test_adapters_train_in_all_processes_and_stay_out_of_the_student(one: Found, two: list[Found]) -> None:
    for found in (one, *two):
        assert found["taught"]["names"] == ["1.weight", "1.bias", "4.weight", "4.bias"]
        assert found["taught"]["teacher kept"]
    assert two[0]["taught"]["adapters"] == two[1]["taught"]["adapters"]
    assert two[0]["taught"]["adapters"] == pytest.approx(one["taught"]["adapters"], rel=1e-3, abs=1e-4)


def test_a_resume_is_bit_exact_in_both(one: Found, two: list[Found]) -> None:
    for found in (one, *two):
        assert found["resumed"]["found"] == found["resumed"]["expected"]
    assert two[0]["resumed"] == two[1]["resumed"]


def test_what_one_process_finds_wrong_ends_both_with_the_same_words(two: list[Found]) -> None:
    assert two[0]["diverged"] == two[1]["diverged"]
    assert "the term 'ce' of the loss is nan at epoch 2, step 1" in two[0]["diverged"]["message"]
    assert "the last good checkpoint is FOLDER/d0.pt" in two[0]["diverged"]["message"]
    assert two[0]["stages"]["messages"] == two[1]["stages"]["messages"]
    assert two[0]["stages"]["messages"][0] == "only the main process knows"


def test_stages_are_made_once_and_only_where_all_agree(two: list[Found]) -> None:
    assert [found["stages"]["found"][1:] for found in two] == [["made", 1], ["made", 0]]
    assert two[0]["stages"]["messages"][1].startswith("s: process 1 sees other settings than process 0; all machines")


def test_a_cache_is_filled_by_both_to_the_bytes_of_one(
    one: Found, two: list[Found], folders: tuple[Path, Path]
) -> None:
    contents = [{path.name: path.read_bytes() for path in (folder / "answers").iterdir()} for folder in folders]
    assert contents[0] == contents[1]
    assert len(contents[0]) == 16
    assert one["answers"]["asked"] == 3 * 47
    asked = [found["answers"]["asked"] for found in two]
    assert sum(asked) == 3 * 47
    assert min(asked) >= 60


def test_a_process_is_alone_unless_the_environment_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert launched() == Launch(0, 1)
    assert type(join()) is Processes
    monkeypatch.setenv("WORLD_SIZE", "4")  # by itself it says nothing of this process
    assert launched().size == 1
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert launched() == Launch(2, 4)
    assert not launched().is_main
    with pytest.raises(UsageError, match="it works in one process, 4 were started; do so"):
        refuse_several("it", "do so")
    monkeypatch.setenv("RANK", "4")
    with pytest.raises(UsageError, match=r"RANK=4, WORLD_SIZE=4, LOCAL_RANK=0 do not name one"):
        launched()


def test_processes_that_cannot_be_met_are_an_error_of_one_message(tmp_path: Path) -> None:
    """Nobody listens where the main process should be."""
    code = (
        "import datetime, edgekd.distillation.processes as p\n"
        "p.PATIENCE = datetime.timedelta(seconds=1)\n"
        "try:\n    p.join()\nexcept p.DeviceError as error:\n    print(error)\n"
    )
    environment = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"}
    ran = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert "another process of this training ended or cannot be reached" in ran.stdout, ran.stderr
    assert DeviceError.exit_code == 5
