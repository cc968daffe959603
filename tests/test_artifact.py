from __future__ import annotations

import json
import multiprocessing
import os
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

import edgekd
from edgekd.artifact import (
    Origin,
    canonical_json,
    card_path,
    find,
    library_versions,
    locked_folder,
    require_writable,
    rounded,
    store,
    write_bytes,
    write_json,
)
from edgekd.errors import OutputError, UsageError

ORIGIN = Origin(stage="export", settings={"opset": 18}, parents={"a": "00"}, libraries=("numpy",))


def test_what_is_stored_is_found(tmp_path: Path) -> None:
    stored = store(tmp_path / "m.onnx", b"abc", ORIGIN, metrics={"x": 1.5}, extra={"contract": {}})
    assert find(tmp_path / "m.onnx", ORIGIN) == stored
    card = json.loads(card_path(tmp_path / "m.onnx").read_bytes())
    assert card["schema"] == "edgekd.card/1"
    assert card["bytes"] == 3
    assert card["versions"].keys() == {"python", "numpy", "edgekd"}
    assert str(tmp_path) not in str(card)


def test_the_same_origin_gives_the_same_card(tmp_path: Path) -> None:
    store(tmp_path / "1" / "m", b"abc", ORIGIN)
    store(tmp_path / "2" / "m", b"abc", ORIGIN)
    assert card_path(tmp_path / "1" / "m").read_bytes() == card_path(tmp_path / "2" / "m").read_bytes()


@pytest.mark.parametrize("change", ["content", "card", "no card", "no file", "settings", "parents", "stage"])
def test_whatever_changed_is_not_reused(tmp_path: Path, change: str) -> None:
    path = tmp_path / "m"
    store(path, b"abc", ORIGIN)
    origin = ORIGIN
    if change == "content":
        path.write_bytes(b"abd")
    elif change == "card":
        card_path(path).write_text("{}")
    elif change == "no card":
        card_path(path).unlink()
    elif change == "no file":
        path.unlink()
    elif change == "settings":
        origin = Origin(stage="export", settings={"opset": 17}, parents={"a": "00"}, libraries=("numpy",))
    elif change == "parents":
        origin = Origin(stage="export", settings={"opset": 18}, parents={"a": "01"}, libraries=("numpy",))
    else:
        origin = Origin(stage="import", settings={"opset": 18}, parents={"a": "00"}, libraries=("numpy",))
    assert find(path, origin) is None


@pytest.mark.parametrize(
    "damage",
    [{"extra": []}, {"metrics": {}}, {"metrics": {"x": 2}}, {"stage": "import"}, {"seal": None}, {"more": 1}],
    ids=str,
)
def test_a_card_that_was_damaged_or_edited_counts_as_not_made(tmp_path: Path, damage: dict[str, object]) -> None:
    path = tmp_path / "m"
    stored = store(path, b"abc", ORIGIN, metrics={"x": 1, "by class": {2: 0.5, 10: 0.25}})
    assert find(path, ORIGIN) is not None
    card = json.loads(card_path(path).read_bytes())
    card_path(path).write_text(json.dumps({**card, **damage}))
    assert find(path, ORIGIN) is None
    card_path(path).write_text(json.dumps([card]))
    assert find(path, ORIGIN) is None
    store(path, b"abc", ORIGIN, metrics=stored.metrics)
    assert find(path, ORIGIN) is not None


def test_a_failed_write_leaves_the_earlier_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m"
    write_bytes(path, b"earlier")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"m: cannot write here: No space left on device; free some space"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"earlier"
    assert [entry.name for entry in tmp_path.iterdir()] == ["m"]


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write here"):
        write_bytes(tmp_path / "file" / "m", b"x")
    with pytest.raises(OutputError, match="cannot write here"), locked_folder(tmp_path / "file" / "run"):
        pass
    with pytest.raises(OutputError, match=r"cannot write here: .*; choose another place with --json"):
        write_json(tmp_path / "file" / "m", {}, option="--json")


