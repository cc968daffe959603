"""Golden vectors: inputs, what a model answers to them on a target's own kernels, and how far off is still right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekd.artifact import sha256_file
from edgekd.benchmarking.answers import device_answers
from edgekd.data.samples import ArraySamples
from edgekd.devices import load_profile
from edgekd.drivers import open_driver
from edgekd.errors import DataError, ModelError, UsageError
from edgekd.inference import feed, fixed_batch, open_samples
from edgekd.quantization.synthetic import synthetic_samples
from edgekd.runtime import open_model
from edgekd.targets import known_host
from edgekd.temporary import temporary_folder, temporary_room

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from edgekd.bundling.variants import Variant
    from edgekd.data import Contract
    from edgekd.data.opening import DataLike
    from edgekd.progress import Progress
    from edgekd.runtime import Model, Optimization

    Arrays = Mapping[str, NDArray[Any]]  # by name; the first axis is the runs

LOCAL: Final = "local"
# Ways to run one file that have to agree; the first is how it is meant to run.
_WAYS: Final[tuple[tuple[Optimization, int], ...]] = (("all", 1), ("all", 2), ("basic", 1), ("none", 1))
LEAST_TOLERANCE: Final = 1e-4  # of the largest expected value: other compilers add in another order
ALLOWED: Final = 2.0  # times the largest difference seen


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where models answer: this machine, or a device.

    Attributes:
        device: Name of the device's profile.
        target: Name of its instruction set.
    """

    device: str
    target: str


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What one file answers.

    Attributes:
        by_place: The outputs from each place where it cannot saturate.
        tolerance: By output, the largest absolute difference that is still right.
    """

    by_place: Mapping[Place, Arrays]
    tolerance: Mapping[str, float]

    def of(self, target: str) -> tuple[Place, Arrays]:
        """Return the answers from a target's own kernels, or else from the first place."""
        place = next((place for place in self.by_place if place.target == target), next(iter(self.by_place)))
        return place, self.by_place[place]


def golden_inputs(
    model: Model, data: DataLike | None, *, contract: Contract | None, labels: str, count: int
) -> Arrays:
    """Return inputs for a model, each fed on its own.

    Args:
        model: What they are for.
        data: What `edgekd evaluate` takes; None: made up.
        contract: How images become its input; by default what its metadata say.
        labels: For a folder of images, as of `edgekd evaluate`.
        count: How many runs, spread over the data; fewer where there are not enough samples.

    Returns:
        By input, `(runs, *shape of what is fed)`; one sample at a time, where the model does not want more.

    Raises:
        DataError: the data do not fit the model.
        ModelError: the model takes no input, or one that is no tensor of numbers.
    """
    if not model.inputs:
        raise ModelError(f"{model.name}: it takes no input; there is nothing to test it with")
    batch = fixed_batch(model) or 1
    if data is None:
        samples = synthetic_samples(model, contract, count * batch)
    else:
        samples = open_samples(model, data, contract=contract, labels=labels)
    wanted = min(count * batch, len(samples))
    positions = np.linspace(0, len(samples) - 1, wanted).round().astype(np.int64)
    chosen = ArraySamples(samples.batch(positions), name=samples.name)
    runs = [feeds for feeds, _ in feed(model, chosen, batch)]
    return {name: np.stack([feeds[name] for feeds in runs]) for name in runs[0]}


def runs_of(inputs: Arrays) -> int:
    """Return how many runs golden inputs are for."""
    return len(next(iter(inputs.values())))


def feeds_of(inputs: Arrays, runs: int) -> list[dict[str, NDArray[Any]]]:
    """Return what each run of golden inputs feeds."""
    return [{name: values[run] for name, values in inputs.items()} for run in range(runs)]


