# ruff: noqa: E501 - one row for each case
"""Experimental ops of ONNX's first opsets against ONNX Runtime."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from netloom.errors import NetloomError
from netloom.frontends.onnx import from_onnx

from . import runtime_case
from .runtime_case import Case, check_case, model_of, r

case = partial(runtime_case.case, domain="", standard=7)
AT = tuple(np.array(numbers, np.int64) for numbers in ((1, -4), (3, 100), (1, 2)))

CASES = [
    case("Affine", r(3, 4), alpha=2.0, beta=0.5), case("Scale", r(3, 4), scale=2.5),
    case("ScaledTanh", r(3, 4), alpha=2.0, beta=0.5), case("ParametricSoftplus", 40 * r(3, 4), alpha=2.0, beta=0.5),
    case("ThresholdedRelu", r(3, 4), alpha=0.5, standard=9),
    case("ImageScaler", r(2, 3, 4, 5), scale=2.0, bias=[0.5, -1.0, 2.0]),
    case("Crop", r(2, 3, 6, 7), border=[1, 2, 0, 3]), case("Crop", r(2, 3, 6, 7), border=[2, 1, 0, 0], scale=[3, 4]),
    case("DynamicSlice", r(2, 3, 6), *AT),
    *(case("MeanVarianceNormalization", r(2, 3, 4, 5) + 2, across_channels=across, normalize_variance=variance)
      for across in (0, 1) for variance in (0, 1)),
]  # fmt: skip


@pytest.mark.parametrize("c", CASES, ids=[f"{k}-{c.op}" for k, c in enumerate(CASES)])
def test_case(c: Case) -> None:
    check_case(c)


@pytest.mark.parametrize(("c", "words"), [
    (case("ImageScaler", r(2, 3, 4, 5), bias=[0.5]), "its bias has 1 elements"),
    (case("Crop", r(2, 3, 6, 7), border=[1, 2]), "4 and 2 numbers are needed"),
    (case("Crop", r(2, 3, 6, 7), border=[4, 0, 3, 0]), "no part of"),
    (case("MeanVarianceNormalization", r(3, 4)), "images"),
])  # fmt: skip
def test_what_is_impossible_is_refused(c: Case, words: str) -> None:
    with pytest.raises(NetloomError, match=words):
        from_onnx(model_of(c)[0])
