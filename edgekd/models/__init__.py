"""Student and teacher architectures, users' own models, and weights on disk.

    from edgekd.models import build, load_weights

    student = build("resnet8x0.5", classes=10, shape=(1, 28, 28))
    teacher = build("my_package.nets:teacher", classes=10, shape=(1, 28, 28), arguments={"depth": 4})
    load_weights(teacher, "teacher.safetensors")

Importing this package needs the extra `train` and raises `MissingExtraError` without it.
"""

from __future__ import annotations

from edgekd.errors import require_extra

for _module in ("torch", "safetensors"):
    require_extra("train", _module)

from edgekd.models.registry import NAMES, build, source_digest  # noqa: E402
from edgekd.models.weights import count_parameters, dump_weights, load_weights  # noqa: E402

__all__ = ["NAMES", "build", "count_parameters", "dump_weights", "load_weights", "source_digest"]
