"""The driver of Android phones, by the system's own adb. It runs the Python of the Termux app.

adb's own user has no Python and may not enter the app's folder; `run-as` does, where the app's build allows it. What
the app may not read (load, temperatures, battery) adb's user reads.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from typing import TYPE_CHECKING, Any, Final

from edgekd.drivers.agent import FILES, processes
from edgekd.drivers.board import BoardDriver
from edgekd.drivers.connection import Connection
from edgekd.drivers.host import facts_of
from edgekd.drivers.protocol import PowerReading
from edgekd.errors import DeviceError

if TYPE_CHECKING:
    from pathlib import Path

    from edgekd.devices import DeviceProfile
    from edgekd.drivers.protocol import Facts
    from edgekd.drivers.wheels import Interpreter

APP: Final = "com.termux"
_HOME: Final = f"/data/data/{APP}/files"
_LOST: Final = ("error: device", "error: no devices", "error: closed", "adb: device")
_MARK: Final = "#edgekd "
_POWER: Final = (
    "cat /proc/uptime; echo current $(cmd battery get -f current_now 2>/dev/null); "
    "echo current $(cat /sys/class/power_supply/battery/current_now 2>/dev/null); dumpsys battery"
)
_DISCHARGING: Final = "3"  # BatteryManager.BATTERY_STATUS_DISCHARGING
_LEAST_W: Final = 0.05  # a phone that is awake draws more
_NEEDED: Final = (
    "it needs the app Termux in a build that run-as may enter (those of its own releases are), and there: "
    "pkg install python python-numpy python-onnxruntime"
)


class AdbConnection(Connection):
    """Commands of adb, as the Termux app or as adb's own user."""

    program = "adb"

    def __init__(self, name: str, serial: str) -> None:
        super().__init__(name, f"{_HOME}/usr/bin/python3", serial)

    def words(self, command: str) -> list[str]:
        """Return the words of an adb call that has the app's shell run `command`."""
        return self.shell(f"run-as {APP} sh -c {shlex.quote(command)}")

    def shell(self, command: str) -> list[str]:
        """Return the words of an adb call that has the phone's shell run `command` as adb's own user."""
        return ["adb", "-s", self.host, "shell", "-T", command]

    def lost(self, status: int, said: str) -> str | None:
        """Return why there is no connection, if that is what an exit status and a complaint mean."""
        if status == 1 and said.startswith(_LOST):
            return f"the connection to {self.host} was lost; adb said: {said}"
        return None

    def read(self, command: str) -> str:
        """Return what a command of adb's own user prints; nothing if it fails."""
        return _run(self.shell(command)).stdout


class AdbDriver(BoardDriver):
    """Runs scripts on a phone."""

    def __init__(self, profile: DeviceProfile) -> None:
        super().__init__(profile.name, f"{_HOME}/home/.cache/edgekd")
        self._serial = profile.adb.serial if profile.adb else None

    def connect(self) -> AdbConnection:
        """Return a connection to the phone, once adb lists it and Termux's Python answers.

        Raises:
            DeviceError: there is no adb here, no such phone, or no Python there.
        """
        connection = AdbConnection(self.name, self._choose())
        ran = _run(connection.words(f"exec {_HOME}/usr/bin/python3 --version"))
        if ran.returncode:
            connection.close()
            said = " ".join((ran.stderr or ran.stdout).split())[-300:]
            raise DeviceError(f"device {self.name}: no Python of Termux there: {_NEEDED}; adb said: {said}")
        return connection

    def wheels(self, interpreter: Interpreter) -> list[Path]:
        """Refuse: there are no wheels for Android's C library."""
        raise DeviceError(f"device {self.name}: {interpreter} lacks numpy or onnxruntime; {_NEEDED}")

    def probe(self) -> Facts:
        """Ask the phone what it is, how busy and how warm it is."""
        connection = self.connection
        assert isinstance(connection, AdbConnection)
        found: dict[str, Any] = connection.call("snapshot")
        names = " ".join(f"/{pattern}" for pattern in FILES if not pattern.startswith("proc/self/"))
        texts = connection.read(f'for f in {names}; do [ -r "$f" ] && echo "{_MARK}$f" && cat "$f"; done')
        model = connection.read(
            "getprop ro.product.manufacturer; getprop ro.product.model; getprop ro.soc.model"
        ).splitlines()
        files = {**found["files"], **split_files(texts), "proc/device-tree/model": " ".join(filter(None, model))}
        battery = connection.read("dumpsys battery")
        thermal = connection.read("dumpsys thermalservice")
        level = re.search(r"^\s*level: (\d+)", battery, re.MULTILINE)
        status = re.search(r"^\s*Thermal Status: (\d+)", thermal, re.MULTILINE)
        readings = {
            "temperatures_c": sensors(thermal, battery),
            "battery_percent": float(level[1]) if level else None,
            "android_thermal_status": int(status[1]) if status else None,
            # the app may see its own processes only
            "processes": processes(connection.read("cat /proc/[0-9]*/stat 2>/dev/null")) or found["processes"],
        }
        return facts_of({**found, **readings, "files": files})

    def read_power(self) -> PowerReading:
        """Read the battery's current and voltage, which the app may not."""
        connection = self.connection
        assert isinstance(connection, AdbConnection)
        return battery_power(connection.read(_POWER))

    def _choose(self) -> str:
        phones = list_phones(self.name)
        listed = ", ".join(f"{serial} ({state})" for serial, state in phones.items()) or "none"
        ready = [serial for serial, state in phones.items() if state == "device"]
        serial = self._serial or (ready[0] if len(ready) == 1 else None)
        if serial in ready:
            return serial
        if serial is None and len(ready) > 1:
            what = "several phones are connected: name one by `serial` in the section [adb] of the profile"
        elif "unauthorized" in phones.values():
            what = "unlock the phone and allow this machine to debug it"
        else:
            what = f"no phone {serial} is connected" if serial else "no phone is connected"
        raise DeviceError(f"device {self.name}: {what}; adb lists: {listed}")


