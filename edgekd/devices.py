"""Device profiles: what a device is and which driver reaches it, one TOML file each.

Profiles ship in `devices/`. Users put their own into a folder that the environment variable `EDGEKD_DEVICES`
names; theirs win over shipped ones of the same name. A profile's name is its file's, without `.toml`.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from edgekd.errors import UsageError, reading
from edgekd.resources import resource_folder
from edgekd.targets import TARGETS
from edgekd.text import nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

VARIABLE = "EDGEKD_DEVICES"
DRIVERS: Final = ("local",)  # each is a module of edgekd.drivers


class DeviceProfile(BaseModel):
    """A device as its profile describes it.

    Attributes:
        name: The profile's file name without `.toml`.
        description: One line for lists.
        driver: Name of the driver that reaches it.
        target: Its instruction set, or "auto": the driver asks the device.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    name: str
    description: str = Field(min_length=1)
    driver: str
    target: str = "auto"

    @field_validator("driver")
    @classmethod
    def _known_driver(cls, value: str) -> str:
        return _one_of(value, DRIVERS)

    @field_validator("target")
    @classmethod
    def _known_target(cls, value: str) -> str:
        return _one_of(value, ("auto", *TARGETS))


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
    known = [key for key in DeviceProfile.model_fields if key != "name"]
    for key in table:
        if key not in known:
            raise UsageError(f"{path}: unknown key {key!r}{nearest(key, known)}; known: {', '.join(known)}")
    try:
        return DeviceProfile.model_validate({**table, "name": path.stem})
    except ValidationError as error:
        raise UsageError("\n".join(f"{path}: {_explain(dict(fault))}" for fault in error.errors())) from error


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
    reason = fault["msg"].removeprefix("Value error, ")
    return f"{key} = {fault['input']!r}: {reason}"
