from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgekd.drivers import sysroot
from edgekd.drivers.cache import cache_folder, cached
from edgekd.drivers.wheels import Interpreter, fetch_wheels
from edgekd.errors import DeviceError, OutputError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "edgekd"


def everything(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def test_a_folder_is_made_once(cache: Path) -> None:
    made = []

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "file").touch()

    for _ in range(2):
        assert cached("kind/one", make) == cache / "kind" / "one"
    assert len(made) == 1
    assert everything(cache) == ["file", "kind", "one"]


def test_a_folder_is_there_whole_or_not_at_all(cache: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise DeviceError("no")

    with pytest.raises(DeviceError, match="no"):
        cached("kind/one", fail)
    assert everything(cache) == ["kind"]


def test_the_first_of_two_makers_wins(cache: Path) -> None:
    def slow(folder: Path) -> None:
        (folder / "mine").touch()
        (cache / "one").mkdir()
        (cache / "one" / "theirs").touch()

    assert everything(cached("one", slow)) == ["theirs"]
    assert everything(cache) == ["one", "theirs"]


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    with pytest.raises(OutputError, match="XDG_CACHE_HOME"):
        cached("one", lambda folder: None)


@pytest.mark.parametrize("value", ["", "relative/cache"])
def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    assert cache_folder() == Path.home() / ".cache" / "edgekd"


@pytest.mark.parametrize(("machine", "glibc"), [("armv7l", 36), ("aarch64", None)])
def test_a_machine_without_wheels(machine: str, glibc: int | None) -> None:
    with pytest.raises(DeviceError, match=f"no wheels of onnxruntime for Python 3.11 on {machine}"):
        fetch_wheels(Interpreter(python=(3, 11), machine=machine, glibc_minor=glibc))


def test_wheels_that_pip_cannot_find(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    with pytest.raises(DeviceError, match=r"no wheels of numpy .*aarch64 with glibc 2\.36; pip said: .*No matching"):
        fetch_wheels(Interpreter(python=(3, 11), machine="aarch64", glibc_minor=36))
    assert everything(cache) == ["wheels"]


def test_a_system_without_apt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(DeviceError, match="made with apt-get, dpkg, dpkg-deb, not found here"):
        sysroot.sysroot()


def test_apt_that_fails(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("apt-get", "dpkg", "dpkg-deb"):
        (programs / name).write_text("#!/bin/sh\necho E: cannot find it >&2\nexit 100\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    with pytest.raises(DeviceError, match=r"apt-get failed .*exit status 100.*: .*E: cannot find it"):
        sysroot.sysroot()
    assert not sysroot.is_built()
    assert everything(cache) == ["sysroots"]
