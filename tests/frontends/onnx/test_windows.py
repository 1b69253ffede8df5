"""Networks of windows and patches on images of any size, as PyTorch exports them, compared with ONNX
Runtime.
"""

from __future__ import annotations

import numpy as np
import pytest

from netloom.errors import ShapeError
from netloom.frontends.onnx import from_onnx

from .test_free_dims import assert_right, model_of, range_of
from .test_padding import means

NUMBERS = {
    "zero": 0,
    "one": 1,
    "two": 2,
    "three": 3,
    "six": 6,
    "seven": 7,
    "rest": -1,
    "most": 1 << 62,
}
INITIALIZERS = {name: np.array([number]) for name, number in NUMBERS.items()}
SIZES = """n = Shape<start = 0, end = 1>(x)  h = Shape<start = 1, end = 2>(x)  w = Shape<start = 2, end = 3>(x)
           c = Shape<start = 3, end = 4>(x)"""


def test_windows_that_are_filled_with_zeros() -> None:
    """DaViT: the image is padded to multiples of 7, cut into windows, and put together again; a
    softmax over each window's positions shows which are together.
    """
    body = f"""{SIZES}
      hr = Mod(h, seven)  hs = Sub(seven, hr)  hp = Mod(hs, seven)
      wr = Mod(w, seven)  ws = Sub(seven, wr)  wp = Mod(ws, seven)
      pads = Concat<axis = 0>(zero, zero, zero, zero, zero, hp, wp, zero)  p = Pad(x, pads)
      hh = Shape<start = 1, end = 2>(p)  ww = Shape<start = 2, end = 3>(p)
      hn = Div(hh, seven)  wn = Div(ww, seven)
      apart = Concat<axis = 0>(n, hn, seven, wn, seven, c)  a = Reshape(p, apart)
      b = Transpose<perm = [0, 1, 3, 2, 4, 5]>(a)
      each = Concat<axis = 0>(rest, seven, seven, c)  windows = Reshape(b, each)
      flat = Concat<axis = 0>(zero, rest, c)  rows = Reshape(windows, flat)  s = Softmax<axis = 1>(rows)
      back = Concat<axis = 0>(rest, hn, wn, seven, seven, c)  d = Reshape(s, back)
      e = Transpose<perm = [0, 1, 3, 2, 4, 5]>(d)
      image = Concat<axis = 0>(rest, hh, ww, c)  f = Reshape(e, image)
      ends = Concat<axis = 0>(h, w)  starts = Concat<axis = 0>(zero, zero)  axes = Concat<axis = 0>(one, two)
      y = Slice(f, starts, ends, axes)"""
    model = model_of("float[N, H, W, 2] x", body, **INITIALIZERS)
    assert_right(model, (1, 14, 7, 2), (2, 10, 17, 2), (1, 1, 6, 2))
    assert range_of(model, "H")[0] == 1


def test_windows_that_are_cut_off() -> None:
    """What is left of an axis behind the last whole window is dropped."""
    body = f"""{SIZES}
      hr = Mod(h, seven)  hh = Sub(h, hr)  hn = Div(hh, seven)
      a = Slice(x, zero, hh, one)
      apart = Concat<axis = 0>(n, hn, seven, w, c)  b = Reshape(a, apart)
      y = ReduceMax<axes = [2], keepdims = 0>(b)"""
    model = model_of("float[N, H, W, 2] x", body, **INITIALIZERS)
    assert_right(model, (1, 15, 3, 2), (2, 7, 1, 2))


def test_the_last_of_an_axis_that_small_images_lack() -> None:
    """EdgeNeXt divides running sums by their last element, after the image became smaller: sizes that
    leave one, not those that leave none or one alone.
    """
    body = """p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(x)  axis = Constant<value_int = 2>()
      e = Exp(p)  s = CumSum(e, axis)  l = Slice(s, rest, most, two)  y = Div(s, l)"""
    model = model_of("float[N, 1, H, W] x", body, **INITIALIZERS)
    assert range_of(model, "H") == (2, 10**9)
    means(model, (2, 1, 6, 5), (1, 1, 2, 9))


def test_sizes_that_are_written_into_a_model_are_named() -> None:
    """MobileViT rounds sizes up in Python, so an export holds those of its example."""
    body = "a = Reshape(x, shape)  b = Softmax<axis = 3>(a)  s = Shape(x)  y = Reshape(b, s)"
    model = model_of("float[N, 8, H, W] x", body, shape=np.array([56, 2, 14, 2]))
    with pytest.raises(ShapeError, match="Fix the free dims to those that it was exported for"):
        from_onnx(model)
    assert from_onnx(model, dims={"N": 1, "H": 14, "W": 28}).inputs[0].type.is_static


def test_windows_over_more_than_there_may_be() -> None:
    """wav2vec 2.0 begins so: a tenth of a second may be too short for its window, by which the
    number of windows is below 0; one that fits is computed."""
    filters = np.random.default_rng(3).standard_normal((33, 1, 10)).astype(np.float32)
    body = "y = Conv<kernel_shape = [10], strides = [5]>(x, filters)"
    model = model_of("float[N, 1, L] x", body, filters=filters)
    assert_right(model, (1, 1, 10), (2, 1, 14), (1, 1, 44), (2, 1, 400))