def open_places(devices: Sequence[str]) -> tuple[Place, ...]:
    """Return this machine, where its instruction set is known, and the devices.

    Raises:
        UsageError: no such device, or its profile does not say what its instruction set is.
    """
    host = known_host()
    places = [] if host is None else [Place(device=LOCAL, target=host.name)]
    for device in dict.fromkeys(devices):
        profile = load_profile(device)
        if profile.driver == LOCAL:
            continue
        if profile.target == "auto":
            raise UsageError(f"device {device}: its profile does not name its target; add target = ... to it")
        places.append(Place(device=device, target=profile.target))
    return tuple(places)


def answers(variant: Variant, inputs: Arrays, places: Sequence[Place], progress: Progress) -> Answers:
    """Return what a file answers wherever it is right.

    Raises:
        UsageError: it is right at none of the places.
        ModelError: it fails, gives NaN, or outputs whose shapes change from run to run.
        DeviceError: a device failed.
    """
    right = [place for place in places if place.target in variant.right_on]
    if not right:
        asked = ", ".join(place.target for place in places) or "this machine"
        raise UsageError(
            f"{variant.source}: it saturates on {asked}, so what it has to answer cannot be known here; name a "
            "device on which it is right, such as an emulated one (--device qemu-cortex-a76); it is right on "
            f"{', '.join(variant.right_on)}"
        )
    found, ways = {}, []
    with progress.task(f"golden answers of {variant.source.name}", len(right)) as task:
        for place in right:
            if place.device == LOCAL:
                ways = [_run_here(variant, inputs, *way) for way in _WAYS]
                found[place] = ways[0]
            else:
                found[place] = _run_there(variant, inputs, place)
            task.advance()
    expected = next(iter(found.values()))
    return Answers(by_place=found, tolerance=_tolerance(expected, [*ways, *found.values()]))


def _tolerance(expected: Arrays, ways: Sequence[Arrays]) -> dict[str, float]:
    def apart(name: str) -> float:
        values = [way[name].astype(np.float64) for way in ways]
        return max(float(np.abs(value - values[0]).max(initial=0)) for value in values)

    def least(name: str) -> float:
        return LEAST_TOLERANCE * float(np.abs(expected[name].astype(np.float64)).max(initial=0))

    return {name: max(ALLOWED * apart(name), least(name)) for name in expected}


def _run_here(variant: Variant, inputs: Arrays, optimization: Optimization, threads: int) -> dict[str, NDArray[Any]]:
    model = open_model(variant.content, name=str(variant.source), threads=threads, optimization=optimization)
    runs = [model.run(feeds) for feeds in feeds_of(inputs, runs_of(inputs))]
    names = [output.name for output in model.outputs]
    return {name: _stacked(variant, name, [run[index] for run in runs]) for index, name in enumerate(names)}


def _run_there(variant: Variant, inputs: Arrays, place: Place) -> dict[str, NDArray[Any]]:
    batches = [(feeds, 1) for feeds in feeds_of(inputs, runs_of(inputs))]
    found = {}
    with temporary_folder() as folder:
        file = folder / "model.onnx"
        with temporary_room():
            file.write_bytes(variant.content)
        for output in variant.model.outputs:
            with open_driver(load_profile(place.device)) as driver:
                given = device_answers(driver, file, sha256_file(file), batches, output=output.name)
                found[output.name] = _stacked(variant, output.name, [values for values, _ in given])
    return found


def _stacked(variant: Variant, name: str, values: Sequence[Any]) -> NDArray[Any]:
    arrays = [np.asarray(value) for value in values]
    if arrays[0].dtype.kind not in "fiub":
        raise ModelError(
            f"{variant.source}: its output {name!r} is no tensor of numbers, which a self-test can compare"
        )
    if len({array.shape for array in arrays}) > 1:
        shapes = sorted({array.shape for array in arrays})
        raise DataError(
            f"{variant.source}: its output {name!r} has another shape at every run, such as {shapes[0]} and "
            f"{shapes[1]}; bundle it with --runs 1"
        )
    stacked: NDArray[Any] = np.stack(arrays)
    if not np.isfinite(stacked.astype(np.float64)).all():
        raise ModelError(f"{variant.source}: its output {name!r} holds NaN or infinity for a golden input")
    return stacked