def list_phones(name: str) -> dict[str, str]:
    """Return the state of each phone that adb knows, by serial number.

    Raises:
        DeviceError: there is no adb here, or it fails; `name` is the device's, for the message.
    """
    try:
        ran = _run(["adb", "devices"])
    except FileNotFoundError as error:
        raise DeviceError(
            f"device {name}: there is no adb on this machine; on Debian: apt-get install adb"
        ) from error
    if ran.returncode:
        raise DeviceError(f"device {name}: adb failed: {' '.join(ran.stderr.split())[-300:]}")
    rows = (line.split("\t") for line in ran.stdout.splitlines() if "\t" in line)
    return {serial: state.strip() for serial, state in rows}


def split_files(text: str) -> dict[str, str]:
    """Return the files, by their names without the leading slash, that a marked concatenation holds."""
    parts = (part.partition("\n") for part in ("\n" + text).split(f"\n{_MARK}/")[1:])
    return {name: content for name, _, content in parts}


def sensors(thermal: str, battery: str) -> dict[str, float]:
    """Return temperatures in degrees Celsius by sensor, from what Android's two services dump.

    Args:
        thermal: Of `dumpsys thermalservice`; of a sensor's values the last is the present one.
        battery: Of `dumpsys battery`, in tenths of a degree.
    """
    pairs = re.findall(r"Temperature\{mValue=(-?[\d.]+), mType=-?\d+, mName=([^,}]+)", thermal)
    found = {name: float(value) for value, name in pairs}
    tenths = re.search(r"^\s*temperature: (-?\d+)", battery, re.MULTILINE)
    return found | ({"battery": int(tenths[1]) / 10} if tenths else {})


def battery_power(text: str) -> PowerReading:
    """Return what a phone draws from its battery.

    Args:
        text: /proc/uptime; lines of `current` and micro amperes, of which the first with a number counts; and what
            `dumpsys battery` prints, with the voltage in mV.
    """
    uptime = re.match(r"([\d.]+) ", text)
    current = re.search(r"^current (-?\d+)$", text, re.MULTILINE)
    voltage = re.search(r"^\s*voltage: (\d+)", text, re.MULTILINE)
    status = re.search(r"^\s*status: (\d+)", text, re.MULTILINE)
    watts, source = None, "the battery: the whole phone"
    if status is None or status[1] != _DISCHARGING or re.search(r"powered: true", text):
        source = "the phone is on a charger, so its battery tells nothing; connect adb by Wi-Fi and unplug it"
    elif uptime is None or current is None or voltage is None:
        source = "the phone does not tell the battery's current to adb's user"
    else:
        watts = abs(int(current[1])) * int(voltage[1]) / 1e9
        if watts < _LEAST_W:
            watts, source = None, f"the battery's current, {current[1]}, cannot be in micro amperes"
    return PowerReading(at_s=float(uptime[1]) if uptime else 0.0, watts=watts, source=source)


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
    )
