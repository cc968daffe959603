"""The driver of boards that are reached by the system's own ssh, with the user's configuration, keys and agent."""

from __future__ import annotations

import shlex
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from edgekd.drivers.board import BoardDriver
from edgekd.drivers.connection import Connection

if TYPE_CHECKING:
    from edgekd.devices import DeviceProfile, SshSettings

_LONGEST_SOCKET = 80  # of the 104 bytes that every system allows, less what ssh appends while it makes one
_TRANSPORT_FAILED = 255  # ssh(1), exit status
_OPTIONS: Final = {
    "BatchMode": "yes",  # never ask for a password or a passphrase
    "ConnectTimeout": "15",
    "ServerAliveInterval": "5",
    "ServerAliveCountMax": "3",
    "ControlMaster": "auto",
    "ControlPersist": "60",
    "ClearAllForwardings": "yes",
    "ForwardX11": "no",
    "RequestTTY": "no",
    "RemoteCommand": "none",
    "LogLevel": "ERROR",
}


class SshConnection(Connection):
    """A shared connection (ControlMaster) of this session alone."""

    program = "ssh"

    def __init__(self, name: str, settings: SshSettings) -> None:
        super().__init__(name, settings.python, settings.host or name)
        self._settings = settings

    def close(self) -> None:
        """End the shared connection and remove its socket."""
        with suppress(OSError):
            command = [*self._ssh("-O", "exit"), "--", self.host]
            subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)  # noqa: S603
        super().close()

    def words(self, command: str) -> list[str]:
        """Return the words of the ssh call that has the board's shell run `command`."""
        return [*self._ssh(), "--", self.host, command]

    def lost(self, status: int, said: str) -> str | None:
        """Return why there is no connection, if that is what an exit status means."""
        return self._explain(said) if status == _TRANSPORT_FAILED else None

    def _ssh(self, *more: str) -> list[str]:
        socket = str(self._private / "s")
        options = {**_OPTIONS, "ControlPath": '"' + socket.replace("%", "%%") + '"'}
        if len(socket) > _LONGEST_SOCKET:
            options |= {"ControlMaster": "no", "ControlPath": "none"}  # slower: each call logs in anew
        words = ["ssh", *(f"-o{key}={value}" for key, value in options.items()), *more]
        if self._settings.port is not None:
            words += ["-p", str(self._settings.port)]
        if self._settings.user is not None:
            words += ["-l", self._settings.user]
        return words

    def _explain(self, said: str) -> str:
        advice = ""
        if "REMOTE HOST IDENTIFICATION HAS CHANGED" in said:
            advice = f"; its key is another than before: find out why, then: ssh-keygen -R {shlex.quote(self.host)}"
            said = "Host key verification failed"
        elif "Host key verification failed" in said:
            advice = f"; its key is not known here yet: connect once by hand: ssh {shlex.quote(self.host)}"
        elif "Permission denied" in said:
            advice = "; edgekd never asks for a password: use a key that ssh finds by itself, or an agent"
        return f"cannot connect to {self.host}: {said or 'the connection was lost'}{advice}"


class SshDriver(BoardDriver):
    """Runs scripts on a board that is reached by ssh."""

    def __init__(self, profile: DeviceProfile) -> None:
        from edgekd.devices import SshSettings  # pydantic: not before a profile has been read

        settings = profile.ssh or SshSettings()
        super().__init__(profile.name, settings.folder)
        self._settings = settings

    def connect(self) -> SshConnection:
        """Return a connection, not yet made."""
        return SshConnection(self.name, self._settings)
