from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.errors import DataError, ModelError
from edgekd.metrics import SQNR_CEILING_DB, agreement, sqnr_db, top1

LOGITS = np.array([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0]])


def test_top1_counts_what_is_right() -> None:
    assert top1(LOGITS, np.array([1, 0, 0])) == pytest.approx(2 / 3)


def test_agreement_is_of_choices() -> None:
    assert agreement(LOGITS, LOGITS * 2) == 1
    assert agreement(LOGITS, -LOGITS) == 0


@given(st.floats(0.001, 1000), st.floats(1e-5, 0.5))
def test_sqnr_of_noise_of_known_size(scale: float, noise: float) -> None:
    signal = np.linspace(-1, 1, 101) * scale
    assert sqnr_db(signal * (1 + noise), signal) == pytest.approx(-20 * np.log10(noise), rel=1e-6)


def test_equal_outputs_give_the_ceiling_and_not_infinity() -> None:
    assert sqnr_db(LOGITS, LOGITS) == SQNR_CEILING_DB


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_never_passes(value: float) -> None:
    broken = LOGITS.copy()
    broken[1, 1] = value
    for measure in (
        lambda: top1(broken, np.array([1, 0, 0])),
        lambda: agreement(broken, LOGITS),
        lambda: agreement(LOGITS, broken),
        lambda: sqnr_db(broken, LOGITS),
        lambda: sqnr_db(LOGITS, broken),
    ):
        with pytest.raises(ModelError, match="NaN"):
            measure()


def test_labels_out_of_range_are_named() -> None:
    with pytest.raises(DataError, match="label 2 of sample 1 is out of range"):
        top1(LOGITS, np.array([0, 2, 1]))
    with pytest.raises(DataError, match="label -1 of sample 0"):
        top1(LOGITS, np.array([-1, 1, 1]))


def test_shapes_must_match() -> None:
    with pytest.raises(ModelError, match="differ in shape"):
        agreement(LOGITS, LOGITS[:2])
    with pytest.raises(DataError, match=r"labels of shape \(2,\), 3 samples"):
        top1(LOGITS, np.array([0, 1]))
    with pytest.raises(ModelError, match="all zero"):
        sqnr_db(LOGITS, LOGITS * 0)
