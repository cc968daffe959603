"""The verb: a teacher, a student and terms brought together, and trained."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from edgekd.artifact import library_versions
from edgekd.data.opening import open_data
from edgekd.data.torch_data import Views
from edgekd.data.transfer import WithUnlabelled
from edgekd.distillation.cache import StoredAnswers, store_answers
from edgekd.distillation.objective import TeacherObjective
from edgekd.distillation.onnx_teacher import OnnxTeacher
from edgekd.distillation.peers import PeerObjective, asked_once, best_of
from edgekd.distillation.running import best_device, placed, run_logits
from edgekd.distillation.taps import require_samples_first, tapped
from edgekd.distillation.teacher import TorchTeacher
from edgekd.distillation.terms import build_term
from edgekd.distillation.training import Augmentation, check_seed, open_labelled, train_network, training_batches
from edgekd.errors import DataError, ModelError, UsageError
from edgekd.progress import SILENT, Progress
from edgekd.recipe import DistillSettings
from edgekd.terms import DkdTerm
from edgekd.text import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from os import PathLike

    from numpy.typing import NDArray

    from edgekd.data.samples import Samples
    from edgekd.data.torch_data import TensorBatch
    from edgekd.distillation.state import Checkpoints, Epoch
    from edgekd.distillation.taps import Taps
    from edgekd.distillation.teacher import Ask, Teacher
    from edgekd.distillation.terms import Shape, Term
    from edgekd.distillation.training import Trained


def distill(
    student: nn.Module,
    teacher: nn.Module | Teacher | str | PathLike[str],
    train: Samples | Mapping[str, NDArray[Any]],
    validation: Samples | Mapping[str, NDArray[Any]],
    *,
    transfer: Samples | Mapping[str, NDArray[Any]] | None = None,
    peers: Sequence[nn.Module] = (),
    settings: DistillSettings | None = None,
    augmentation: Augmentation | None = None,
    seed: int = 0,
    checkpoints: Checkpoints | None = None,
    cache_folder: str | PathLike[str] | None = None,
    cache_is_own: bool = False,
    after_epoch: Callable[[Sequence[Epoch]], None] | None = None,
    title: str = "distil the student",
    progress: Progress = SILENT,
) -> Trained:
    """Train a student on the answers of a teacher and on the labels.

    The teacher is frozen and in eval mode meanwhile; its own state is restored afterwards. Nothing of it, and
    nothing of what terms learn themselves, gets into the student.

    Args:
        student: Takes float32 (N, ...), gives logits (N, classes). It is trained in place.
        teacher: A torch module likewise, with the same classes; an ONNX file that takes what the student takes; or
            any other `edgekd.distillation.teacher.Teacher`.
        train: Samples with labels: one array of inputs, and `labels` (N,); or (N, classes) of 0 and 1 where classes
            occur together: `ce` is then the binary cross-entropy, a sample right where all of its classes are.
        validation: Says which epoch was best.
        transfer: Further samples: terms of the teacher's answers learn from them, cross-entropy does not. Labels,
            if there are any, are ignored.
        peers: The other students where `settings.peers` train together, each with first weights of its own. They are
            trained in place, too; what is returned may be one of them.
        settings: How to train; the defaults of the recipe's `[distill]`.
        augmentation: Of the training images; none by default.
        seed: Of the order of samples and of the augmentation.
        checkpoints: Where to save and resume; by default nothing is saved.
        cache_folder: Where `settings.cache` stores the teacher's answers, unless it names a path itself.
        cache_is_own: Answers to other questions in `cache_folder` are thrown away; by default they are an error.
        after_epoch: Called after each epoch with all of them so far; what it raises ends the training.
        title: What the progress is called.
        progress: Listener.

    Raises:
        DataError: no labels, labels that are no class of the model, several inputs, or NaN in the data; or the cache
            folder holds answers to other questions (`OtherAnswersError`).
        ModelError: the models do not fit the data or each other, their code fails, or the training diverged. The
            student then has the weights of its best epoch.
        UsageError: the seed is out of range, a tap is not there, there is no folder for the cache, networks share
            parameters, or there are transfer samples and no term that reads the teacher's answers.
    """
    settings = settings or DistillSettings()
    augmentation = augmentation or Augmentation()
    check_seed(seed)
    samples, labelled = _learnt_from(train, transfer, settings)
    if len(peers) != settings.peers - 1:
        raise UsageError(
            f"distill.peers = {settings.peers}: give {counted(settings.peers - 1, 'student')} besides the first as "
            f"`peers`, found {len(peers)}"
        )
    _check_apart((student, *peers, *([teacher] if isinstance(teacher, nn.Module) else [])))
    asked = _teacher(teacher)
    if settings.cache is not None:
        folder = settings.cache.path or cache_folder
        if folder is None:
            raise UsageError("distill.cache: say where the answers go, with cache_folder or distill.cache.path")
        own = cache_is_own and settings.cache.path is None
        asked, augmentation = stored_answers(
            asked, samples, settings, augmentation, Path(folder), replaces=own, progress=progress
        )
    probe = next(training_batches(samples, settings, augmentation, seed).view(0, 0, 2, 2))
    with _objectives([student, *peers], asked, probe, settings, labelled=labelled, seed=seed) as objectives:
        trained = train_network(
            student,
            samples,
            validation,
            PeerObjective(objectives, peers, settings.precision) if peers else objectives[0],
            settings=settings,
            augmentation=augmentation,
            seed=seed,
            checkpoints=checkpoints,
            after_epoch=after_epoch,
            title=title,
            progress=progress,
        )
    return best_of(trained, peers, open_labelled(validation))


def _learnt_from(
    train: Samples | Mapping[str, NDArray[Any]],
    transfer: Samples | Mapping[str, NDArray[Any]] | None,
    settings: DistillSettings,
) -> tuple[Samples, int | None]:
    """Return the samples of a training, and how many of them, the first ones, have labels; None: all."""
    samples, labelled = open_labelled(train), None
    if transfer is not None:
        if not any(term.asks_teacher for term in settings.loss_terms()):
            raise UsageError("transfer samples teach by the teacher's word; no term of the loss reads it")
        labelled = len(samples)
        samples = WithUnlabelled(labelled=samples, unlabelled=open_data(transfer, inputs=()))
    _check_labels(samples, settings)
    return samples, labelled


@contextmanager
def _objectives(
    networks: Sequence[nn.Module],
    teacher: Teacher,
    probe: TensorBatch,
    settings: DistillSettings,
    *,
    labelled: int | None,
    seed: int,
) -> Iterator[list[TeacherObjective]]:
    """Give what each network learns from, while the teacher is ready and the networks are tapped on the device.

    Args:
        networks: The student, and its peers.
        teacher: Asked once for all of them.
        probe: Two samples, for the shapes of features.
        settings: What is to be learnt.
        labelled: How many samples have labels; None: all.
        seed: Of the first weights of what terms learn themselves.
    """
    device = best_device()
    inputs = probe.inputs.to(device)
    with ExitStack() as open_things:
        ready = teacher.ready(device, [theirs for _, theirs in settings.pairs])
        ask = asked_once(open_things.enter_context(ready))
        objectives = []
        for network in networks:
            open_things.enter_context(placed(network, device))
            taps = open_things.enter_context(tapped(network, _student_taps(settings)))
            terms = _terms(settings, network, taps, ask, inputs, probe.positions, seed)
            objectives.append(TeacherObjective(terms, ask, taps, settings.confidence, labelled, settings.places))
        yield objectives


def _check_apart(networks: Sequence[nn.Module]) -> None:
    """Refuse networks with parameters in common that are to be trained: a teacher would learn, or a student not."""
    seen: set[nn.Parameter] = set()
    for network in networks:
        own = {parameter for parameter in network.parameters() if parameter.requires_grad}
        if own & seen:
            raise UsageError(
                "teacher, student and peers share parameters; give each its own, such as copy.deepcopy(teacher), or "
                "freeze what they share with requires_grad_(False)"
            )
        seen |= own


def _check_labels(samples: Samples, settings: DistillSettings) -> None:
    """Refuse labels that occur together where a term asks for a sample's one class."""
    if samples.labels is None or samples.labels.ndim == 1:
        return
    asking = [f"the term {term.kind!r}" for term in settings.terms if isinstance(term, DkdTerm)]
    if settings.confidence.only_correct:
        asking.append("confidence.only_correct")
    if asking:
        raise DataError(f"{samples.name}: several classes a sample; {' and '.join(asking)} must know the one class")


