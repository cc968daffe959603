"""A run's folder: every stage leaves one file there, made once and reused while nothing it depends on changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekd.artifact import find, store

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from edgekd.artifact import Artifact, Origin
    from edgekd.progress import Progress

RUNTIME_LIBRARIES = ("numpy", "onnx", "onnxruntime")  # whose versions matter where ONNX files are made or run


@dataclass(frozen=True, kw_only=True)
class Stages:
    """Makes or finds artifacts.

    Attributes:
        folder: Where they lie.
        extra: What every card holds for later stages, such as the input contract.
        progress: Hears what was reused.
    """

    folder: Path
    extra: Mapping[str, Any]
    progress: Progress

    def make(
        self,
        file: str,
        origin: Origin,
        make: Callable[[], tuple[bytes, dict[str, Any]]],
        *,
        elsewhere: Sequence[str] = (),
    ) -> Artifact:
        """Return the artifact of that origin, from the folder or made now.

        Args:
            file: Its place in the folder.
            origin: What it is made from.
            make: Gives its content and the metrics of its card.
            elsewhere: Other places where just this artifact may lie; it is then copied.
        """
        for place in (file, *elsewhere):
            found = find(self.folder / place, origin)
            if found is not None:
                self.progress.note(f"{origin.stage}: {place} is unchanged, reused")
                return found if place == file else self.copy(found, file, origin)
        content, metrics = make()
        return store(self.folder / file, content, origin, metrics=metrics, extra=self.extra)

    def copy(self, artifact: Artifact, file: str, origin: Origin) -> Artifact:
        """Return an artifact of that origin at another place of the folder, too."""
        found = find(self.folder / file, origin)
        if found is not None:
            return found
        content = artifact.path.read_bytes()
        return store(self.folder / file, content, origin, metrics=artifact.metrics, extra=artifact.extra)
