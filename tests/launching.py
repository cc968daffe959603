"""Several processes that train together, on this machine."""

from __future__ import annotations

import sys

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