def _teacher(teacher: nn.Module | Teacher | str | PathLike[str]) -> Teacher:
    if isinstance(teacher, nn.Module):
        return TorchTeacher(teacher)
    return OnnxTeacher(teacher) if isinstance(teacher, str | os.PathLike) else teacher


def stored_answers(
    teacher: nn.Module | Teacher | str | PathLike[str],
    train: Samples | Mapping[str, NDArray[Any]],
    settings: DistillSettings,
    augmentation: Augmentation,
    folder: Path,
    *,
    replaces: bool = False,
    progress: Progress = SILENT,
) -> tuple[StoredAnswers, Augmentation]:
    """Ask the teacher all that a training with `settings.cache` will ask it, unless the folder holds the answers.

    Args:
        teacher: See `distill`.
        train: Samples with labels.
        settings: Theirs are the taps, the number of views and their seed.
        augmentation: Of the training images.
        folder: Where the answers lie.
        replaces: Answers to other questions in it are thrown away.
        progress: Listener.

    Returns:
        A teacher of stored answers, and the augmentation that replays the views it was asked about.

    Raises:
        OtherAnswersError: the folder holds answers to other questions.
        ModelError: an answer is not finite, or beyond what float16 holds.
        OutputError: the folder cannot be written, or the disk has not that much space.
        UsageError: the settings have no cache.
    """
    if settings.cache is None:
        raise UsageError("distill.cache: there is none in the settings; DistillSettings(cache=CacheSettings())")
    asked, samples = _teacher(teacher), open_labelled(train)
    augmented = augmentation.crop_padding > 0 or augmentation.flip
    views = settings.cache.views if augmented else 1
    replayed = replace(augmentation, views=Views(views, settings.cache.seed))
    identity = {
        "data": samples.fingerprint,
        "augmentation": {
            "crop_padding": augmentation.crop_padding,
            "flip": augmentation.flip,
            "seed": settings.cache.seed if augmented else None,
        },
        "versions": library_versions(asked.libraries),
    }
    answers = store_answers(
        folder,
        asked,
        training_batches(samples, settings, replayed, settings.cache.seed),
        identity,
        taps=[theirs for _, theirs in settings.pairs],
        views=views,
        top_k=settings.cache.top_k,
        temperatures=_temperatures(settings),
        replace=replaces,
        device=best_device(),
        progress=progress,
    )
    return answers, replayed


