"""A teacher's answers on disk: asked once, looked up ever after.

A folder holds `header.json` and, for each view of the samples, shards: `.npy` files of fixed-size records, read by
their position, so that memory holds those of a batch. What a record holds and how far it is off: `answer_records.py`.

Augmentation is replayed, not stored: view v of a sample is drawn from (seed, v, position), so the student sees just
the pixels that the teacher answered for.

Header and shards are each moved into place when whole. A killed writer leaves shards that are missing, and nothing
worse: the next one fills those. A CRC-32 of its records follows them in each shard, and is compared before the first
answer is looked up: what a disk has damaged is asked again.
"""

from __future__ import annotations

import io
import json
import shutil
import zlib
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch

from edgekd.artifact import seal_of, write_bytes, write_json
from edgekd.data.array_file import PIECE_BYTES, ArrayFile
from edgekd.distillation.answer_records import Layout, records_of, restored_logits, tail_mass
from edgekd.distillation.processes import join
from edgekd.distillation.taps import require_samples_first
from edgekd.distillation.teacher import Answers
from edgekd.errors import DataError, OutputError, UsageError, reading, writing
from edgekd.progress import SILENT, Progress
from edgekd.text import counted, share

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from edgekd.data.torch_data import TrainingBatches
    from edgekd.distillation.teacher import Ask, Teacher

SCHEMA = "edgekd.cache/1"
SHARD_BYTES = 8_000_000
BATCH = 128  # samples the teacher is asked for at a time


class OtherAnswersError(DataError):
    """A folder holds a teacher's answers to other questions than those asked."""


class StoredAnswers:
    """A filled cache: a teacher that only looks up."""

    libraries = ("numpy",)

    def __init__(self, folder: Path, layout: Layout, identity: Mapping[str, Any]) -> None:
        self.fingerprint = str(identity["teacher"])
        self.layout = layout
        self._folder = folder
        self._taps = tuple(identity["taps"])
        self._offsets: dict[tuple[int, int], int] = {}  # of the records in shards that were found sound

    @contextmanager
    def ready(self, device: torch.device, taps: Sequence[str]) -> Iterator[Ask]:
        """Be ready to be asked for training samples by their positions; see `Teacher`."""
        if not {*taps} <= {*self._taps}:
            raise DataError(f"{self._folder}: holds the features {list(self._taps)}, wanted are {list(taps)}")
        wanted = [f"feature{self._taps.index(tap)}" for tap in taps]

        def ask(inputs: Tensor, positions: Tensor, epoch: int) -> Answers:  # noqa: ARG001
            records = self.records(positions.numpy(), epoch % self.layout.views)
            features = (records[name] for name in wanted)
            return Answers(
                torch.from_numpy(restored_logits(records, self.layout)).to(device),
                tuple(torch.from_numpy(found.astype(np.float32)).to(device) for found in features),
            )

        yield ask

    def records(self, positions: NDArray[np.int64], view: int) -> NDArray[np.void]:
        """Return the records of samples, of shape (n,)."""
        found = np.empty(len(positions), dtype=self.layout.dtype)
        starts = positions - positions % self.layout.rows
        for start in np.unique(starts):
            here = starts == start
            found[here] = self._shard(view, int(start))[positions[here] - start]
        if self.layout.top_k is not None and int(found["classes"].max(initial=0)) >= self.layout.classes:
            raise DataError(
                f"{self._folder}: a stored answer names class {found['classes'].max()} of {self.layout.classes}; "
                "delete this folder to ask the teacher again"
            )
        return found

    def tail_mass(self, temperature: float) -> tuple[float, float]:
        """Return mean and maximum, over all answers, of the restored tail's probability at a temperature."""
        if self.layout.top_k is None:
            return 0.0, 0.0
        total, largest = 0.0, 0.0
        for view, start in self.layout.shards():
            records = self._shard(view, start)[np.arange(self.layout.length(start))]
            mass = tail_mass(records, self.layout, temperature)
            total, largest = total + float(mass.sum()), max(largest, float(mass.max()))
        return total / (self.layout.samples * self.layout.views), largest

    def _shard(self, view: int, start: int) -> ArrayFile:
        """Open a shard for a batch: there may be more of them than files that a process may hold open."""
        path = _shard_path(self._folder, view, start)
        if (view, start) not in self._offsets:
            offset = _sound_shard(self._folder, self.layout, view, start)
            if offset is None:
                raise DataError(f"{path}: missing or damaged; run again to refill it")
            self._offsets[view, start] = offset
        with reading(path, DataError, "shard of stored answers"):
            file = path.open("rb", buffering=0)
        return ArrayFile(
            file,
            where=str(path),
            offset=self._offsets[view, start],
            dtype=self.layout.dtype,
            shape=(self.layout.length(start),),
        )


