"""Experimental ops of ONNX's first opsets, which the standard dropped and ONNX Runtime still runs
-> ops of the graph. Exports of Core ML and of Caffe2 from 2017 to 2019 hold them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from netloom.compiler.graph import Value

from ..context import Context
from ..handler import HandlerTable
from ..node import Item, ModelNode
from ..short_floats import widened
from ..slicing import SLICING, sliced

EXPERIMENTAL: Final = HandlerTable()


@EXPERIMENTAL.on("Affine")
def affine(context: Context, node: ModelNode) -> Value:
    """alpha x + beta"""
    scaled = context("mul", node.input(0), node.number("alpha", 1.0))
    return context("add", scaled, node.number("beta", 0.0))


@EXPERIMENTAL.on("Scale")
def scale(context: Context, node: ModelNode) -> Value:
    """scale x"""
    return context("mul", node.input(0), node.number("scale", 1.0))


@EXPERIMENTAL.on("ScaledTanh")
def scaled_tanh(context: Context, node: ModelNode) -> Value:
    """alpha tanh(beta x)"""
    inside = context("mul", node.input(0), node.number("beta", 1.0))
    return context("mul", context("tanh", inside), node.number("alpha", 1.0))


@EXPERIMENTAL.on("ParametricSoftplus")
def parametric_softplus(context: Context, node: ModelNode) -> Value:
    """alpha log(1 + exp(beta x))"""
    inside = context("mul", node.input(0), node.number("beta", 1.0))
    return context("mul", context("softplus", inside), node.number("alpha", 1.0))


@EXPERIMENTAL.on("ThresholdedRelu", last=9)
def thresholded_relu(context: Context, node: ModelNode) -> Value:
    """x where it is above alpha, else 0; the standard has it since opset 10."""
    return context("thresholded_relu", node.input(0), alpha=node.number("alpha", 1.0))


@EXPERIMENTAL.on("ImageScaler")
def image_scaler(context: Context, node: ModelNode) -> Value:
    """scale x + bias, a bias for each channel of [n, c, h, w]."""
    x, bias = _image(node), node.numbers("bias") or ()
    if x.shape[1] != len(bias):
        raise node.misshapen(f"its bias has {len(bias)} elements for {x.type}.", "Export it again.")
    scaled = context("mul", x, node.number("scale", 1.0))
    shift = context.constant(np.asarray(bias, x.dtype.numpy))
    return context("add", scaled, context.per_channel(shift, x.type.rank))


@EXPERIMENTAL.on("Crop")
def crop(context: Context, node: ModelNode) -> Value:
    """[n, c, h, w] without a border (left, top, right, bottom); where scale gives a height and a
    width, these from the left and top border on.
    """
    x, border, size = _image(node), node.integers("border") or (), node.integers("scale")
    if len(border) != 4 or min(border) < 0 or (size is not None and len(size) != 2):
        raise node.fault(
            f"its border is {border} and its scale {size}; 4 and 2 numbers are needed.",
            "Export it again.",
        )
    left, top, right, bottom = border
    height, width = size or (x.shape[2] - top - bottom, x.shape[3] - left - right)
    for whole, first, count in ((x.shape[2], top, height), (x.shape[3], left, width)):
        if isinstance(whole, int) and isinstance(count, int) and not 0 < count <= whole - first:
            raise node.misshapen(f"it leaves no part of {x.type}.", "Use larger images.")
    return sliced(context, x, {2: (top, height, 1), 3: (left, width, 1)})


@EXPERIMENTAL.on("DynamicSlice")
def dynamic_slice(context: Context, node: ModelNode) -> Item:
    """Slice as the standard has it since opset 10."""
    handler = SLICING.find("Slice", 10)
    assert handler is not None
    made = handler.convert(context, replace(node, op_type="Slice", opset=10))
    assert isinstance(made, Item)
    return made


@EXPERIMENTAL.on("MeanVarianceNormalization", last=8)
def mean_variance_normalization(context: Context, node: ModelNode) -> Value:
    """x - mean, and over the standard deviation if normalize_variance is 1: of all
    channels together, or of each; the standard has it since opset 9.
    """
    x = widened(context, _image(node))
    axes = (0, 1, 2, 3) if node.flag("across_channels", False) else (0, 2, 3)
    y = context("sub", x, context("reduce_mean", x, axes=axes, keep=True))
    if node.flag("normalize_variance", True):
        variance = context("reduce_mean", context("mul", y, y), axes=axes, keep=True)
        y = context("div", y, context("sqrt", variance))
    return context.cast(y, node.input(0).dtype)


def _image(node: ModelNode) -> Value:
    x = node.input(0)
    if x.type.rank != 4:
        raise node.misshapen(f"its input is {x.type}; images [n, c, h, w] are needed.")
    return x
