from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from edgekd import resources
from edgekd.devices import DRIVERS, SECTIONS, DeviceProfile, list_profiles, load_profile
from edgekd.errors import UsageError
from edgekd.resources import resource_folder
from edgekd.targets import TARGETS

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEKD_DEVICES", str(tmp_path))
    return tmp_path


def test_this_machine_is_a_device() -> None:
    assert load_profile("local") == DeviceProfile(
        name="local", description="This machine", driver="local", target="auto"
    )


def test_every_shipped_profile_is_sound() -> None:
    files = sorted(path.stem for path in resource_folder("devices").glob("*.toml"))
    assert [profile.name for profile in list_profiles()] == files


def test_every_shipped_board_and_phone_says_what_it_is_and_where_that_is_from() -> None:
    for profile in list_profiles():
        text = (resource_folder("devices") / f"{profile.name}.toml").read_text()
        assert text.startswith("# ")
        if profile.driver in ("ssh", "adb"):
            assert profile.hardware is not None
            assert profile.target != "auto"
            assert "Source: " in text
            assert profile.ssh is profile.adb is None  # facts only: where it is, its user knows


def test_an_unknown_device_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"unknown device 'loacl' \(perhaps you meant 'local'\?\); known: .*local"):
        load_profile("loacl")


@pytest.mark.parametrize("name", ["../devices/local", "", "local.toml", "/etc/passwd"])
def test_a_name_is_not_a_path(name: str) -> None:
    with pytest.raises(UsageError, match="unknown device"):
        load_profile(name)


def test_own_profiles_join_and_win(own: Path) -> None:
    (own / "desk.toml").write_text('description = "Desk"\ndriver = "local"\ntarget = "x86-vnni"\n')
    (own / "local.toml").write_text('description = "Mine"\ndriver = "local"\n')
    assert load_profile("desk").target == "x86-vnni"
    assert load_profile("local").description == "Mine"
    assert {"desk", "local"} <= {profile.name for profile in list_profiles()}


def test_a_folder_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEKD_DEVICES", str(tmp_path / "absent"))
    with pytest.raises(UsageError, match=r"EDGEKD_DEVICES=.*absent: no such folder"):
        load_profile("local")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'description = "a"\ndrivr = "local"', r"unknown key 'drivr' \(perhaps you meant 'driver'\?\)"),
        (b'name = "x"\ndescription = "a"\ndriver = "local"', "unknown key 'name'"),
        (b'description = "a"', "the key 'driver' is missing"),
        (b'description = ""\ndriver = "local"', "description = ''"),
        (b'description = 5\ndriver = "local"', "description = 5: Input should be a valid string"),
        (b'description = "a"\ndriver = "locl"', r"driver = 'locl': unknown \(perhaps you meant 'local'\?\)"),
        (b'description = "a"\ndriver = "local"\ntarget = "arm"', "target = 'arm': unknown.*known: auto, x86-avx2"),
        (
            b'description = "a"\ndriver = "ssh"\n[ssh]\nhots = "b"',
            r"unknown key 'ssh.hots' \(perhaps you meant 'host'",
        ),
        (b'description = "a"\ndriver = "local"\n[ssh]\nhost = "b"', r"section \[ssh\] is of another driver"),
        (b'description = "a"\ndriver = "qemu"', r"needs a section \[qemu\] with the core it emulates"),
        (b'description = "a"\ndriver = "qemu"\nqemu = 5', "qemu = 5: "),
        (b'description = "a"\ndriver = "qemu"\n[qemu]\ncpu = "cortex-a76"', "a core of aarch64 needs a key 'part'"),
        (
            b'description = "a"\ndriver = "qemu"\n[qemu]\nmachine = "x86_64"\ncpu = "Haswell"\npart = "0xd0b"',
            "a core of x86_64 has no key 'part'",
        ),
        (b'description = "a"\ndriver = "qemu"\n[qemu]\ncpu = "-x"\npart = "0xd0b"', "qemu.cpu = '-x'"),
        (b"description = x\n", "not a TOML file: .*line 1"),
        (b"\xff", "not a TOML file"),
    ],
)
def test_a_faulty_profile_is_explained(own: Path, content: bytes, message: str) -> None:
    (own / "desk.toml").write_bytes(content)
    with pytest.raises(UsageError, match=message) as caught:
        load_profile("desk")
    assert str(caught.value).startswith(str(own / "desk.toml"))


@pytest.mark.parametrize(
    "host", ["-oProxyCommand=id", "", "a b", "a;id", "$(id)", "`id`", "a\nb", "a'b", "u@h", "ssh://a/b"]
)
@pytest.mark.parametrize(("driver", "key"), [("ssh", "host"), ("adb", "serial")])
def test_a_host_is_no_option_and_no_command(own: Path, driver: str, key: str, host: str) -> None:
    (own / "desk.toml").write_text(
        f'description = "a"\ndriver = "{driver}"\n[{driver}]\n{key} = {json.dumps(host)}\n'
    )
    with pytest.raises(UsageError, match=f"desk.toml: {driver}.{key} = "):
        load_profile("desk")


@pytest.mark.parametrize("key", ["python", "folder"])
@pytest.mark.parametrize("value", ["-c import os", "", "a\nb", "\0"])
def test_a_path_on_a_board_is_no_option(own: Path, key: str, value: str) -> None:
    (own / "desk.toml").write_text(f'description = "a"\ndriver = "ssh"\n[ssh]\n{key} = {json.dumps(value)}\n')
    with pytest.raises(UsageError, match=f"desk.toml: ssh.{key} = "):
        load_profile("desk")


@pytest.mark.parametrize("host", ["board", "192.168.1.7", "pi.local", "fe80::1%eth0", "10.0.0.1:5555"])
def test_what_a_host_may_be(own: Path, host: str) -> None:
    (own / "desk.toml").write_text(f'description = "a"\ndriver = "ssh"\n[ssh]\nhost = "{host}"\n')
    settings = load_profile("desk").ssh
    assert settings is not None
    assert settings.host == host


def test_the_readme_names_every_driver_target_and_key() -> None:
    text = (resource_folder("devices") / "README.md").read_text()
    plain = DeviceProfile.model_fields.keys() - SECTIONS.keys() - {"name"}
    for word in [*DRIVERS, *TARGETS, *plain, *(f"[{section}]" for section in SECTIONS)]:
        assert f"`{word}`" in text
    for section, kind in SECTIONS.items():
        (rows,) = re.findall(rf"^`\[{section}\]`.*?\n\n(.*?)\n\n", text, re.DOTALL | re.MULTILINE)
        assert re.findall(r"^\| `(\w+)`", rows, re.MULTILINE) == list(kind.model_fields)


def test_the_readmes_example_works(own: Path) -> None:
    text = (resource_folder("devices") / "README.md").read_text()
    example = re.search(r"<<'TOML'\n(.*?)^TOML$", text, re.DOTALL | re.MULTILINE)
    assert example is not None
    (own / "desk.toml").write_text(example[1])
    assert load_profile("desk").driver == "local"


def test_data_folders_of_a_wheel_a_checkout_and_a_damaged_installation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "edgekd"
    (tmp_path / "recipes").mkdir()
    monkeypatch.setattr(resources, "__file__", str(package / "resources.py"))
    with pytest.raises(FileNotFoundError, match="lacks its recipes"):
        resource_folder("recipes")  # a folder of that name beside an installed package is not ours
    (tmp_path / "pyproject.toml").touch()
    assert resource_folder("recipes") == tmp_path / "recipes"
    (package / "_recipes").mkdir(parents=True)
    assert resource_folder("recipes") == package / "_recipes"
