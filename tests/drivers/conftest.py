"""A board: an ssh server of this machine on a loopback port, with throw-away keys."""

from __future__ import annotations

import getpass
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass
class Board:
    """An ssh server that the profile `board` reaches."""

    port: int
    server: int
    root: Path
    client: Path
    profiles: Path

    @property
    def folder(self) -> Path:
        """Where edgekd may write: a name that a careless shell would take apart."""
        return self.root / "it's $(touch pwned) a; folder"

    def profile(self, **settings: str | int) -> None:
        """Write the profile; `settings` are those of its section [ssh]."""
        values = {"python": sys.executable, "folder": str(self.folder)} | settings
        lines = [
            f"{key} = {value if isinstance(value, int) else chr(34) + value + chr(34)}"
            for key, value in values.items()
        ]
        self.profiles.mkdir(exist_ok=True)
        (self.profiles / "board.toml").write_text(
            'description = "a board"\ndriver = "ssh"\n[ssh]\n' + "\n".join(lines) + "\n"
        )

    def sessions(self) -> list[Path]:
        """What edgekd has left there."""
        return list(self.folder.glob("session-*"))

    def drop(self) -> None:
        """Break every connection."""
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if int((process / "stat").read_text().rpartition(")")[2].split()[1]) == self.server:
                    os.kill(int(process.name), signal.SIGKILL)
            except (OSError, ValueError):
                continue


def _key(path: Path) -> str:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path.with_name(path.name + ".pub").read_text()


@pytest.fixture(scope="session")
def server(
    needed: Callable[[str, Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[int, int, Path]]:
    program = needed("ssh", Path("/usr/sbin/sshd"))
    folder = tmp_path_factory.mktemp("sshd")
    (folder / "authorized").write_text(_key(folder / "user"))
    _key(folder / "host")
    _key(folder / "other")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\n"
        f"PidFile {folder}/pid\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nMaxStartups 100\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    with (folder / "log").open("wb") as log:
        child = subprocess.Popen([program, "-D", "-e", "-f", folder / "sshd_config"], stderr=log)
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        else:
            pytest.fail((folder / "log").read_text())
        yield port, child.pid, folder
    finally:
        child.terminate()
        child.wait()


@pytest.fixture
def board(server: tuple[int, int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Board]:
    port, pid, keys = server
    client = tmp_path / "client"
    client.mkdir()
    (client / "known_hosts").write_text(f"[127.0.0.1]:{port} {(keys / 'host.pub').read_text()}")
    (client / "config").write_text(
        f"Host board\n  HostName 127.0.0.1\n  Port {port}\n  User {getpass.getuser()}\n"
        f"  IdentityFile {keys}/user\n  IdentitiesOnly yes\n  UserKnownHostsFile {client}/known_hosts\n"
        f"  GlobalKnownHostsFile /dev/null\n  IdentityAgent none\n"
    )
    ssh = client / "ssh"  # the user's configuration, for the time of a test
    ssh.write_text(f'#!/bin/sh\nexec /usr/bin/ssh -F {client}/config "$@"\n')
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{client}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("EDGEKD_DEVICES", str(tmp_path / "profiles"))
    found = Board(port=port, server=pid, root=tmp_path / "board", client=client, profiles=tmp_path / "profiles")
    found.root.mkdir()
    found.profile()
    yield found
    assert found.sessions() == []
    assert not (Path.home() / "pwned").exists()
