# ruff: noqa: E501 - one row for each case
"""Every kind of malformed or hostile model gives one clear error: its class, exit code, the node's
name, a remedy.

README.md in this folder lists the cases against the threats. Each case is a sound one-node model
with one fault.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from netloom.errors import (
    MemoryBudgetError,
    ModelError,
    ModelWarning,
    NetloomError,
    ShapeError,
    UnsupportedOpError,
)
from netloom.frontends.onnx import from_onnx

F = TensorProto.FLOAT


def info(name: str, shape: Sequence[Any] = (1, 4, 8, 8), dtype: int = F) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, list(shape))


def weights(name: str, shape: Sequence[int], dtype: Any = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(np.ones(shape, dtype), name)


def model(
    nodes: Sequence[onnx.NodeProto],
    initializers: Sequence[onnx.TensorProto] = (),
    inputs: Sequence[onnx.ValueInfoProto] | None = None,
    outputs: Sequence[str] = ("y",),
    values: Sequence[onnx.ValueInfoProto] = (),
    functions: Sequence[onnx.FunctionProto] = (),
    opset: int = 17,
) -> onnx.ModelProto:
    untyped = [onnx.ValueInfoProto(name=name) for name in outputs]
    graph = helper.make_graph(
        list(nodes),
        "g",
        [info("x")] if inputs is None else list(inputs),
        untyped,
        list(initializers),
        value_info=values,
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("local", 1)]
    return helper.make_model(graph, opset_imports=imports, functions=list(functions))


def node(
    op_type: str, inputs: Sequence[str] = ("x",), outputs: Sequence[str] = ("y",), **attributes: Any
) -> onnx.NodeProto:
    domain = attributes.pop("domain", "")
    return helper.make_node(
        op_type, list(inputs), list(outputs), name="culprit", domain=domain, **attributes
    )


def conv(shape: Sequence[int] = (6, 4, 3, 3), **attributes: Any) -> onnx.ModelProto:
    return model([node("Conv", ("x", "w"), **attributes)], [weights("w", shape)])


def with_tensor(**fields: Any) -> onnx.ModelProto:
    """x + t, where t is float32[4] but for the fields given."""
    return model([node("Add", ("x", "t"))], [onnx.TensorProto(**{"name": "t", "data_type": F, "dims": [4], **fields})],
                 [info("x", (4,))])  # fmt: skip


def vector(name: str, *numbers: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(numbers, np.int64), name)


def reshaped(*shape: int) -> onnx.ModelProto:
    return model([node("Reshape", ("x", "s"))], [vector("s", *shape)])


def function(
    name: str, nodes: Sequence[onnx.NodeProto], inputs: Sequence[str] = ("a",)
) -> onnx.FunctionProto:
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    return helper.make_function("local", name, list(inputs), ["b"], list(nodes), imports)


def calls(name: str, count: int) -> list[onnx.NodeProto]:
    """a -> b through ``count`` calls."""
    names = ["a", *(f"t{i}" for i in range(count - 1)), "b"]
    return [
        helper.make_node(name, [names[i]], [names[i + 1]], domain="local") for i in range(count)
    ]


def function_bomb() -> onnx.ModelProto:
    leaf = function("f0", [helper.make_node("Relu", ["a"], ["b"])])
    layers = [function(f"f{i}", calls(f"f{i - 1}", 10)) for i in range(1, 11)]
    return model([node("f10", domain="local")], functions=[leaf, *layers])


def recursive(*names: str) -> onnx.ModelProto:
    """Functions that call each other in a ring."""
    functions = [
        function(name, calls(names[(i + 1) % len(names)], 1)) for i, name in enumerate(names)
    ]
    return model([node(names[0], domain="local")], functions=functions)


def doubling(times: int) -> onnx.ModelProto:
    """A constant joined to itself again and again."""
    nodes = [
        helper.make_node("Concat", [f"t{i}", f"t{i}"], [f"t{i + 1}"], axis=0, name="culprit")
        for i in range(times)
    ]
    return model(nodes, [weights("t0", (1024,))], outputs=(f"t{times}",))


def branch(
    *nodes: onnx.NodeProto, initializers: Sequence[onnx.TensorProto] = ()
) -> onnx.GraphProto:
    return helper.make_graph(
        list(nodes), "b", [], [onnx.ValueInfoProto(name="z")], list(initializers)
    )


def conditional(graph: onnx.GraphProto) -> onnx.ModelProto:
    chosen = node("If", ("c",), then_branch=graph, else_branch=branch(node("Relu", ("x",), ("z",))))
    return model([chosen], [numpy_helper.from_array(np.array(True), "c")])


def twice(m: onnx.ModelProto, field: str) -> onnx.ModelProto:
    """The model with its first item of a field listed a second time."""
    items = getattr(m.graph, field)
    items.add().CopyFrom(items[0])
    return m


def with_attribute_twice() -> onnx.ModelProto:
    m = conv(group=1)
    m.graph.node[0].attribute.add().CopyFrom(m.graph.node[0].attribute[0])
    return m


def sparse() -> onnx.ModelProto:
    m = model([node("Relu")])
    m.graph.sparse_initializer.add().values.CopyFrom(weights("t", (1,)))
    return m


def without_dtype() -> onnx.ModelProto:
    m = model([node("Relu")])
    m.graph.input[0].type.tensor_type.elem_type = 0
    return m


def without_shape() -> onnx.ModelProto:
    m = model([node("Relu")])
    m.graph.input[0].type.tensor_type.ClearField("shape")
    return m


def segmented() -> onnx.ModelProto:
    m = with_tensor(raw_data=bytes(16))
    m.graph.initializer[0].segment.begin = 0
    return m


def lying_output() -> onnx.ModelProto:
    m = model([node("Relu")])
    m.graph.output[0].CopyFrom(info("y", (1, 4, 8, 9)))
    return m


def lying_weights() -> onnx.ModelProto:
    m = with_tensor(raw_data=bytes(16))
    m.graph.input.add().CopyFrom(info("t", (5,)))
    return m


def decided_by_data() -> onnx.ModelProto:
    """Two branches of other ranks, of which an input chooses one."""
    branches = {
        "then_branch": branch(node("Relu", ("x",), ("z",))),
        "else_branch": branch(node("Flatten", ("x",), ("z",))),
    }
    return model(
        [node("If", ("c",), **branches)], inputs=[info("x"), info("c", (), TensorProto.BOOL)]
    )


def loop(steps: int | None, is_open: bool = False) -> onnx.ModelProto:
    """x -> relu(x), so many times (None: without end; or until the input ``c`` ends it)."""
    ports = [
        info("i", (), TensorProto.INT64),
        info("go", (), TensorProto.BOOL),
        onnx.ValueInfoProto(name="s"),
    ]
    nodes = [
        helper.make_node("Identity", ["go"], ["going"]),
        helper.make_node("Relu", ["s"], ["t"]),
    ]
    body = helper.make_graph(
        nodes, "step", ports, [onnx.ValueInfoProto(name=name) for name in ("going", "t")]
    )
    count = [] if steps is None else [vector("n", steps)]
    inputs = [info("x"), *([info("c", (), TensorProto.BOOL)] if is_open else [])]
    return model(
        [node("Loop", ("n" if count else "", "c" if is_open else "", "x"), body=body)],
        count,
        inputs,
    )


RELU_THEN_RELU = (node("Relu", ("x",), ("h",)), node("Relu", ("h",)))


@dataclass(frozen=True)
class Case:
    """A threat of README.md, a bad model, its error's class, and what the message must say."""

    threat: str
    make: Callable[[], onnx.ModelProto]
    kind: type[NetloomError]
    says: tuple[str, ...]


