"""What is compared: terms with the weights of their papers or of the field's code, fixed before the first run.

"CRD's code" is RepDistiller (Tian et al. 2019, arXiv:1910.10699), whose weights for CIFAR-100 most later papers took
over; in its combinations both the labels and KD weigh 1.
"""

from __future__ import annotations

from typing import Any

Term = dict[str, Any]
Terms = tuple[Term, ...]
Pairs = tuple[tuple[str, str], ...]  # (student, teacher)

LAST_MAP, MAP, POOLED = ("layer3", "gelu_6"), ("layer3", "gelu_4"), ("flatten", "amax")
TEACHER_TAPS = ("gelu_4", "gelu_6", "amax")

CE: Term = {"kind": "ce"}
KD: Term = {"kind": "kd", "temperature": 4.0}
HINT: Term = {"kind": "hint", "weight": 100.0}
AT: Term = {"kind": "at", "weight": 1000.0}
RKD: Terms = ({"kind": "rkd-distance", "weight": 25.0}, {"kind": "rkd-angle", "weight": 50.0})
SP: Term = {"kind": "sp", "weight": 3000.0}
DKD: Term = {"kind": "dkd", "temperature": 4.0, "alpha": 1.0, "beta": 8.0}
DKD_WARM_UP = 20 / 240  # of the training, as in its paper's code

METHODS: dict[str, tuple[Terms, Pairs]] = {
    "control": ((CE,), ()),
    "kd": (({**CE, "weight": 0.1}, {**KD, "weight": 0.9}), ()),
    "dkd": (
        (CE, {**DKD, "weight": 0.0, "weight_end": 1.0, "stop": DKD_WARM_UP}, {**DKD, "start": DKD_WARM_UP}),
        (),
    ),
    "dist": ((CE, {"kind": "dist", "temperature": 4.0, "beta": 2.0, "gamma": 2.0}), ()),
    "lskd": (({**CE, "weight": 0.1}, {"kind": "lskd", "temperature": 2.0, "weight": 9.0}), ()),
    "hint": ((CE, HINT), (MAP,)),
    "at": ((CE, AT), (MAP,)),
    "rkd": ((CE, *RKD), (POOLED,)),
    "sp": ((CE, SP), (LAST_MAP,)),
    "kd+hint": ((CE, KD, HINT), (MAP,)),
    "kd+at": ((CE, KD, AT), (MAP,)),
    "kd+rkd": ((CE, KD, *RKD), (POOLED,)),
    "kd+sp": ((CE, KD, SP), (LAST_MAP,)),
}
"""Terms and pairs of taps by method."""
