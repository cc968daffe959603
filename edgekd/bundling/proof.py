"""Whether a bundle's model answers here as the manifest expects: what the self-tests of its packages find, too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd.bundling.golden import feeds_of
from edgekd.errors import DataError
from edgekd.runtime import open_model

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from edgekd.bundling.manifest import Manifest, Tensor


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How far an output is from what is expected.

    Attributes:
        output: Its name.
        apart: The largest absolute difference over all golden inputs; None where one is NaN.
        tolerance: The largest that is right.
    """

    output: str
    apart: float | None
    tolerance: float

    @property
    def is_right(self) -> bool:
        """Whether it is within the tolerance; NaN is not."""
        return self.apart is not None and self.apart <= self.tolerance


def differences(folder: Path, manifest: Manifest, target: str) -> list[Difference]:
    """Run the golden inputs through the model for a target, on this machine.

    Requires: whole files (`require_whole`).

    Raises:
        ModelError: the model does not load or run.
        DataError: a file does not hold the tensor that the manifest says.
    """
    choice = manifest.targets[target]
    model = open_model((folder / choice.model).read_bytes(), name=str(folder / choice.model))
    inputs = {tensor.name: read_tensor(folder, tensor) for tensor in manifest.golden.inputs}
    names = [output.name for output in choice.expected.outputs]
    runs = [model.run(feeds, names) for feeds in feeds_of(inputs, manifest.golden.runs)]
    found = []
    for index, output in enumerate(choice.expected.outputs):
        expected = read_tensor(folder, output).astype(np.float64)
        given = np.stack([run[index] for run in runs]).astype(np.float64)
        if given.shape != expected.shape:
            raise DataError(f"{folder / output.path}: shape {expected.shape}, the model gives {given.shape}")
        apart = float(np.abs(given - expected).max(initial=0))
        known = apart if np.isfinite(apart) else None
        found.append(Difference(output=output.name, apart=known, tolerance=output.tolerance))
    return found


def read_tensor(folder: Path, tensor: Tensor) -> NDArray[Any]:
    """Return a tensor of a bundle.

    Raises:
        DataError: its file holds another number of values, or of no known type.
    """
    content = (folder / tensor.path).read_bytes()
    try:
        values: NDArray[Any] = np.frombuffer(content, np.dtype(tensor.dtype).newbyteorder("<")).reshape(tensor.shape)
    except (TypeError, ValueError) as error:
        raise DataError(f"{folder / tensor.path}: not {tensor.dtype} of shape {tensor.shape}: {error}") from error
    return values
