"""A distillation that kills itself: `python killed.py FOLDER BATCHES` dies, as by SIGKILL, before batch BATCHES.

It reads ahead in another process, augments, moves the learning rate and a temperature, looks answers up in a cache,
trains an adapter, drops out, and adds up the gradients of three batches a step.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from together import TRAIN, VALIDATION, mlp, seeded, told

from edgekd.distillation import training
from edgekd.distillation.engine import distill
from edgekd.distillation.state import Checkpoints
from edgekd.distillation.training import Augmentation
from edgekd.recipe import DistillSettings

SETTINGS = {
    "epochs": 3,
    "batch_size": 6,
    "accumulate": 3,
    "learning_rate": 0.05,
    "workers": 1,
    "terms": [{"kind": "hint"}, {"kind": "kd", "temperature_end": 1.0}, {"kind": "ce"}],
    "taps": {"pairs": [["1", "1"]]},
    "cache": {"views": 2},
}


def main(folder: Path, batches: int | None) -> None:
    """Distil, and leave what was found in `found.json`; after so many batches of this process, die."""
    seen = 0
    original = training.run_logits

    def counting(module: Any, inputs: torch.Tensor, *who: str) -> torch.Tensor:
        nonlocal seen
        seen += module.training
        if batches is not None and seen > batches:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(module, inputs, *who)

    training.run_logits = counting
    try:
        trained = distill(
            seeded(lambda: mlp(dropout=0.2), seed=0),
            seeded(lambda: mlp(48), seed=1),
            TRAIN,
            VALIDATION,
            settings=DistillSettings.model_validate_json(json.dumps(SETTINGS)),
            augmentation=Augmentation(crop_padding=1, flip=True),
            seed=3,
            checkpoints=Checkpoints(path=folder / "c.pt", key="k", every_s=0),
            cache_folder=folder / "answers",
        )
    finally:
        training.run_logits = original
    (folder / "found.json").write_text(json.dumps(told(trained)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)
