"""Open the same model through a bundle's package, which checks it first, answer once, and say the peak memory.

python packaged.py BUNDLE
"""

import sys
from pathlib import Path

sys.path.insert(0, f"{sys.argv[1]}/python")

import edgekd_bundle
import numpy as np

model = edgekd_bundle.open_bundle(sys.argv[1])
given = model.bundle.manifest["inputs"][0]
model.run({given["name"]: np.zeros([extent or 1 for extent in given["shape"]], np.float32)})
status = Path("/proc/self/status").read_text()
print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
