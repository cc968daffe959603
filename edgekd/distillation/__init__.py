"""Training a small student from a large teacher.

Importing this package needs the extra `train` and raises `MissingExtraError` without it.
"""

from __future__ import annotations

from edgekd.errors import require_extra

require_extra("train", "torch")