def test_whether_a_place_can_be_written_is_known_beforehand(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "m", tmp_path / ("x" * 300), Path("/proc/new/m")):
        with pytest.raises(OutputError, match=r"cannot write here: .*; choose another place with --json"):
            require_writable(path, "--json")
    with pytest.raises(OutputError, match="this is a folder"):
        require_writable(tmp_path)
    require_writable(tmp_path / "file")
    require_writable(tmp_path / "new" / "folders" / "m")
    require_writable(Path("/dev/null"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_longest_name_can_be_written(tmp_path: Path) -> None:
    write_bytes(tmp_path / ("x" * 255), b"x")
    assert (tmp_path / ("x" * 255)).read_bytes() == b"x"


@pytest.mark.skipif(sys.platform == "win32", reason="links and pipes")
def test_a_link_stays_one_and_its_file_is_written(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_bytes(b"earlier")
    for name, target in (("link", "folder/file"), ("new", "folder/later")):
        (tmp_path / name).symlink_to(target)
        write_bytes(tmp_path / name, b"x")
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / target).read_bytes() == b"x"
    assert {path.name for path in (tmp_path / "folder").iterdir()} == {"file", "later"}


@pytest.mark.skipif(sys.platform == "win32", reason="links and pipes")
def test_pipes_and_devices_are_written_to_and_stay(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_json(pipe, {"a": 1})
        assert json.loads(os.read(reader, 100)) == {"a": 1}
    finally:
        os.close(reader)
    assert pipe.is_fifo()
    device = tmp_path / "device"
    device.symlink_to("/dev/null")
    write_bytes(device, b"x")
    assert device.is_char_device()
    with (tmp_path / "open").open("w+b") as stream:
        stream.write(b"before ")
        stream.flush()
        write_bytes(Path(f"/dev/fd/{stream.fileno()}"), b"behind")
        stream.seek(0)
        assert stream.read() == b"before behind"
    with pytest.raises(OutputError, match="No space left on device"):
        write_bytes(Path("/dev/full"), b"x")


def test_a_package_from_another_distribution_has_a_version(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"onnxruntime-gpu": "1.20.0", "numpy": "2.0.0"}

    def version(name: str) -> str:
        if name not in known:
            raise PackageNotFoundError(name)
        return known[name]

    monkeypatch.setattr("edgekd.artifact.version", version)
    monkeypatch.setattr("edgekd.artifact.packages_distributions", lambda: {"onnxruntime": ["onnxruntime-gpu"]})
    found = library_versions(("onnxruntime", "numpy", "absent"))
    assert list(found) == ["python", "absent", "edgekd", "numpy", "onnxruntime"]
    assert found["onnxruntime"] == "1.20.0 (onnxruntime-gpu)"
    assert (found["numpy"], found["absent"], found["edgekd"]) == ("2.0.0", "unknown", edgekd.__version__)


def test_a_folder_is_no_place_for_a_file(tmp_path: Path) -> None:
    for path in (tmp_path, Path(), Path("/")):
        with pytest.raises(OutputError, match="this is a folder; name a file in it"):
            write_bytes(path, b"x")


def test_nan_never_gets_into_json_or_a_card(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="finite"):
        rounded(float("nan"))
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"a": float("inf")})
    assert not list(tmp_path.iterdir())


def test_rounded_keeps_six_digits() -> None:
    assert rounded(0.123456789) == 0.123457
    assert rounded(123456789.0) == 123457000.0


def test_canonical_json_does_not_depend_on_order() -> None:
    assert canonical_json({"b": 1, "a": [2, 3]}) == canonical_json({"a": [2, 3], "b": 1}) == b'{"a":[2,3],"b":1}'


def hold(folder: Path, ready: multiprocessing.synchronize.Event, done: multiprocessing.synchronize.Event) -> None:
    with locked_folder(folder):
        ready.set()
        done.wait(30)


def test_a_folder_belongs_to_one_run_at_a_time(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=hold, args=(tmp_path, ready, done))
    other.start()
    try:
        assert ready.wait(30)
        with pytest.raises(UsageError, match="another edgekd run is working in this folder"), locked_folder(tmp_path):
            pass
    finally:
        done.set()
        other.join()
    with locked_folder(tmp_path):
        pass


def test_what_a_killed_run_left_is_cleared(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    leftover = tmp_path / "checkpoints" / ".partial-00000000000000000000000000000000"
    leftover.write_bytes(b"half")
    with locked_folder(tmp_path):
        assert not leftover.exists()


def test_nothing_is_cleared_but_what_a_run_writes(tmp_path: Path) -> None:
    mine = (
        tmp_path / ".partial-11111111111111111111111111111111",
        tmp_path / "checkpoints" / ".partial-22222222222222222222222222222222",
    )
    others = (
        tmp_path / ".partial-notes.txt",
        tmp_path / ".partial-7777777777777777777777777777777",
        tmp_path / "images" / ".partial-33333333333333333333333333333333",
        tmp_path / "checkpoints" / "old" / ".partial-44444444444444444444444444444444",
        tmp_path / ".partial-55555555555555555555555555555555" / ".partial-33333333333333333333333333333333",
    )
    for path in (*mine, *others):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / ".partial-66666666666666666666666666666666").symlink_to(others[0])
    (tmp_path / "loop").symlink_to(tmp_path)
    with locked_folder(tmp_path):
        assert not any(path.exists() for path in mine)
        assert all(path.exists() for path in others)
        assert (tmp_path / ".partial-66666666666666666666666666666666").is_symlink()


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(OutputError, match="cannot be locked: No locks available; choose another place"):
        locked_folder(tmp_path).__enter__()


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    write_bytes(tmp_path / ("x" * 255), b"")  # the longest there is
    with pytest.raises(OutputError, match="File name too long"):
        write_bytes(tmp_path / ("x" * 256), b"")