def _temperatures(settings: DistillSettings) -> list[float]:
    """Return those at which the terms look at a teacher's answers, from 1 on: where the bound of a tail holds."""
    values = (
        getattr(term, name, None) for term in settings.loss_terms() for name in ("temperature", "temperature_end")
    )
    return sorted({value for value in values if value is not None and value >= 1}) or [1.0]


def check_terms(
    settings: DistillSettings,
    student: nn.Module,
    teacher: nn.Module | Teacher | str | PathLike[str],
    shape: tuple[int, ...],
) -> None:
    """See that all terms can be built: every tap is there, and the features of each pair can be compared.

    Args:
        settings: What is to be learnt.
        student: Untrained, or not.
        teacher: Likewise; see `distill`.
        shape: Of one sample.

    Raises:
        UsageError: a tap is not there.
        ModelError: features cannot be compared, or a model does not take samples of that shape.
    """
    device, inputs = torch.device("cpu"), torch.zeros(2, *shape)
    asked = _teacher(teacher)
    with (
        asked.ready(device, [pair[1] for pair in settings.pairs]) as ask,
        tapped(student, _student_taps(settings)) as taps,
    ):
        _terms(settings, student, taps, ask, inputs, torch.arange(2), 0)


def _terms(
    settings: DistillSettings,
    student: nn.Module,
    taps: Taps,
    ask: Ask,
    inputs: torch.Tensor,
    positions: torch.Tensor,
    seed: int,
) -> list[Term]:
    """Build the terms; where they compare features, find the shapes by a dry run of two samples in eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if not settings.pairs and not settings.places:
            return [build_term(term, []) for term in settings.loss_terms()]
        was_training = student.training
        student.eval()
        with torch.no_grad():
            classes = run_logits(student, inputs, "the student").shape[1]
        student.train(was_training)
        ours: list[Shape] = [tuple(found.shape) for found in taps.take()]
        theirs: list[Shape] = [tuple(found.shape) for found in ask(inputs, positions, 0).features]
        if len(theirs) != len(settings.pairs):
            raise ModelError(
                f"the teacher gives {counted(len(theirs), 'feature')}, distill.taps asks it for {len(settings.pairs)}"
            )
        paths = [*_student_taps(settings), *(tap for _, tap in settings.pairs)]
        require_samples_first(paths, [*ours, *theirs], len(inputs))
        shapes = list(zip(ours, theirs, strict=False))
        places = dict(zip(settings.places, ours[len(theirs) :], strict=True))
        return [build_term(term, shapes, places, classes) for term in settings.loss_terms()]


def _student_taps(settings: DistillSettings) -> list[str]:
    """Return where the student is looked at: its side of each pair, then the places of its own."""
    return [*(ours for ours, _ in settings.pairs), *settings.places]
