"""Device profiles: what a device is and which driver reaches it, one TOML file each.

Profiles ship in `devices/`. Users put their own into a folder that the environment variable `EDGEKD_DEVICES`
names; theirs win over shipped ones of the same name. A profile's name is its file's, without `.toml`.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from edgekd.errors import UsageError, reading
from edgekd.resources import resource_folder
from edgekd.targets import TARGETS
from edgekd.text import nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

VARIABLE = "EDGEKD_DEVICES"
DRIVERS: Final = ("local", "ssh", "adb", "qemu")  # each is a module of edgekd.drivers
_STRICT = ConfigDict(strict=True, frozen=True, extra="forbid")


class SshSettings(BaseModel):
    """How the driver `ssh` reaches a board.

    Attributes:
        host: Name or address of the board, or a `Host` of your ssh configuration; by default the profile's name.
        user: Who to log in as; by default what your ssh configuration says.
        port: By default what your ssh configuration says.
        python: The board's Python, 3.9 or newer: a command or a path.
        folder: Where edgekd may write on the board, below the home folder unless it begins with `/`.
    """

    model_config = _STRICT

    # What could pass for an option, a shell's word or ssh's own syntax is no host.
    host: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_:][A-Za-z0-9_.:%-]*$")
    user: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")
    port: int | None = Field(default=None, ge=1, le=65535)
    python: str = Field(default="python3", pattern=r"^[^\x00-\x1f-][^\x00-\x1f]*$")
    folder: str = Field(default=".cache/edgekd", pattern=r"^[^\x00-\x1f-][^\x00-\x1f]*$")


class AdbSettings(BaseModel):
    """How the driver `adb` reaches a phone.

    Attributes:
        serial: Which of the devices of `adb devices`; by default the only one.
    """

    model_config = _STRICT

    serial: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_:][A-Za-z0-9_.:%-]*$")


class QemuSettings(BaseModel):
    """What the driver `qemu` emulates.

    Attributes:
        machine: The kind of machine: `"aarch64"` or `"x86_64"`.
        cpu: The core, as `qemu-aarch64-static -cpu help` or `qemu-x86_64-static -cpu help` names it.
        part: Its part number in `/proc/cpuinfo`, such as `"0xd0b"`; only ARM cores have one, and need it.
    """

    model_config = _STRICT

    machine: Literal["aarch64", "x86_64"] = "aarch64"
    cpu: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9,=.-]*$")
    part: str | None = Field(default=None, pattern=r"^0x[0-9a-f]{3}$")

    @model_validator(mode="after")
    def _part_of_an_arm_core(self) -> Self:
        if (self.part is None) == (self.machine == "aarch64"):
            raise ValueError(f"a core of {self.machine} {'needs a' if self.part is None else 'has no'} key 'part'")
        return self


class Hardware(BaseModel):
    """What a device is made of, for people.

    Attributes:
        soc: The system on a chip.
        cores: Its clusters, such as `"4x Cortex-A76 2.4 GHz"`.
        memory_gb: Sizes of memory it is sold with, in GB.
    """

    model_config = _STRICT

    soc: str = Field(min_length=1)
    cores: list[str] = Field(min_length=1)
    memory_gb: list[float] = Field(min_length=1)


SECTIONS: Final[dict[str, type[BaseModel]]] = {
    "hardware": Hardware,
    "ssh": SshSettings,
    "adb": AdbSettings,
    "qemu": QemuSettings,
}


class DeviceProfile(BaseModel):
    """A device as its profile describes it.

    Attributes:
        name: The profile's file name without `.toml`.
        description: One line for lists.
        driver: Name of the driver that reaches it.
        target: Its instruction set, or "auto": the driver asks the device.
        hardware: What it is made of; None if its profile does not say.
        ssh: Settings of the driver `ssh`.
        adb: Settings of the driver `adb`.
        qemu: Settings of the driver `qemu`, which needs them.
    """

    model_config = _STRICT

    name: str
    description: str = Field(min_length=1)
    driver: str
    target: str = "auto"
    hardware: Hardware | None = None
    ssh: SshSettings | None = None
    adb: AdbSettings | None = None
    qemu: QemuSettings | None = None

    @field_validator("driver")
    @classmethod
    def _known_driver(cls, value: str) -> str:
        return _one_of(value, DRIVERS)

    @field_validator("target")
    @classmethod
    def _known_target(cls, value: str) -> str:
        return _one_of(value, ("auto", *TARGETS))

    @model_validator(mode="after")
    def _sections_of_the_driver(self) -> Self:
        for driver in DRIVERS:
            if driver != self.driver and getattr(self, driver, None) is not None:
                raise ValueError(f"the section [{driver}] is of another driver than this profile's {self.driver!r}")
        if self.driver == "qemu" and self.qemu is None:
            raise ValueError("the driver 'qemu' needs a section [qemu] with the core it emulates")
        return self


def list_profiles() -> list[DeviceProfile]:
    """Return all profiles, shipped and the user's own, by name.

    Raises:
        UsageError: a profile is faulty, or `EDGEKD_DEVICES` does not name a folder.
    """
    return [read_profile(path) for _, path in sorted(_profile_files().items())]


def load_profile(name: str) -> DeviceProfile:
    """Return the profile called `name`.

    Raises:
        UsageError: there is none, or it is faulty.
    """
    files = _profile_files()
    if name not in files:
        raise UsageError(f"unknown device {name!r}{nearest(name, files)}; known: {', '.join(sorted(files))}")
    return read_profile(files[name])


def read_profile(path: Path) -> DeviceProfile:
    """Read one profile.

    Raises:
        UsageError: it cannot be read; the message names file, key, value and what is allowed.
    """
    with reading(path, UsageError, "device profile"):
        data = path.read_bytes()
    try:
        table = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not a TOML file: {error}") from error
    _check_keys(path, table, [key for key in DeviceProfile.model_fields if key != "name"])
    for section, kind in SECTIONS.items():
        if isinstance(table.get(section), dict):
            _check_keys(path, table[section], list(kind.model_fields), f"{section}.")
    try:
        return DeviceProfile.model_validate({**table, "name": path.stem})
    except ValidationError as error:
        raise UsageError("\n".join(f"{path}: {_explain(dict(fault))}" for fault in error.errors())) from error


def _check_keys(path: Path, table: dict[str, Any], known: list[str], prefix: str = "") -> None:
    for key in table:
        if key not in known:
            raise UsageError(f"{path}: unknown key {prefix + key!r}{nearest(key, known)}; known: {', '.join(known)}")


def _profile_files() -> dict[str, Path]:
    folders = [resource_folder("devices")]
    own = os.environ.get(VARIABLE)
    if own:
        folders.append(Path(own))
        if not folders[-1].is_dir():
            raise UsageError(f"{VARIABLE}={own}: no such folder; it should hold device profiles (*.toml)")
    return {path.stem: path for folder in folders for path in folder.glob("*.toml")}


def _one_of(value: str, known: Sequence[str]) -> str:
    if value not in known:
        raise ValueError(f"unknown{nearest(value, known)}; known: {', '.join(known)}")
    return value


def _explain(fault: dict[str, Any]) -> str:
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "missing":
        return f"the key {key!r} is missing"
    reason: str = fault["msg"].removeprefix("Value error, ")
    if not key:
        return reason
    return f"{key} = {fault['input']!r}: {reason}"
