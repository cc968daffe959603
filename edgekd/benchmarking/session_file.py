"""A session's settings as a file, `edgekd.session/1`: what `bench --tune` finds, in onnxruntime's words."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgekd.artifact import read_json
from edgekd.benchmarking.plan import MOST_THREADS, Session
from edgekd.errors import DataError
from edgekd.text import nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEMA: Final = "edgekd.session/1"
LEVELS: Final = ("all", "extended", "basic", "none")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a session is opened with.

    Attributes:
        threads: Intra-op threads; 0 leaves their number to onnxruntime: one for each physical core.
        session: The other options.
    """

    threads: int = 0
    session: Session = field(default_factory=Session)

    def to_json(self) -> dict[str, int | bool | str]:
        """Return it in onnxruntime's words."""
        return {
            "intra_op_num_threads": self.threads,
            "intra_op_spinning": self.session.spinning,
            "enable_cpu_mem_arena": self.session.arena,
            "graph_optimization_level": self.session.optimization,
        }


DEFAULT: Final = Setting()  # onnxruntime's own


def session_file(settings: Mapping[str, Any], *, device: str, model: str, sha256: str) -> dict[str, Any]:
    """Return the form `edgekd.session/1` of settings that were found for a model on a device."""
    return {"schema": SCHEMA, "device": device, "model": {"path": model, "sha256": sha256}, "session": dict(settings)}


def read_session(path: str | Path) -> Setting:
    """Read a file in the form `edgekd.session/1`; a setting that it leaves out is onnxruntime's own.

    Raises:
        DataError: it cannot be read, or is not in that form; the message names the key.
    """
    settings = read_json(Path(path), SCHEMA, "session file").get("session")
    if not isinstance(settings, dict):
        raise DataError(f"{path}: session: expected an object with {', '.join(DEFAULT.to_json())}")
    return _setting(str(path), settings)


def _setting(path: str, settings: Mapping[str, Any]) -> Setting:
    known = DEFAULT.to_json()
    for name, value in settings.items():
        if name not in known:
            raise DataError(f"{path}: session: unknown key {name!r}{nearest(name, known)}; known: {', '.join(known)}")
        if type(value) is not type(known[name]):
            kind = {int: "a whole number", bool: "true or false", str: "a word"}[type(known[name])]
            raise DataError(f"{path}: session.{name}: expected {kind}, found {value!r}")
    found: dict[str, Any] = {**known, **settings}
    threads, level = found["intra_op_num_threads"], found["graph_optimization_level"]
    if not 0 <= threads <= MOST_THREADS:
        raise DataError(f"{path}: session.intra_op_num_threads: expected 0 to {MOST_THREADS}, found {threads}")
    if level not in LEVELS:
        near = nearest(level, LEVELS)
        raise DataError(
            f"{path}: session.graph_optimization_level: expected one of {', '.join(LEVELS)}, found {level!r}{near}"
        )
    session = Session(arena=found["enable_cpu_mem_arena"], spinning=found["intra_op_spinning"], optimization=level)
    return Setting(threads=threads, session=session)
