"""Files that other tools make."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np


def _quantize(model: Path, images: np.ndarray, path: Path) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches = iter([{"input": images}])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.batches, None)

    types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static(model, path, Reader(), per_channel=True, **types)


@pytest.fixture
def quantize_plainly() -> Callable[[Path, np.ndarray, Path], None]:
    """Quantize a model file with onnxruntime's own quantizer, on these inputs, to another file."""
    return _quantize
