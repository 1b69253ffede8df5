"""How each op of ours is written in ONNX: name -> rule(emit, node, names of its inputs) -> name of
its output.

Ops that are missing here are exported as their formula or decomposition.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import numpy as np

from netloom.compiler.dim import Extent
from netloom.compiler.graph import Node
from netloom.compiler.tensor_type import BOOL, INT64, DType
from netloom.errors import UnsupportedOpError

from .emitter import Emitter
from .tensors import ONNX_DTYPES

Rule: TypeAlias = Callable[[Emitter, Node, Sequence[str]], str]
RULES: Final[dict[str, Rule]] = {}

SAME: Final = {
    "abs": "Abs", "add": "Add", "ceil": "Ceil", "cos": "Cos", "div": "Div", "equal": "Equal",
    "erf": "Erf",
    "exp": "Exp", "floor": "Floor", "is_nan": "IsNaN", "less": "Less", "less_equal": "LessOrEqual",
    "log": "Log",
    "max": "Max", "min": "Min", "mul": "Mul", "neg": "Neg", "pow": "Pow", "prelu": "PRelu",
    "reciprocal": "Reciprocal", "relu": "Relu", "round": "Round", "select": "Where",
    "sigmoid": "Sigmoid",
    "sign": "Sign", "sin": "Sin", "softplus": "Softplus", "softsign": "Softsign", "sqrt": "Sqrt",
    "sub": "Sub",
    "tanh": "Tanh", "acos": "Acos", "acosh": "Acosh", "asin": "Asin", "asinh": "Asinh",
    "atan": "Atan", "atanh": "Atanh",
    "sinh": "Sinh",
}  # fmt: skip
LOGICAL: Final = {"and": ("And", "BitwiseAnd"), "or": ("Or", "BitwiseOr"),
                  "xor": ("Xor", "BitwiseXor"),
                  "not": ("Not", "BitwiseNot")}  # fmt: skip
WITH_ATTRIBUTES: Final = {
    "leaky_relu": ("LeakyRelu", {"alpha": "slope"}),
    "elu": ("Elu", {"alpha": "alpha"}),
    "selu": ("Selu", {"alpha": "alpha", "gamma": "gamma"}),
    "hard_sigmoid": ("HardSigmoid", {"alpha": "alpha", "beta": "beta"}),
    "thresholded_relu": ("ThresholdedRelu", {"alpha": "alpha"}),
    "softmax": ("Softmax", {"axis": "axis"}),
    "log_softmax": ("LogSoftmax", {"axis": "axis"}),
    "lrn": ("LRN", {"size": "size", "alpha": "alpha", "beta": "beta", "bias": "bias"}),
    "batch_norm": ("BatchNormalization", {"epsilon": "epsilon"}),
    "instance_norm": ("InstanceNormalization", {"epsilon": "epsilon"}),
    "gather": ("Gather", {"axis": "axis"}),
    "gather_elements": ("GatherElements", {"axis": "axis"}),
    "concat": ("Concat", {"axis": "axis"}),
    "transpose": ("Transpose", {"perm": "permutation"}),
}  # fmt: skip


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Decorator: the function writes these ops."""

    def register(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
        return function

    return register


def _unsupported(node: Node, what: str) -> UnsupportedOpError:
    return UnsupportedOpError(
        f"{node.op.name}: ONNX {what}.", node=node.label, hint="Export with a later opset."
    )


@rule(*SAME)
def same(emit: Emitter, node: Node, inputs: Sequence[str]) -> str:
    return emit(SAME[node.op.name], *inputs)


@rule(*LOGICAL)
def logical(emit: Emitter, node: Node, inputs: Sequence[str]) -> str:
    on_bool, on_bits = LOGICAL[node.op.name]
    if node.inputs[0].dtype is BOOL:
        return emit(on_bool, *inputs)
    if emit.opset < 18:
        raise _unsupported(node, "has bitwise ops from opset 18 on")
    return emit(on_bits, *inputs)


@rule(*WITH_ATTRIBUTES)
def with_attributes(emit: Emitter, node: Node, inputs: Sequence[str]) -> str:
    op_type, fields = WITH_ATTRIBUTES[node.op.name]
    return emit(
        op_type, *inputs, **{name: getattr(node.attrs, field) for name, field in fields.items()}
    )


@rule("not_equal")
def not_equal(emit: Emitter, node: Node, inputs: Sequence[str]) -> str:
    return emit("Not", emit("Equal", *inputs))


@rule("rem")
def remainder(emit: Emitter, node: Node, inputs: Sequence[str]) -> str:
    return emit("Mod", *inputs, fmod=1)


@rule("fma")
def fused_multiply_add(emit: Emitter, node: Node, inputs: Sequence[str]) -> str:
    return emit("Add", emit("Mul", inputs[0], inputs[1]), inputs[2])


@rule("trunc")
def truncate(emit: Emitter, node: Node, inputs: Sequence[str]) -> str:
    (x,) = inputs
    return emit(
        "Where", emit("Less", x, emit.number(0, node.inputs[0])), emit("Ceil", x), emit("Floor", x)
    )


@rule("shift_left", "shift_right")
def shift(emit: Emitter, node: Node, inputs: Sequence[str]) -> str:
    if node.inputs[0].dtype.is_signed:
        raise _unsupported(node, "shifts unsigned integers only")
    return emit("BitShift", *inputs, direction="LEFT" if node.op.name == "shift_left" else "RIGHT")


@rule("cast")
def cast(emit: Emitter, node: Node, inputs: Sequence[str]) -> str:
    return emit("Cast", *inputs, to=ONNX_DTYPES[node.attrs.dtype])


@rule("clip")
def clip(emit: Emitter, node: Node, inputs: Sequence[str]) -> str:
    bounds = [node.attrs.lo, node.attrs.hi]
    return emit(
        "Clip",
        *inputs,
        *("" if bound is None else emit.number(bound, node.inputs[0]) for bound in bounds),
    )


@rule("reorder")
def reorder(emit: Emitter, node: Node, inputs: Sequence[str]) -> str:
    return inputs[0]


# -- reductions, products --------------------------------------------------------------------------

REDUCTIONS: Final = {"reduce_sum": "ReduceSum", "reduce_mean": "ReduceMean",
                     "reduce_max": "ReduceMax",
                     "reduce_min": "ReduceMin", "reduce_product": "ReduceProd"}  # fmt: skip


@rule(*REDUCTIONS)
def reduction(emit: Emitter, node: Node, inputs: Sequence[str]) -> str:
    """The axes are an input from opset 18 on (of ReduceSum from 13 on)."""
    op_type, axes, keep = REDUCTIONS[node.op.name], node.attrs.axes, int(node.attrs.keep)
    if not axes:
        return inputs[0]
    if emit.opset >= 18 or op_type == "ReduceSum":
        return emit(op_type, *inputs, emit.extents(axes), keepdims=keep)
    return emit(op_type, *inputs, axes=list(axes), keepdims=keep)


@rule("argmax", "argmin")
def arg_extreme(emit: Emitter, node: Node, inputs: Sequence[str]) -> str:
    op_type = "ArgMax" if node.op.name == "argmax" else "ArgMin"
    attrs = node.attrs
    return emit(
        op_type,
        *inputs,
        axis=attrs.axis,
        keepdims=int(attrs.keep),
        select_last_index=int(attrs.last),
    )


@rule("matmul")
def matmul(emit: Emitter, node: Node, inputs: Sequence[str]) -> str:
    operands = []
    for value, name, is_transposed in zip(
        node.inputs, inputs, (node.attrs.transpose_a, node.attrs.transpose_b), strict=True
    ):
        rank = value.type.rank
        swapped = [*range(rank - 2), rank - 1, rank - 2]
        operands.append(emit("Transpose", name, perm=swapped) if is_transposed else name)
    return emit("MatMul", *operands)


@rule("layer_norm")
def layer_norm(emit: Emitter, node: Node, inputs: Sequence[str]) -> str:
    """ONNX has it from opset 17 on; before, it is its formula."""
    if emit.opset >= 17:
        return emit("LayerNormalization", *inputs, axis=node.attrs.axis, epsilon=node.attrs.epsilon)
    x, scale, bias = inputs
    axes = list(range(node.attrs.axis, node.inputs[0].type.rank))
    centred = emit("Sub", x, emit("ReduceMean", x, axes=axes))
    variance = emit("ReduceMean", emit("Mul", centred, centred), axes=axes)
    deviation = emit("Sqrt", emit("Add", variance, emit.number(node.attrs.epsilon, node.inputs[0])))
    return emit("Add", emit("Mul", emit("Div", centred, deviation), scale), bias)


# -- windows ---------------------------------------------------------------------------------------


@rule("conv")
def conv(emit: Emitter, node: Node, inputs: Sequence[str]) -> str:
    a = node.attrs
    return emit(
        "Conv", *inputs, strides=a.stride, dilations=a.dilation, pads=(*a.lo, *a.hi), group=a.groups
    )


@rule("conv_input_gradient")
def conv_transpose(emit: Emitter, node: Node, inputs: Sequence[str]) -> str:
    """output_padding makes up for what a stride leaves open."""
    a, (dy, w) = node.attrs, node.inputs
    added = []
    for axis, extent in enumerate(a.spatial):
        reach = (w.shape[2 + axis] - 1) * a.dilation[axis] + 1
        full = a.stride[axis] * (dy.shape[2 + axis] - 1) + reach - a.lo[axis] - a.hi[axis]
        missing = extent - full
        if not isinstance(missing, int):
            raise UnsupportedOpError(f"its result's extent {extent} is no multiple of a free dim.",
                                     node=node.label,
                                     hint="Fix the free dims.")  # fmt: skip
        added.append(missing)
    return emit("ConvTranspose", *inputs, strides=a.stride, dilations=a.dilation,
                pads=(*a.lo, *a.hi),
                group=a.groups, output_padding=added)  # fmt: skip


@rule("running_sum")
def running_sum(emit: Emitter, node: Node, inputs: Sequence[str]) -> str:
    if emit.opset < 11:
        raise _unsupported(node, "has running sums from opset 11 on")
    a = node.attrs
    axis = emit.tensor(np.asarray(a.axis, np.int64))
    return emit("CumSum", *inputs, axis, exclusive=int(a.exclusive), reverse=int(a.reverse))


@rule("max_pool")
def max_pool(emit: Emitter, node: Node, inputs: Sequence[str]) -> str:
    a = node.attrs
    return emit(
        "MaxPool",
        *inputs,
        kernel_shape=a.kernel,
        strides=a.stride,
        dilations=a.dilation,
        pads=(*a.lo, *a.hi),
    )


@rule("average_pool")
def average_pool(emit: Emitter, node: Node, inputs: Sequence[str]) -> str:
    """Padding that comes from ceil_mode is written as ceil_mode."""
    a = node.attrs
    is_dilated = any(d != 1 for d in a.dilation)
    if is_dilated and emit.opset < 19:
        raise _unsupported(node, "has dilated average pools from opset 19 on")
    hi = [h - e for h, e in zip(a.hi, a.extra, strict=True)]
    return emit("AveragePool", *inputs, kernel_shape=a.kernel, strides=a.stride, pads=(*a.lo, *hi),
                dilations=a.dilation if is_dilated else None,
                count_include_pad=int(a.count_padding),
                ceil_mode=int(any(a.extra)))  # fmt: skip


# -- shapes ----------------------------------------------------------------------------------------


@rule("reshape")
def reshape(emit: Emitter, node: Node, inputs: Sequence[str]) -> str:
    """0 copies an extent and -1 takes the rest, so that one free dim needs no arithmetic."""
    shape, source = node.attrs.shape, node.inputs[0].shape
    if any(extent == 0 for extent in shape):
        is_static = all(isinstance(extent, int) for extent in shape)
        return emit(
            "Reshape",
            *inputs,
            emit.extents(shape),
            allowzero=1 if is_static and emit.opset >= 14 else None,
        )
    entries: list[Extent] = [
        0
        if not isinstance(extent, int) and axis < len(source) and source[axis] == extent
        else extent
        for axis, extent in enumerate(shape)
    ]
    symbolic = [axis for axis, extent in enumerate(entries) if not isinstance(extent, int)]
    if len(symbolic) == 1:
        entries[symbolic[0]] = -1
    return emit("Reshape", *inputs, emit.extents(entries if len(symbolic) < 2 else shape))


@rule("broadcast")
def broadcast(emit: Emitter, node: Node, inputs: Sequence[str]) -> str:
    return emit("Expand", *inputs, emit.extents(node.attrs.shape))


@rule("slice")
def slice_(emit: Emitter, node: Node, inputs: Sequence[str]) -> str:
    """Backwards to the first element ends at minus infinity, since -1 would mean the last one."""
    a = node.attrs
    ends: list[Extent] = []
    for start, size, step in zip(a.start, a.size, a.step, strict=True):
        end = start + size * step
        ends.append(-(1 << 62) if step < 0 and isinstance(end, int) and end < 0 else end)
    axes = tuple(range(len(ends)))
    return emit("Slice", *inputs, *map(emit.extents, (a.start, ends, axes, a.step)))


@rule("pad")
def pad(emit: Emitter, node: Node, inputs: Sequence[str]) -> str:
    a = node.attrs
    number = emit.number(a.value, node.inputs[0]) if a.mode == "constant" else ""
    return emit("Pad", *inputs, emit.extents((*a.lo, *a.hi)), number, mode=a.mode)


# -- constants and indices -------------------------------------------------------------------------


@rule("constant")
def constant(emit: Emitter, node: Node, inputs: Sequence[str]) -> str:
    return emit.constant(node.attrs.value)


@rule("extent")
def extent(emit: Emitter, node: Node, inputs: Sequence[str]) -> str:
    return emit("Squeeze", emit.extents((node.attrs.extent,)), emit.extents((0,)))


@rule("iota")
def iota(emit: Emitter, node: Node, inputs: Sequence[str]) -> str:
    a = node.attrs
    return _positions(emit, a.shape, a.axis, a.dtype)


def _positions(emit: Emitter, shape: Sequence[Extent], axis: int, dtype: DType) -> str:
    zero, one = (emit.tensor(np.asarray(number, np.int64)) for number in (0, 1))
    limit = emit("Squeeze", emit.extents((shape[axis],)), emit.extents((0,)))
    numbers = emit("Range", zero, limit, one)
    typed = numbers if dtype is INT64 else emit("Cast", numbers, to=ONNX_DTYPES[dtype])
    column = emit("Reshape", typed, emit.extents((-1, *(1,) * (len(shape) - axis - 1))))
    return emit("Expand", column, emit.extents(shape))


@rule("one_hot")
def one_hot(emit: Emitter, node: Node, inputs: Sequence[str]) -> str:
    """index == 0, 1, .., depth - 1; unlike OneHot, a negative index gives zeros."""
    a, index = node.attrs, node.inputs[0]
    column = emit("Reshape", *inputs, emit.extents((*index.shape, 1)))
    classes = emit.tensor(np.arange(a.depth, dtype=index.dtype.numpy))
    return emit("Cast", emit("Equal", column, classes), to=ONNX_DTYPES[a.dtype])