CASES: dict[str, Case] = {
    # shapes and sizes
    "initializer_overflows": Case("overflow", lambda: with_tensor(dims=[1 << 62, 1 << 62]), MemoryBudgetError, ("'t'", "elements")),
    "initializer_negative_extent": Case("overflow", lambda: with_tensor(dims=[-4]), ModelError, ("'t'", "negative")),
    "initializer_rank_17": Case("overflow", lambda: with_tensor(dims=[1] * 17), ModelError, ("'t'", "rank 17")),
    "input_overflows": Case("overflow", lambda: model([node("Relu")], inputs=[info("x", (1 << 40, 1 << 40))]), MemoryBudgetError, ("'x'",)),
    "input_rank_17": Case("overflow", lambda: model([node("Relu")], inputs=[info("x", [1] * 17)]), ModelError, ("'x'", "rank 17")),
    "input_negative_extent": Case("overflow", lambda: model([node("Relu")], inputs=[info("x", [-3])]), ModelError, ("'x'", "negative")),
    "constant_of_shape_huge": Case("allocation", lambda: model([node("ConstantOfShape", ("s",))], [vector("s", 1 << 30, 1 << 30)]), MemoryBudgetError, ("culprit", "elements")),
    "expand_huge": Case("allocation", lambda: model([node("Expand", ("t", "s"))], [weights("t", (1,)), vector("s", 1 << 30, 1 << 30)]), MemoryBudgetError, ("culprit",)),
    "tile_huge": Case("allocation", lambda: model([node("Tile", ("t", "s"))], [weights("t", (4,)), vector("s", 1 << 45)]), MemoryBudgetError, ("culprit",)),
    "pad_huge": Case("allocation", lambda: model([node("Pad", ("t", "s"))], [weights("t", (4,)), vector("s", 1 << 45, 0)]), MemoryBudgetError, ("culprit",)),
    "conv_pads_huge": Case("allocation", lambda: conv(pads=[1 << 40] * 4), ModelError, ("culprit", "pads")),
    "range_huge": Case("allocation", lambda: model([node("Range", ("a", "b", "c"))], [numpy_helper.from_array(np.array(v, np.int64), k) for k, v in (("a", 0), ("b", 1 << 60), ("c", 1))]), MemoryBudgetError, ("culprit",)),
    "folding_bomb": Case("allocation", lambda: doubling(60), MemoryBudgetError, ("culprit", "elements")),
    # functions, cycles, depth
    "function_bomb": Case("functions", function_bomb, ModelError, ("nodes", "1000000")),
    "function_calls_itself": Case("functions", lambda: recursive("f"), ModelError, ("'f'", "itself")),
    "functions_call_each_other": Case("functions", lambda: recursive("f", "g", "h"), ModelError, ("itself",)),
    "function_defined_twice": Case("functions", lambda: model([node("f", domain="local")], functions=[function("f", calls("g", 1)), function("f", calls("g", 1))]), ModelError, ("'f'", "twice")),
    "function_with_too_many_inputs": Case("functions", lambda: model([node("f", ("x", "x"), domain="local")], functions=[function("f", [helper.make_node("Relu", ["a"], ["b"])])]), ModelError, ("culprit", "inputs")),
    "cycle": Case("functions", lambda: model([node("Add", ("x", "z"), ("h",)), node("Relu", ("h",), ("z",)), node("Relu", ("z",))]), ModelError, ("culprit", "cycle")),
    "node_reads_its_own_output": Case("functions", lambda: model([node("Add", ("x", "y"))]), ModelError, ("culprit", "cycle")),
    # names
    "output_defined_twice": Case("names", lambda: model([node("Relu"), node("Neg")]), ModelError, ("culprit", "'y'", "twice")),
    "output_overwrites_input": Case("names", lambda: model([node("Relu", ("x",), ("x",))], outputs=("x",)), ModelError, ("culprit", "'x'", "twice")),
    "output_overwrites_initializer": Case("names", lambda: model([node("Relu", ("x",), ("t",))], [weights("t", (1,))], outputs=("t",)), ModelError, ("culprit", "'t'", "twice")),
    "initializer_defined_twice": Case("names", lambda: twice(with_tensor(raw_data=bytes(16)), "initializer"), ModelError, ("'t'", "twice")),
    "input_defined_twice": Case("names", lambda: twice(model([node("Relu")]), "input"), ModelError, ("'x'", "twice")),
    "model_output_twice": Case("names", lambda: twice(model([node("Relu")]), "output"), ModelError, ("outputs", "one name")),
    "undefined_input": Case("names", lambda: model([node("Add", ("x", "nowhere"))]), ModelError, ("culprit", "'nowhere'")),
    "undefined_output": Case("names", lambda: model([node("Relu")], outputs=("nowhere",)), ModelError, ("'nowhere'",)),
    "shadowed_in_branch": Case("names", lambda: conditional(branch(node("Relu", ("x",), ("x",)), node("Relu", ("x",), ("z",)))), ModelError, ("'x'", "twice")),
    "branch_initializer_defined_twice": Case("names", lambda: conditional(branch(node("Relu", ("w",), ("z",)), initializers=[weights("w", (1,))] * 2)), ModelError, ("'w'", "twice")),
    "undefined_in_branch": Case("names", lambda: conditional(branch(node("Relu", ("nowhere",), ("z",)))), ModelError, ("'nowhere'",)),
    "undefined_in_function": Case("names", lambda: model([node("f", domain="local")], functions=[function("f", [helper.make_node("Relu", ["x"], ["b"])])]), ModelError, ("'x'", "nowhere")),
    # initializers
    "initializer_without_data": Case("initializers", lambda: with_tensor(), ModelError, ("'t'", "no data")),
    "initializer_with_two_fields": Case("initializers", lambda: with_tensor(raw_data=bytes(16), float_data=[1.0] * 4), ModelError, ("'t'", "several")),
    "initializer_too_short": Case("initializers", lambda: with_tensor(raw_data=bytes(15)), ModelError, ("'t'", "16 bytes", "15")),
    "initializer_too_long": Case("initializers", lambda: with_tensor(raw_data=bytes(17)), ModelError, ("'t'", "16 bytes", "17")),
    "initializer_too_few_elements": Case("initializers", lambda: with_tensor(float_data=[1.0] * 3), ModelError, ("'t'", "4 elements", "3")),
    "initializer_in_wrong_field": Case("initializers", lambda: with_tensor(int64_data=[1] * 4), ModelError, ("'t'", "int64_data", "float_data")),
    "initializer_of_unknown_dtype": Case("initializers", lambda: with_tensor(data_type=999, raw_data=bytes(16)), ModelError, ("'t'", "999")),
    "initializer_without_dtype": Case("initializers", lambda: with_tensor(data_type=0, raw_data=bytes(16)), ModelError, ("'t'",)),
    "initializer_of_strings": Case("initializers", lambda: with_tensor(data_type=TensorProto.STRING, string_data=[b"a"] * 4), UnsupportedOpError, ("'t'", "STRING")),
    "initializer_of_complex_numbers": Case("initializers", lambda: with_tensor(data_type=TensorProto.COMPLEX64, raw_data=bytes(32)), UnsupportedOpError, ("'t'", "COMPLEX64")),
    "initializer_out_of_its_dtype": Case("initializers", lambda: with_tensor(data_type=TensorProto.INT8, int32_data=[1, 2, 3, 128]), ModelError, ("'t'", "-128..127")),
    "initializer_in_segments": Case("initializers", segmented, UnsupportedOpError, ("'t'", "segments")),
    "initializer_without_name": Case("initializers", lambda: with_tensor(name="", raw_data=bytes(16)), ModelError, ("name",)),
    "sparse_initializer_without_indices": Case("initializers", sparse, ModelError, ("'t'",)),
    # annotations
    "value_info_lies_about_dtype": Case("value_info", lambda: model(RELU_THEN_RELU, values=[info("h", dtype=TensorProto.INT8)]), ShapeError, ("'h'", "int8", "float32")),
    "weights_annotation_lies": Case("value_info", lying_weights, ShapeError, ("'t'",)),
    "input_without_dtype": Case("value_info", without_dtype, ModelError, ("'x'",)),
    "input_without_shape": Case("value_info", without_shape, ShapeError, ("'x'", "--shape")),
    # indices
    "gather_index_too_large": Case("indices", lambda: model([node("Gather", ("x", "i"), axis=1)], [vector("i", 0, 4)]), ModelError, ("culprit", "index 4")),
    "gather_index_too_small": Case("indices", lambda: model([node("Gather", ("x", "i"), axis=1)], [vector("i", -5)]), ModelError, ("culprit", "index -5")),
    # attributes
    "stride_zero": Case("attributes", lambda: conv(strides=[0, 1]), ModelError, ("culprit", "strides")),
    "stride_negative": Case("attributes", lambda: conv(strides=[1, -1]), ModelError, ("culprit", "strides")),
    "strides_of_wrong_length": Case("attributes", lambda: conv(strides=[1]), ModelError, ("culprit", "strides")),
    "dilation_zero": Case("attributes", lambda: conv(dilations=[0, 1]), ModelError, ("culprit", "dilations")),
    "kernel_zero": Case("attributes", lambda: model([node("MaxPool", kernel_shape=[0, 2])]), ModelError, ("culprit", "kernel_shape")),
    "kernel_empty": Case("attributes", lambda: conv((6, 4, 0, 3)), ModelError, ("culprit", "kernel_shape")),
    "kernel_shape_disagrees": Case("attributes", lambda: conv(kernel_shape=[5, 5]), ShapeError, ("culprit", "kernel_shape")),
    "pads_negative": Case("attributes", lambda: conv(pads=[-1, 0, 0, 0]), ModelError, ("culprit", "pads")),
    "pads_of_wrong_length": Case("attributes", lambda: conv(pads=[1, 1]), ModelError, ("culprit", "pads")),
    "pads_and_auto_pad": Case("attributes", lambda: conv(pads=[1] * 4, auto_pad="SAME_UPPER"), ModelError, ("culprit", "auto_pad")),
    "auto_pad_unknown": Case("attributes", lambda: conv(auto_pad="SAME"), ModelError, ("culprit", "auto_pad")),
    "group_zero": Case("attributes", lambda: conv(group=0), ModelError, ("culprit", "group")),
    "group_negative": Case("attributes", lambda: conv(group=-1), ModelError, ("culprit", "group")),
    "group_does_not_divide_channels": Case("attributes", lambda: conv((6, 1, 3, 3), group=3), ShapeError, ("culprit", "group = 3")),
    "group_does_not_divide_filters": Case("attributes", lambda: conv((5, 2, 3, 3), group=2), ShapeError, ("culprit", "5 filters")),
    "channels_disagree": Case("attributes", lambda: conv((6, 3, 3, 3)), ShapeError, ("culprit", "4 channels")),
    "weights_of_wrong_rank": Case("attributes", lambda: conv((6, 4, 3)), ShapeError, ("culprit", "rank")),
    "bias_of_wrong_length": Case("attributes", lambda: model([node("Conv", ("x", "w", "b"))], [weights("w", (6, 4, 3, 3)), weights("b", (5,))]), ShapeError, ("culprit", "bias")),
    "window_larger_than_input": Case("attributes", lambda: conv((6, 4, 9, 3)), ShapeError, ("culprit", "9 elements")),
    "pool_window_in_padding": Case("attributes", lambda: model([node("MaxPool", kernel_shape=[2, 2], pads=[2, 0, 0, 0])]), ModelError, ("culprit", "padding")),
    "transposed_result_empty": Case("attributes", lambda: model([node("ConvTranspose", ("x", "w"), pads=[9, 9, 9, 9])], [weights("w", (4, 2, 3, 3))]), ShapeError, ("culprit",)),
    "output_padding_too_large": Case("attributes", lambda: model([node("ConvTranspose", ("x", "w"), output_padding=[1, 1])], [weights("w", (4, 2, 3, 3))]), ModelError, ("culprit", "output_padding")),
    "blocksize_zero": Case("attributes", lambda: model([node("DepthToSpace", blocksize=0)]), ModelError, ("culprit", "blocksize")),
    "lrn_size_zero": Case("attributes", lambda: model([node("LRN", size=0)]), ModelError, ("culprit", "size")),
    "axis_out_of_range": Case("attributes", lambda: model([node("Softmax", axis=4)]), ModelError, ("culprit", "axis 4")),
    "axes_twice": Case("attributes", lambda: model([node("ReduceMean", axes=[1, -3])]), ModelError, ("culprit", "twice")),
    "perm_is_none": Case("attributes", lambda: model([node("Transpose", perm=[0, 1, 2, 2])]), ModelError, ("culprit", "perm")),
    "flag_is_two": Case("attributes", lambda: model([node("ReduceMean", keepdims=2)]), ModelError, ("culprit", "keepdims")),
    "attribute_unknown": Case("attributes", lambda: conv(colour=1), ModelError, ("culprit", "attribute", "kernel_shape")),
    "attribute_of_wrong_type": Case("attributes", lambda: conv(group=1.5), ModelError, ("culprit", "group", "INT")),
    "attribute_missing": Case("attributes", lambda: model([node("Concat", ("x", "x"))]), ModelError, ("culprit", "axis")),
    "attribute_twice": Case("attributes", with_attribute_twice, ModelError, ("culprit", "twice")),
    "too_few_inputs": Case("attributes", lambda: model([node("Conv")]), ModelError, ("culprit", "1 inputs")),
    "too_many_inputs": Case("attributes", lambda: model([node("Relu", ("x", "x"))]), ModelError, ("culprit", "2 inputs")),
    "too_many_outputs": Case("attributes", lambda: model([node("Relu", ("x",), ("y", "z"))]), ModelError, ("culprit", "2 outputs")),
    "required_input_absent": Case("attributes", lambda: model([node("Conv", ("x", ""))]), ModelError, ("culprit", "input 1")),
    "dtype_not_allowed": Case("attributes", lambda: model([node("Conv", ("x", "w"))], [weights("w", (6, 4, 3, 3), np.int64)]), ShapeError, ("culprit", "int64")),
    "dtypes_mixed": Case("attributes", lambda: model([node("Add", ("x", "t"))], [weights("t", (1,), np.float64)]), ShapeError, ("culprit", "float64")),
    "shapes_do_not_broadcast": Case("attributes", lambda: model([node("Add", ("x", "t"))], [weights("t", (3,))]), ShapeError, ("culprit", "float32[3]")),
    "matrices_do_not_fit": Case("attributes", lambda: model([node("MatMul", ("x", "t"))], [weights("t", (3, 3))]), ShapeError, ("culprit", "float32[3, 3]")),
    "concat_does_not_fit": Case("attributes", lambda: model([node("Concat", ("x", "t"), axis=1)], [weights("t", (1, 4, 8, 7))]), ShapeError, ("culprit",)),
    "reshape_to_other_size": Case("attributes", lambda: reshaped(1, 255), ShapeError, ("culprit", "256", "255")),
    "reshape_with_two_unknowns": Case("attributes", lambda: reshaped(-1, -1), ShapeError, ("culprit", "-1")),
    "reshape_with_remainder": Case("attributes", lambda: reshaped(-1, 7), ShapeError, ("culprit", "7")),
    "reshape_to_negative": Case("attributes", lambda: reshaped(-2, 128), ShapeError, ("culprit", "negative")),
    "squeeze_of_a_wide_axis": Case("attributes", lambda: model([node("Squeeze", ("x", "a"))], [vector("a", 1)]), ShapeError, ("culprit", "axis 1")),
    "split_does_not_add_up": Case("attributes", lambda: model([node("Split", ("x", "s"), ("y", "z"), axis=1)], [vector("s", 1, 2)]), ShapeError, ("culprit",)),
    "slice_with_step_zero": Case("attributes", lambda: model([node("Slice", ("x", "a", "b", "a", "a"))], [vector("a", 0), vector("b", 1)]), ModelError, ("culprit", "step")),
    "shape_computed_from_data": Case("attributes", lambda: model([node("Reshape", ("x", "s"))], inputs=[info("x"), info("s", (2,), TensorProto.INT64)]), UnsupportedOpError, ("culprit", "computed from data")),
    "cast_to_unknown_dtype": Case("attributes", lambda: model([node("Cast", to=999)]), ModelError, ("culprit", "999")),
    # ops
    "all_unknown_ops_at_once": Case("ops", lambda: model([node("Conw", ("x",), ("h",)), node("TfIdfVectorizer", ("h",), ("i",)), node("FusedThing", ("i",), domain="com.vendor")]), UnsupportedOpError, ("3 ops", "Conw", "Conv meant", "TfIdfVectorizer", "com.vendor.FusedThing", "culprit")),
    "op_of_a_later_opset": Case("ops", lambda: model([node("Gelu")], opset=17), UnsupportedOpError, ("Gelu", "opset 17", "does not exist")),
    "op_of_an_earlier_opset": Case("ops", lambda: model([node("Upsample", ("x", "s"))], [weights("s", (4,))], opset=10), UnsupportedOpError, ("Upsample", "opset 10")),
    "opset_of_the_future": Case("ops", lambda: model([node("Relu")], opset=999), UnsupportedOpError, ("999",)),
    "opset_zero": Case("ops", lambda: model([node("Relu")], opset=0), ModelError, ("opset 0",)),
    "branch_decided_by_data": Case("ops", decided_by_data, UnsupportedOpError, ("culprit", "float32[1, 4, 8, 8] or float32[1, 256]", "condition")),
    "loop_of_too_many_steps": Case("functions", lambda: loop(1 << 40), UnsupportedOpError, ("culprit", "it has 1099511627776 steps")),
    "loop_without_end": Case("functions", lambda: loop(None), UnsupportedOpError, ("culprit", "nothing ends it")),
    "loop_begun_by_data": Case("ops", lambda: loop(None, is_open=True), UnsupportedOpError, ("culprit", "nothing ends it")),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_bad_model(name: str) -> None:
    case = CASES[name]
    with pytest.raises(NetloomError) as caught:
        from_onnx(case.make())
    error = caught.value
    assert type(error) is case.kind
    assert error.exit_code == 3
    for words in case.says:
        assert words in str(error)
    assert len(str(error)) < 2000


@pytest.mark.parametrize("name", CASES)
def test_bad_model_as_bytes(name: str) -> None:
    """A file gives the same error as the object."""
    case = CASES[name]
    with pytest.raises(case.kind):
        from_onnx(case.make().SerializeToString())


@pytest.mark.parametrize(("make", "words"), [
    (lambda: model(RELU_THEN_RELU, values=[info("h", (1, 4, 8, 7))]), r"'h' is \[1, 4, 8, 7\], but it is float32\[1, 4, 8, 8\]"),
    (lambda: model(RELU_THEN_RELU, values=[info("h", (1, 4))]), "'h' is"), (lying_output, "'y' is"),
])  # fmt: skip
def test_shapes_that_are_said_wrongly(make: Callable[[], onnx.ModelProto], words: str) -> None:
    """What is computed holds, with a warning."""
    with pytest.warns(ModelWarning, match=f"the model says that {words}"):
        graph = from_onnx(make())
    assert graph.outputs[0].shape == (1, 4, 8, 8)


def sound_models() -> Iterator[onnx.ModelProto]:
    yield conv()
    yield with_tensor(raw_data=bytes(16))
    yield model(
        [node("f", domain="local")],
        functions=[function("f", [helper.make_node("Relu", ["a"], ["b"])])],
    )
    yield conditional(branch(node("Relu", ("x",), ("z",))))
    yield reshaped(-1, 8)
    yield model(RELU_THEN_RELU, values=[info("h")])


@pytest.mark.parametrize("sound", list(sound_models()))
def test_control(sound: onnx.ModelProto) -> None:
    """The models that the cases spoil are sound."""
    assert from_onnx(sound).outputs


def test_readme_lists_every_case() -> None:
    text = (Path(__file__).parent / "README.md").read_text()
    assert [name for name in CASES if f"`{name}`" not in text] == []


def test_readme_lists_every_test_of_faults_and_no_other() -> None:
    folder = Path(__file__).parent
    text = (folder / "README.md").read_text(encoding="utf-8")
    for file in (*folder.glob("test_command_line_*.py"), folder / "test_faults.py"):
        tests = re.findall(r"^def (test_\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)
        assert [name for name in tests if f"`{name}`" not in text] == []
    sources = "".join(path.read_text(encoding="utf-8") for path in folder.parent.rglob("test_*.py"))
    assert [
        name for name in re.findall(r"`(test_\w+)`", text) if f"def {name}(" not in sources
    ] == []
