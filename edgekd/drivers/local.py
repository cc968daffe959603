"""The driver of the machine edgekd runs on: a fresh child process for every run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

from edgekd.drivers.host import read_facts
from edgekd.drivers.protocol import Facts, Finished, PowerReading
from edgekd.errors import DeviceError, writing
from edgekd.temporary import temporary_room

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from edgekd.devices import DeviceProfile

_LOG_TAIL_CHARACTERS = 2000
_BOUND_CHILD = Path(__file__).with_name("bound_child.py")


class LocalDriver:
    """Runs scripts with this process's own interpreter, in a temporary folder."""

    emulated = False
    on_this_machine = True

    def __init__(self, profile: DeviceProfile) -> None:
        self.name = profile.name
        self._folder: Path | None = None

    def __enter__(self) -> Self:
        try:
            self.prepare()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def _remove(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    @property
    def folder(self) -> Path:
        """The private folder."""
        if self._folder is None:
            raise ValueError("a driver is used within its with block")
        return self._folder

    def prepare(self) -> None:
        """Make the private folder; this interpreter has onnxruntime, which edgekd depends on.

        Raises:
            OutputError: the system's temporary folder cannot be written.
        """
        if self._folder is None:
            with temporary_room():
                self._folder = Path(tempfile.mkdtemp(prefix="edgekd-"))

    def install(self) -> str:
        """Return that there is nothing to install."""
        return f"{self.name}: nothing to prepare, {sys.executable} runs edgekd already"

    def interpreter(self) -> list[str]:
        """Return the beginning of a command that runs a Python script."""
        # -P: modules beside the script, such as our statistics.py, must not shadow the standard library's.
        # Not -I: it would also hide packages that were installed with pip --user.
        return [sys.executable, "-P"]

    def environment(self) -> dict[str, str]:
        """Return the environment variables of a run."""
        # ORT_DISABLE_TELEMETRY only counts before onnxruntime is imported: the child must be born with it.
        return {"ORT_DISABLE_TELEMETRY": "1", **os.environ}

    def push(self, source: Path, companions: Sequence[str] = ()) -> str:  # noqa: ARG002
        """Return the file's own absolute path: it is on this machine already, with whatever lies beside it."""
        return str(source.resolve())

    def run(self, script: str, arguments: Sequence[str]) -> Finished:
        """Run `script` in a fresh process and sleep until it ends.

        Raises:
            DeviceError: the process cannot be started, was killed or crashed.
        """
        log = self.folder / "log.txt"
        with temporary_room(), log.open("wb") as stream:
            command = [*self.interpreter(), script, *arguments]
            status = _wait(command, self.folder, stream.fileno(), self.environment())
        text = log.read_text(encoding="utf-8", errors="replace")[-_LOG_TAIL_CHARACTERS:].strip()
        if status < 0:
            raise DeviceError(f"device {self.name}: {describe_signal(-status)}{text and f'; it said: {text}'}")
        return Finished(exit_code=status, log=text)

    def pull(self, name: str, destination: Path) -> None:
        """Copy the file `name` out of the private folder.

        Raises:
            DeviceError: there is no such file.
            OutputError: the destination cannot be written.
        """
        source = self.folder / name
        if not source.is_file():
            raise DeviceError(f"device {self.name}: the run left no file {name}")
        with writing(destination):
            shutil.copyfile(source, destination)

    def probe(self) -> Facts:
        """Read this machine's facts."""
        return read_facts()

    def read_power(self) -> PowerReading | None:
        """Return nothing: programs of this machine read its sensors themselves."""
        return None


def _wait(command: Sequence[str], folder: Path, output: int, environment: Mapping[str, str]) -> int:
    if sys.platform == "linux":
        command = [sys.executable, "-I", "-S", str(_BOUND_CHILD), str(os.getpid()), *command]
    try:
        child = subprocess.Popen(  # noqa: S603 - our own interpreter and script
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment
        )
    except OSError as error:
        raise DeviceError(f"cannot start {command[0]}: {error.strerror or error}") from error
    try:
        return child.wait()  # without a timeout this sleeps in the kernel; with one it would poll
    except BaseException:
        child.kill()
        child.wait()
        raise


def describe_signal(number: int) -> str:
    """Return what became of a process that this signal ended."""
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    if name == "SIGKILL":
        return "the process was killed (SIGKILL); the system probably ran out of memory"
    return f"the process crashed or was stopped ({name})"
