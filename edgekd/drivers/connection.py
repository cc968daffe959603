"""A connection to a board, through which its agent is called: what ssh and adb have in common."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, TypeVar

from edgekd.artifact import sha256_file
from edgekd.drivers import agent
from edgekd.errors import DeviceError, writing
from edgekd.temporary import temporary_room

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")

RECONNECT_S = 60.0
_NOT_FOUND = 127
_REFUSED: Final = ("Permission denied", "Host key verification failed", "Too many authentication failures")


class LostError(DeviceError):
    """The connection could not be made, or broke."""


class Connection(ABC):
    """Calls operations of the agent on a board.

    A broken connection is made again: every operation may be repeated, and runs go on without one.

    Attributes:
        program: The program of this machine that makes connections.
        name: The device's.
        host: What the program knows it by.
    """

    program: str

    def __init__(self, name: str, python: str, host: str) -> None:
        self.name = name
        self.host = host
        self._python = python
        self._agent = ""
        self._connected = False
        with temporary_room():
            self._private = Path(tempfile.mkdtemp(prefix="edgekd-link-"))

    @abstractmethod
    def words(self, command: str) -> list[str]:
        """Return the words of a call that has the board's shell run `command`."""

    @abstractmethod
    def lost(self, status: int, said: str) -> str | None:
        """Return why there is no connection, if that is what an exit status and a complaint mean."""

    def close(self) -> None:
        """Remove what this machine holds for the connection."""
        shutil.rmtree(self._private, ignore_errors=True)

    def install_agent(self, session: str) -> None:
        """Make the session's folder, relative to the home folder unless absolute, and put the agent there.

        Raises:
            DeviceError: the board cannot be reached or written.
        """
        place = f"{session}/agent.py"
        make = f"umask 077 && mkdir -p -- {shlex.quote(session)} && cat > {shlex.quote(place)}"
        script = f"{make} || {{ rm -rf -- {shlex.quote(session)}; exit 1; }}"
        with Path(agent.__file__).open("rb") as source:
            status, _, said = self._run(f"exec sh -c {shlex.quote(script)}", source)
        if status:
            raise DeviceError(f"device {self.name}: cannot write {session} there: {said or f'exit status {status}'}")
        self._agent = place

    def remove(self, session: str) -> None:
        """Remove a session's folder without the agent's help."""
        self._run(f"exec rm -rf -- {shlex.quote(session)}", None)

    def call(self, operation: str, *arguments: str, source: Path | None = None) -> dict[str, Any]:
        """Have the agent do something and return its answer.

        Args:
            operation: Its name; see `edgekd/drivers/agent.py`.
            arguments: Its arguments.
            source: A file for its standard input.

        Raises:
            DeviceError: it cannot be done, or the connection could not be made again.
        """
        return self._again(lambda: self._call(operation, arguments, source))

    def upload(self, source: Path, place: str) -> None:
        """Copy a file of this machine to the board.

        Raises:
            DeviceError: there is no space for it, or the connection could not be made again.
        """
        self.call("receive", place, str(source.stat().st_size), sha256_file(source), source=source)

    def download(self, place: str, destination: Path) -> None:
        """Copy a file of the board to this machine, whole or not at all.

        Raises:
            DeviceError: there is no such file, or the connection could not be made again.
            OutputError: the destination cannot be written.
        """
        self._again(lambda: self._download(place, destination))

    def _again(self, attempt: Callable[[], T]) -> T:
        deadline, pause_s = time.monotonic() + RECONNECT_S, 0.5
        while True:
            try:
                return attempt()
            except LostError as error:
                refused = any(words in str(error) for words in _REFUSED)
                if not self._connected or refused or time.monotonic() + pause_s > deadline:
                    raise
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 8.0)

    def _call(self, operation: str, arguments: Sequence[str], source: Path | None) -> dict[str, Any]:
        command = self._agent_command(operation, arguments)
        if source is None:
            status, output, said = self._run(command, None)
        else:
            with source.open("rb") as stream:
                status, output, said = self._run(command, stream)
        return self._answer(operation, output.splitlines()[-1:], status, said)

    def _download(self, place: str, destination: Path) -> None:
        command = self.words(self._agent_command("send", [place]))
        partial = destination.with_name(destination.name + ".partial")
        digest, found = hashlib.sha256(), 0
        with writing(destination), partial.open("wb") as target, (self._private / "said").open("w+b") as said:
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said)  # noqa: S603
            with child:
                assert child.stdout is not None
                lines = iter(child.stdout.readline, b"")
                head = next((line for line in lines if line.startswith(b"{")), b"")  # a login may print a greeting
                for piece in iter(lambda: child.stdout.read(1 << 20), b""):  # type: ignore[union-attr]
                    target.write(piece)
                    digest.update(piece)
                    found += len(piece)
            text = _words(said)
        try:
            self._check(child.returncode, text)
            expected = self._answer("send", [head] if head else [], child.returncode, text)
            if found != expected["size"] or digest.hexdigest() != expected["sha256"]:
                raise LostError(f"device {self.name}: {found} of {expected['size']} bytes of {place} arrived")
            with writing(destination):
                partial.replace(destination)
        finally:
            partial.unlink(missing_ok=True)

    def _check(self, status: int, said: str) -> None:
        why = self.lost(status, said)
        if why is not None:
            raise LostError(f"device {self.name}: {why}")

    def _answer(self, operation: str, lines: Sequence[bytes], status: int, said: str) -> dict[str, Any]:
        content: dict[str, Any] | None = None
        with suppress(IndexError, ValueError):
            content = json.loads(lines[0])
        if content is not None and "error" in content:
            self._raise(content["error"])
        if content is not None and status == 0:
            return content
        if status == _NOT_FOUND:
            raise DeviceError(
                f"device {self.name}: no command {self._python!r} there; it needs Python 3.9 or newer, named by "
                "`python` in the profile"
            )
        raise DeviceError(f"device {self.name}: {operation} failed with exit status {status}; it said: {said}")

    def _raise(self, error: dict[str, str]) -> None:
        message = error["message"]
        if error["kind"] == "damaged":
            raise LostError(f"device {self.name}: {message}")
        if error["kind"] == "space":
            raise DeviceError(
                f"device {self.name}: no space left there: {message}; free some or name another folder in its profile"
            )
        raise DeviceError(f"device {self.name}: {message}")

    def _agent_command(self, operation: str, arguments: Sequence[str]) -> str:
        words = [self._python, self._agent, operation, *arguments]
        return "exec " + " ".join(shlex.quote(word) for word in words)

    def _run(self, command: str, source: IO[bytes] | None) -> tuple[int, bytes, str]:
        """Run a command there; return its exit status, what it printed, and what it complained of."""
        words = self.words(command)
        # A file, not a pipe: the shared connection keeps it open when this command has ended.
        with (self._private / "said").open("w+b") as said:
            try:
                ran = subprocess.run(  # noqa: S603
                    words, stdin=source or subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said, check=False
                )
            except FileNotFoundError as error:
                raise DeviceError(f"device {self.name}: there is no {self.program} on this machine") from error
            text = _words(said)
        self._check(ran.returncode, text)
        self._connected = True
        return ran.returncode, ran.stdout, text


def _words(stream: IO[bytes]) -> str:
    stream.seek(0)
    return " ".join(stream.read().decode(errors="replace").split())[-1000:]