def store_answers(
    folder: Path,
    teacher: Teacher,
    batches: TrainingBatches,
    identity: Mapping[str, Any],
    *,
    taps: Sequence[str] = (),
    views: int = 1,
    top_k: int | None = None,
    temperatures: Sequence[float] = (1.0,),
    replace: bool = False,
    device: torch.device,
    progress: Progress = SILENT,
) -> StoredAnswers:
    """Return a teacher's answers for all training samples, from the folder or asked now.

    Once all are there, the teacher is not run. Of several processes each asks for its share.

    Args:
        folder: Where they lie; it is made.
        teacher: Who answers.
        batches: The training samples.
        identity: What else decides an answer, as JSON data: the data, the augmentation and its seed, versions.
        taps: Places whose features are stored, too. A folder that holds further ones will do.
        views: Augmentations of a sample.
        top_k: Store so many of the largest logits, and the tail; None: all logits.
        temperatures: Where it is told how much of the probability `top_k` leaves out.
        replace: Throw away answers to other questions.
        device: Where a torch teacher runs.
        progress: Listener.

    Raises:
        OtherAnswersError: the folder holds answers to other questions.
        ModelError: an answer is not finite, or beyond what float16 holds.
        OutputError: the folder cannot be written, or the disk has not that much space.
        UsageError: the processes do not see each other's answers.
    """
    wanted = {**identity, "teacher": teacher.fingerprint, "taps": list(taps), "views": views, "top_k": top_k}
    processes = join()
    progress = processes.heard(progress)
    layout, asked, missing = processes.on_main(lambda: _look(folder, wanted, replace))
    if layout is not None and not missing:
        progress.note(f"teacher cache: {_described(layout)}, complete; the teacher does not run")
    else:
        with teacher.ready(device, asked["taps"]) as ask:
            if layout is None:
                layout = processes.on_main(lambda: _plan(folder, asked, ask, batches, device))
                missing = layout.shards()
            needed = layout.count(missing) * layout.dtype.itemsize
            processes.on_main(lambda: _require_space(folder, needed))
            progress.note(f"teacher cache: {_described(layout)}; {needed / 1e6:.1f} MB of it to write")
            own = missing[processes.rank :: processes.size]
            _fill(folder, layout, own, missing, ask, batches, device, progress)
        processes.wait()
        if not all(processes.gathered(not _missing(folder, layout))):
            raise UsageError(
                f"{folder}: the processes do not see each other's answers; put this folder on a file system that all "
                "machines share, with distill.cache.path"
            )
    stored = StoredAnswers(folder, layout, asked)
    if layout.top_k is not None and processes.is_main:
        progress.note(_tail_told(stored, temperatures))
    return stored


def _look(
    folder: Path, wanted: dict[str, Any], replace: bool
) -> tuple[Layout | None, dict[str, Any], list[tuple[int, int]]]:
    """Return the layout of what the folder holds, what it answers, and the shards that are missing."""
    with writing(folder, "choose another folder"):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        layout, asked = _read_header(folder, wanted)
    except OtherAnswersError:
        if not replace:
            raise
        _clear(folder)
        layout, asked = None, wanted
    return layout, asked, [] if layout is None else _missing(folder, layout)


def _tail_told(stored: StoredAnswers, temperatures: Sequence[float]) -> str:
    layout = stored.layout
    told = []
    for temperature in temperatures:
        mean, largest = stored.tail_mass(temperature)
        told.append(f"{share(mean)} on average and {share(largest)} at most at temperature {temperature:g}")
    return (
        f"teacher cache: {layout.top_k} of {layout.classes} logits are stored; the others share "
        f"{', '.join(told)}. No stored answer is further than that from the teacher's (total variation)"
    )


