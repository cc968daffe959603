"""A run's folder: every stage leaves one file there, made once and reused while nothing it depends on changed.

Where several processes train together the main one alone writes; the others see what it wrote.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekd.artifact import find, locked_folder, store
from edgekd.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from edgekd.artifact import Artifact, Origin
    from edgekd.distillation.processes import Processes
    from edgekd.progress import Progress

RUNTIME_LIBRARIES = ("numpy", "onnx", "onnxruntime")  # whose versions matter where ONNX files are made or run


@dataclass(frozen=True, kw_only=True)
class Stages:
    """Makes or finds artifacts.

    Attributes:
        folder: Where they lie.
        extra: What every card holds for later stages, such as the input contract.
        processes: Who takes part.
        progress: Hears what was reused.
    """

    folder: Path
    extra: Mapping[str, Any]
    processes: Processes
    progress: Progress

    def make(
        self,
        file: str,
        origin: Origin,
        make: Callable[[], tuple[bytes, dict[str, Any]]],
        *,
        elsewhere: Sequence[str] = (),
        together: bool = False,
    ) -> Artifact:
        """Return the artifact of that origin, from the folder or made now.

        Args:
            file: Its place in the folder.
            origin: What it is made from.
            make: Gives its content and the metrics of its card.
            elsewhere: Other places where just this artifact may lie; it is then copied.
            together: Whether all processes make it; else the main one does, and the others wait.

        Raises:
            UsageError: the processes do not see the same data, code, packages or folder.
        """
        self._require_agreement(origin)
        reused = self.processes.on_main(lambda: self._find((file, *elsewhere), origin))
        if reused is not None:
            place, found = reused
            self.progress.note(f"{origin.stage}: {place} is unchanged, reused")
            return self._seen(found) if place == file else self.copy(found, file, origin)
        made = make() if together else None

        def keep() -> Artifact:
            content, metrics = made or make()
            return store(self.folder / file, content, origin, metrics=metrics, extra=self.extra)

        return self._seen(self.processes.on_main(keep))

    def _find(self, places: Sequence[str], origin: Origin) -> tuple[str, Artifact] | None:
        for place in places:
            found = find(self.folder / place, origin)
            if found is not None:
                return place, found
        return None

    def copy(self, artifact: Artifact, file: str, origin: Origin) -> Artifact:
        """Return an artifact of that origin at another place of the folder, too."""

        def copied() -> Artifact:
            found = find(self.folder / file, origin)
            if found is not None:
                return found
            content = artifact.path.read_bytes()
            return store(self.folder / file, content, origin, metrics=artifact.metrics, extra=artifact.extra)

        return self._seen(self.processes.on_main(copied))

    def _require_agreement(self, origin: Origin) -> None:
        told = self.processes.gathered(origin.to_json())
        for rank, other in enumerate(told):
            differing = sorted(key for key in other if other[key] != told[0][key])
            if differing:
                raise UsageError(
                    f"{origin.stage}: process {rank} sees other {' and '.join(differing)} than process 0; all "
                    "machines need the same data, code and packages"
                )

    def _seen(self, artifact: Artifact) -> Artifact:
        if not all(self.processes.gathered(artifact.path.exists())):
            raise UsageError(
                f"{artifact.path}: not all processes see this file of the main one; put the run's folder on a file "
                "system that all machines share, with -o"
            )
        return artifact


@contextmanager
def held_folder(folder: Path, processes: Processes) -> Iterator[None]:
    """Hold a run's folder for these processes alone; see `locked_folder`."""
    with ExitStack() as held:
        processes.on_main(lambda: held.enter_context(locked_folder(folder)))
        yield
