"""What the drivers of boards and phones have in common: Python 3.9 there is enough, and no internet.

All that edgekd brings lies in one folder and is removed at the end. Runs go on while a connection is lost.
"""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from edgekd.drivers.connection import Connection, LostError
from edgekd.drivers.host import facts_of
from edgekd.drivers.local import describe_signal
from edgekd.drivers.protocol import Facts, Finished, PowerReading
from edgekd.drivers.wheels import Interpreter, fetch_wheels
from edgekd.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

_WAIT_S: Final = 30.0
_SHELL_SIGNAL = 128  # a shell's exit status for a child that a signal ended


class BoardDriver(ABC):
    """Runs scripts on a board, in a private folder."""

    emulated = False
    on_this_machine = False

    def __init__(self, name: str, folder: str) -> None:
        self.name = name
        self._base = folder.removeprefix("~/").rstrip("/") or "/"  # a relative path is below the home folder
        self._connection: Connection | None = None
        self._session = ""
        self._packages = ""
        self._pushed: dict[tuple[str, int, int], str] = {}
        self._board: dict[str, Any] = {}

    @abstractmethod
    def connect(self) -> Connection:
        """Return a connection, not yet made."""

    def wheels(self, interpreter: Interpreter) -> list[Path]:
        """Return wheels of numpy and onnxruntime for the board's Python."""
        return fetch_wheels(interpreter)

    def __enter__(self) -> Self:
        try:
            self.prepare()
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._close()
        except DeviceError as failure:
            if error is None:
                raise
            error.add_note(str(failure))

    @property
    def connection(self) -> Connection:
        """The open connection."""
        if self._connection is None:
            raise ValueError("a driver is used within its with block")
        return self._connection

    def prepare(self) -> None:
        """Make the private folder there, and bring numpy and onnxruntime if the board's Python lacks them.

        Raises:
            DeviceError: the board cannot be reached, or its Python is too old or has no wheels.
        """
        if self._session:
            return
        self._connection = self.connect()
        session = f"{self._base}/session-{uuid.uuid4().hex}"
        self.connection.install_agent(session)
        self._session = session
        self._board = self.connection.call("open", session)
        self._session = self._board["session"]
        if self._board["has_packages"]:
            return
        kept = self._kept_packages()
        if self.connection.call("exists", kept)["exists"]:
            self._packages = kept
        else:
            self._bring_packages()

    def install(self) -> str:
        """Keep numpy and onnxruntime on the board, for later sessions; return where they are."""
        if self._board["has_packages"]:
            return f"{self.name}: its Python has numpy and onnxruntime, there is nothing to bring"
        kept = self._kept_packages()
        if self._packages != kept:
            self.connection.call("move", self._packages, kept)
            self._packages = kept
        return f"{self.name}: numpy and onnxruntime are kept there in {kept}; remove that folder to be rid of them"

    def push(self, source: Path, companions: Sequence[str] = ()) -> str:
        """Copy a file, and what it needs beside it, to a folder of its own there; once, while it does not change."""
        status = source.stat()
        key = (str(source.resolve()), status.st_size, status.st_mtime_ns)
        if key not in self._pushed:
            folder = f"{self._session}/files/{len(self._pushed)}"
            for name in companions:
                self.connection.upload(source.parent / name, f"{folder}/{name}")
            self.connection.upload(source, f"{folder}/{source.name}")
            self._pushed[key] = f"{folder}/{source.name}"
        return self._pushed[key]

    def run(self, script: str, arguments: Sequence[str]) -> Finished:
        """Run a pushed script detached from the connection, and sleep until it is over.

        Raises:
            DeviceError: it was killed or crashed, or the connection could not be made again in a minute.
        """
        run = f"{self._session}/runs/{uuid.uuid4().hex}"
        self.connection.call("start", run, f"{self._session}/scratch", self._packages, script, *arguments)
        state = {"over": False}
        while not state["over"]:
            state = self.connection.call("wait", run, str(_WAIT_S))
        return self._finish(state)

    def pull(self, name: str, destination: Path) -> None:
        """Copy the file `name` out of the private folder."""
        self.connection.download(f"{self._session}/scratch/{name}", destination)

    def probe(self) -> Facts:
        """Ask the board what it is and how busy it is."""
        return facts_of(self.connection.call("snapshot"))

    def read_power(self) -> PowerReading | None:
        """Return nothing: programs of the board read its sensors themselves."""
        return None

    def _finish(self, state: dict[str, Any]) -> Finished:
        last, log = state["last"], state["log"]
        said = f"; it said: {log}" if log else ""
        if last is None or last["event"] != "end":
            when = f" after {last['seconds']:.0f} s" if last else ""
            available = f", {last['MemAvailable'] // 1024} MB were free" if last and "MemAvailable" in last else ""
            raise DeviceError(
                f"device {self.name}: the run ended without an end mark (last sign of life{when}{available}): the "
                f"board probably ran out of memory, or was restarted{said}"
            )
        status = last["status"]
        if status == _SHELL_SIGNAL + 9:
            status = -9
        if status < 0:
            raise DeviceError(f"device {self.name}: {describe_signal(-status)}{said}")
        return Finished(exit_code=status, log=log)

    def _kept_packages(self) -> str:
        major, minor = self._board["python"]
        return f"{Path(self._session).parent.as_posix()}/packages-cp{major}{minor}"

    def _bring_packages(self) -> None:
        major, minor = self._board["python"]
        interpreter = Interpreter(
            python=(major, minor), machine=self._board["machine"], glibc_minor=self._board["glibc_minor"]
        )
        wheels = [self.push(wheel) for wheel in self.wheels(interpreter)]
        place = f"{self._session}/packages"
        self.connection.call("unpack", place, *wheels)
        self._packages = place

    def _close(self) -> None:
        connection, session = self._connection, self._session
        self._connection, self._session = None, ""
        self._pushed.clear()
        if connection is None:
            return
        try:
            if session:
                _remove(connection, session)
        finally:
            connection.close()


def _remove(connection: Connection, session: str) -> None:
    try:
        left = connection.call("close", session)["left"]
    except LostError:
        raise
    except DeviceError:  # there is no Python that runs the agent
        connection.remove(session)
        return
    if left:
        raise DeviceError(f"device {connection.name}: the folder {session} there could not be removed")