def _plan(folder: Path, asked: Mapping[str, Any], ask: Ask, batches: TrainingBatches, device: torch.device) -> Layout:
    """Find out by a dry run of two samples what an answer looks like, and write the header."""
    probe = next(batches.view(0, 0, min(2, batches.samples), 2))
    answers = ask(probe.inputs.to(device), probe.positions, 0)
    require_samples_first(asked["taps"], [tuple(feature.shape) for feature in answers.features], len(probe.inputs))
    classes, top_k = answers.logits.shape[1], asked["top_k"]
    planned = Layout(
        samples=batches.samples,
        views=asked["views"],
        classes=classes,
        top_k=top_k if top_k is not None and top_k < classes else None,
        features=tuple(tuple(feature.shape[1:]) for feature in answers.features),
        rows=1,
    )
    rows = max(1, SHARD_BYTES // planned.dtype.itemsize // BATCH) * BATCH
    layout = Layout(**{**vars(planned), "rows": rows})
    header = {"schema": SCHEMA, "identity": dict(asked), "layout": layout.to_json()}
    write_json(folder / "header.json", {**header, "seal": seal_of(header)})
    return layout


def _fill(
    folder: Path,
    layout: Layout,
    own: Sequence[tuple[int, int]],
    missing: Sequence[tuple[int, int]],
    ask: Ask,
    batches: TrainingBatches,
    device: torch.device,
    progress: Progress,
) -> None:
    """Ask for this process's `own` shards of all that are `missing`, and write them."""
    there = layout.samples * layout.views - layout.count(missing)
    with progress.task("ask the teacher", there + layout.count(own), there) as task:
        for view, start in own:
            shard = np.empty(layout.length(start), dtype=layout.dtype)
            for batch in batches.view(view, start, start + len(shard), BATCH):
                answers = ask(batch.inputs.to(device), batch.positions, view)
                rows = batch.positions.numpy() - start
                shard[rows] = records_of(answers, layout)
                task.advance(len(rows))
            content = io.BytesIO()
            np.save(content, shard)
            content.write(_checksum(io.BytesIO(shard.tobytes()), shard.nbytes))
            write_bytes(_shard_path(folder, view, start), content.getbuffer())


def _read_header(folder: Path, asked: dict[str, Any]) -> tuple[Layout | None, dict[str, Any]]:
    """Return the layout of what the folder holds and what was asked for it, perhaps with further taps.

    If it holds nothing, there is no layout, and `asked` is what will be asked.
    """
    path = folder / "header.json"
    if not path.exists() and not any(folder.glob("*.npy")):
        return None, asked
    remedy = "delete this folder to ask the teacher again, or name another one with distill.cache.path"
    try:
        header = json.loads(path.read_bytes())
        seal, known = header.pop("seal"), header["schema"] == SCHEMA
        identity, layout = dict(header["identity"]), Layout.from_json(header["layout"])
        edited = seal != seal_of(header)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise OtherAnswersError(f"{path}: no header of stored answers; {remedy}") from error
    if edited:
        raise OtherAnswersError(f"{path}: this header of stored answers was edited; {remedy}")
    if {*asked["taps"]} <= {*identity.get("taps", ())}:
        asked = {**asked, "taps": identity["taps"]}
    differing = sorted(key for key in {*identity, *asked} if identity.get(key) != asked.get(key))
    if differing or not known:
        what = ", ".join(differing) or "the format"
        raise OtherAnswersError(f"{folder}: holds a teacher's answers to other questions ({what} differ); {remedy}")
    return layout, identity


def _clear(folder: Path) -> None:
    """Remove what a cache writes; the header goes last, so that a killed removal is still one of other answers."""
    for path in (*folder.glob("*.npy"), folder / "header.json"):
        with writing(path):
            path.unlink(missing_ok=True)


def _missing(folder: Path, layout: Layout) -> list[tuple[int, int]]:
    return [shard for shard in layout.shards() if _sound_shard(folder, layout, *shard) is None]


def _sound_shard(folder: Path, layout: Layout, view: int, start: int) -> int | None:
    """Return where the records begin in a shard; None if it is missing, damaged, or not of that layout."""
    with suppress(OSError, ValueError, EOFError), _shard_path(folder, view, start).open("rb") as file:
        if np.lib.format.read_magic(file) != (1, 0):
            return None
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        offset = file.tell()
        if dtype == layout.dtype and shape == (layout.length(start),):
            checksum = _checksum(file, layout.length(start) * dtype.itemsize)
            return offset if file.read(len(checksum) + 1) == checksum else None
    return None


def _checksum(file: BinaryIO, size: int) -> bytes:
    """Return the CRC-32 of the next `size` bytes of a file."""
    found = 0
    while size > 0 and (piece := file.read(min(size, PIECE_BYTES))):
        found, size = zlib.crc32(piece, found), size - len(piece)
    return found.to_bytes(4, "little")


def _shard_path(folder: Path, view: int, start: int) -> Path:
    return folder / f"{view:04d}-{start:09d}.npy"


def _require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(
            f"{folder}: the teacher's answers need {needed / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free; lower "
            "distill.cache.views, set distill.cache.top_k, or choose another disk with distill.cache.path"
        )


def _described(layout: Layout) -> str:
    views = f" x {layout.views} views" if layout.views > 1 else ""
    return (
        f"{counted(layout.samples, 'sample')}{views} of {layout.dtype.itemsize:,} bytes, "
        f"{layout.total_bytes / 1e6:.1f} MB"
    )
