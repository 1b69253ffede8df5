"""ONNX model -> Graph. The model is untrusted: whatever it holds, the result is a graph or one
clear ModelError.

Shapes are recomputed from the inputs' shapes; the model's own annotations are assertions. Names
stay data. Nested graphs and local functions are inlined with an explicit stack, so depth is no
limit.
"""

from __future__ import annotations

import dataclasses
from collections import ChainMap
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final

import onnx
from onnx import AttributeProto

from netloom.compiler import dim
from netloom.compiler.dim import Dim, Extent, Symbol
from netloom.compiler.graph import Builder, Graph, Value
from netloom.compiler.tensor_type import TensorType
from netloom.errors import ModelError, NetloomError, ShapeError, UnsupportedOpError, UsageError

from .context import Context, check_size
from .control_flow import CONTROL_FLOW, Done, Step
from .functions import Key, check_expansion, key_of, local_functions
from .handler import Handler
from .model_file import Source, opsets_of, read_model
from .names import identifier, printable
from .node import Item, ModelNode, ValueSequence
from .order import AnyGraph, label, ordered, title
from .registry import DOMAINS, HANDLERS, INLINED
from .restriction import MultipleOf, Restriction, restriction_of
from .schema import check_node, find_schema
from .standard_function import body_of, has_body
from .support import refuse_unsupported, report_support
from .tensors import NARROW, Narrow, TensorReader, check_shape, dtype_of

TAKE_NARROW: Final = frozenset({"Cast", "CastLike", "DequantizeLinear", "QuantizeLinear"})
MOVE_NARROW: Final = frozenset(
    {"Flatten", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"}
)
# of a free dim; slices "to the end" say this (TensorFlow) or more
LARGEST_DIM: Final = 1_000_000_000

Dims = Mapping[str, "int | range"]
Shapes = Mapping[str, Sequence["int | str"]]


def from_onnx(source: Source, *, dims: Dims | None = None, shapes: Shapes | None = None) -> Graph:
    """Read an ONNX model as a graph for inference.

    ``dims`` gives free dims by name a number or a range of numbers, with a step those that it
    divides; ``shapes`` replaces the shapes of inputs, where a name is a free dim. Free dims that
    neither fixes stay free (1 to 10^9, or as far as the nodes fit). Raises ModelError if the model
    is malformed, UnsupportedOpError naming every op that is not known, UsageError for names that
    the model lacks.
    """
    file = read_model(source)
    model = file.model
    functions = local_functions(model)
    check_expansion(model, functions)
    refuse_unsupported(report_support(model, functions))
    limits: dict[str, int | range] = {}
    while True:
        importer = _Importer(
            model,
            functions,
            TensorReader(file.folder, file.apart),
            {**limits, **(dims or {})},
            shapes or {},
            fixed=dims or {},
        )
        try:
            return importer.run()
        except Restriction as found:
            limits[found.name] = found.chosen


@dataclass
class _Frame:
    """A graph or function body being inlined: what is left of its nodes, and the names visible
    in it.
    """

    nodes: Iterator[onnx.NodeProto]
    names: ChainMap[str, Item | None]
    opsets: Mapping[str, int]
    results: Sequence[str]
    # what becomes of the results; a frame comes back if more is to do
    deliver: Callable[[list[Item]], _Frame | None]
    attributes: Mapping[str, AttributeProto] = dataclasses.field(default_factory=dict)
    annotations: Mapping[str, onnx.TypeProto] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class _Body:
    """A graph that a node holds, and the names visible in it: those outside, and its
    initializers.
    """

    graph: onnx.GraphProto
    names: ChainMap[str, Item | None]


def _to_nobody(_results: list[Item]) -> None:
    """The main graph's results are read from its names."""


class _Importer:
    def __init__(
        self, model: onnx.ModelProto, functions: dict[Key, onnx.FunctionProto], reader: TensorReader, dims: Dims,
        shapes: Shapes, fixed: Collection[str],
    ) -> None:  # fmt: skip
        self.model, self.functions, self.reader = model, functions, reader
        self.fixed = fixed  # free dims that the caller chose
        self.inputs = _InputShapes(dims, shapes)
        self.context = Context(Builder(identifier(model.graph.name)), reader)

    def run(self) -> Graph:
        graph = self.model.graph
        names: ChainMap[str, Item | None] = ChainMap()
        self._add_initializers(graph, names)
        self._add_inputs(graph, names)
        self.inputs.refuse_leftovers(self.context.builder.inputs)
        frame = self._frame_of(graph, names, opsets_of(self.model.opset_import), _to_nobody)
        self._check_annotations(frame, names)
        self._process(frame)
        results = [
            pair
            for output in graph.output
            for pair in _results(output.name, _present(names, output.name))
        ]
        for name, value in results:
            if value in self.context.narrow:
                raise UnsupportedOpError(f"the output {printable(name)!r} is {self.context.narrow[value].name}.",
                                         hint="Dequantize it in the model.")  # fmt: skip
        if len(dict(results)) < len(results):
            raise ModelError("two outputs of the model have one name.", hint="Rename one.")
        return _swept(
            self.context.builder.build(
                [value for _, value in results], [name for name, _ in results]
            )
        )

    # -- names of a graph --------------------------------------------------------------------------

    def _add_initializers(self, graph: onnx.GraphProto, names: ChainMap[str, Item | None]) -> None:
        if len(graph.sparse_initializer):
            raise ModelError(
                "the model has sparse initializers.", hint="Save them as dense tensors."
            )
        for tensor in graph.initializer:
            if not tensor.name:
                raise ModelError("an initializer has no name.", hint="Export the model again.")
            if tensor.name in names:
                raise ModelError(f"the initializer {printable(tensor.name)!r} is defined twice or shadows a name.",
                                 hint="Rename one.")  # fmt: skip
            self.context.builder.label = printable(tensor.name)
            names[tensor.name] = self.context.tensor(tensor)

    def _add_inputs(self, graph: onnx.GraphProto, names: ChainMap[str, Item | None]) -> None:
        """Inputs that are initializers too are weights (IR versions below 4 list them so)."""
        seen: set[str] = set()
        for info in graph.input:
            if not info.name or info.name in seen:
                raise ModelError(
                    f"the input {printable(info.name)!r} is defined twice or has no name.",
                    hint="Rename it.",
                )
            seen.add(info.name)
            if info.name in names:
                _check_annotation(
                    _present(names, info.name),
                    info.type,
                    printable(info.name),
                    self.inputs.are_changed,
                )
            else:
                names[info.name] = self.context.builder.input(self.inputs.type_of(info), info.name)

    def _frame_of(
        self, graph: AnyGraph, names: ChainMap[str, Item | None], opsets: Mapping[str, int],
        deliver: Callable[[list[Item]], _Frame | None], results: Sequence[str] | None = None,
    ) -> _Frame:  # fmt: skip
        """``results``: the outputs that are wanted, if not all."""
        annotated: Sequence[onnx.ValueInfoProto] = graph.value_info
        if isinstance(graph, onnx.GraphProto):
            results = [output.name for output in graph.output]
            annotated = [*annotated, *graph.output]
        wanted = list(graph.output) if results is None else list(results)  # type: ignore[arg-type]
        annotations = {info.name: info.type for info in annotated}
        nodes = ordered(graph.node, _Known(names), wanted)
        return _Frame(iter(nodes), names, opsets, wanted, deliver, annotations=annotations)

    def _check_annotations(self, frame: _Frame, names: Mapping[str, Item | None]) -> None:
        for name in names:
            self._check_annotation(frame, name, _present(names, name))

    def _check_annotation(self, frame: _Frame, name: str, value: Item) -> None:
        annotation = frame.annotations.get(name)
        if annotation is not None:
            _check_annotation(value, annotation, printable(name), self.inputs.are_changed)

    # -- nodes -------------------------------------------------------------------------------------

    def _process(self, first: _Frame) -> None:
        stack = [first]
        while stack:
            frame = stack[-1]
            node = next(frame.nodes, None)
            if node is not None:
                inner = self._step(frame, node)
                stack += [inner] if inner is not None else []
                continue
            stack.pop()
            following = frame.deliver([_present(frame.names, name) for name in frame.results])
            stack += [following] if following is not None else []

    def _define(self, frame: _Frame, name: str, value: Item) -> None:
        if name:
            frame.names[name] = value
            self._check_annotation(frame, name, value)

    def _step(self, frame: _Frame, node: onnx.NodeProto) -> _Frame | None:
        """Add one node; a frame comes back if it stands for a whole graph."""
        inputs = tuple(frame.names[name] if name else None for name in node.input)
        self.context.builder.label = label(node)
        function = self.functions.get(key_of(node))
        if function is not None:
            return self._call(frame, node, function, inputs, _attributes(node, frame.attributes))
        domain = key_of(node)[0]
        opset = frame.opsets.get(domain, 0)
        call = ModelNode(printable(node.op_type), node.domain, opset, label(node), inputs, tuple(node.output),
                         _attributes(node, frame.attributes))  # fmt: skip
        try:
            if domain:
                self._convert(frame, call, self._foreign(call, domain))
                return None
            schema = find_schema(node.op_type, opset)
            # possible in the body of a standard function only: else the model was refused before
            if schema is None:
                raise call.unsupported(
                    f"opset {opset} has no such op.", "Export the network with simpler ops."
                )
            check_node(schema, call, self.context.narrow)
            if call.op_type in INLINED:
                return self._inlined(frame, call)
            handler = HANDLERS.find(call.op_type, call.opset)
            if handler is None:
                return self._expansion(frame, node, call)
            narrow = self._narrow(call)
            self._convert(frame, call, handler)
            if narrow is not None and call.op_type in MOVE_NARROW:
                self._mark(frame, call, narrow)
        except NetloomError as error:
            hint = self._restrict(call) or error.hint
            if not error.node or error.node == call.label:
                raise type(error)(error.message, node=call.title, hint=hint) from error
            raise
        except (ValueError, OverflowError) as error:
            raise ModelError(
                f"it cannot be imported: {error}.", node=call.title, hint="Export it again."
            ) from error
        return None

    def _restrict(self, call: ModelNode) -> str:
        """Where numbers of a free dim would make the node fit, import again with these, or
        advise them if the caller chose.
        """
        found = restriction_of(self.context, call)
        if found is None:
            return ""
        symbol, chosen = found
        name, step = self.inputs.dim_of(symbol)
        if not name:
            return ""
        if name in self.fixed:
            if not isinstance(chosen, MultipleOf):
                return ""
            return f"It fits where {printable(name)} is a multiple of {chosen.factor * step}."
        most = LARGEST_DIM // step
        match chosen:
            case int() if symbol.hi == most and 1 <= chosen:
                raise Restriction(name, chosen * step)
            case range() if symbol.hi == most and chosen.start >= 1 and chosen[-1] < most:
                raise Restriction(name, range(chosen[0] * step, chosen[-1] * step + 1, step))
            case MultipleOf(factor) if isinstance(symbol.hi, int) and factor <= symbol.hi:
                raise Restriction(name, range(factor * step, symbol.hi * step + 1, factor * step))
        return ""

    def _narrow(self, call: ModelNode) -> Narrow | None:
        """The narrow dtype among a node's inputs; few ops take such inputs."""
        found = next(
            (
                self.context.narrow[x]
                for x in call.inputs
                if isinstance(x, Value) and x in self.context.narrow
            ),
            None,
        )
        if found is not None and call.op_type not in TAKE_NARROW | MOVE_NARROW:
            raise call.unsupported(
                f"it takes {found.name}, which is not supported here.",
                "Dequantize or cast it first.",
            )
        return found

    def _mark(self, frame: _Frame, call: ModelNode, narrow: Narrow) -> None:
        for name in call.outputs:
            value = frame.names[name]
            if isinstance(value, Value):
                self.context.narrow[value] = narrow

    def _foreign(self, call: ModelNode, domain: str) -> Handler:
        """The handler of an op outside the standard."""
        handler = DOMAINS[domain].find(call.op_type, call.opset) if domain in DOMAINS else None
        if handler is None:
            raise call.unsupported(
                "the op is not supported.", "Export the network with standard ops."
            )
        return handler

    def _expansion(self, frame: _Frame, node: onnx.NodeProto, call: ModelNode) -> _Frame:
        """The body of an op that the standard defines by other ops."""
        if not has_body(call.op_type, call.opset):
            raise call.unsupported(
                "the op is not supported.", "Export the network with simpler ops."
            )
        return self._call(frame, node, body_of(call), call.inputs, call.attributes)

    def _convert(self, frame: _Frame, call: ModelNode, handler: Handler) -> None:
        made = handler.convert(self.context, call)
        values = [made] if isinstance(made, Item) else list(made)
        for position, name in enumerate(call.outputs):
            value = values[position] if position < len(values) else None
            if name and value is None:
                raise call.unsupported(
                    f"its output {position} is not supported.", "Remove what reads it."
                )
            if value is not None:
                self._define(frame, name, value)

    def _inlined(self, frame: _Frame, call: ModelNode) -> _Frame | None:
        """The first graph of an If, Loop or Scan; its driver then says which follows, and with
        what.
        """

        def define(values: Sequence[Item]) -> None:
            for name, value in zip(call.outputs, values, strict=True):
                self._define(frame, name, value)

        driver = CONTROL_FLOW[call.op_type](self.context, call)
        bodies: dict[str, _Body] = {}

        def follow(step: Step) -> _Frame | None:
            """The frame of a step; the driver's results are defined after the last one."""
            if isinstance(step, Done):
                define(step.values)
                return None
            if step.graph not in bodies:
                bodies[step.graph] = self._body(frame, call.graph(step.graph))
            return self._body_frame(
                bodies[step.graph], frame, step.inputs, lambda values: follow(driver.next(values))
            )

        return follow(driver.first())

    def _body(self, frame: _Frame, graph: onnx.GraphProto) -> _Body:
        """A graph attribute: its initializers are added once, however often it is unrolled."""
        names = frame.names.new_child()
        self._add_initializers(graph, names)
        return _Body(graph, names)

    def _body_frame(
        self,
        body: _Body,
        outer: _Frame,
        inputs: Sequence[Item],
        deliver: Callable[[list[Item]], _Frame | None],
    ) -> _Frame:
        given = [info.name for info in body.graph.input]
        if len(set(given)) < len(given) or any(not name or name in body.names for name in given):
            raise ModelError(
                "an input of its graph has no name, or shadows another.", hint="Rename it."
            )
        names = body.names.new_child(dict(zip(given, inputs, strict=True)))
        inner = self._frame_of(body.graph, names, outer.opsets, deliver)
        return dataclasses.replace(inner, attributes=outer.attributes)

    def _call(
        self, caller: _Frame, node: onnx.NodeProto, function: onnx.FunctionProto, inputs: Sequence[Item | None],
        attributes: Mapping[str, AttributeProto],
    ) -> _Frame:  # fmt: skip
        """The body of a local function, its names its own."""
        if len(inputs) > len(function.input) or len(node.output) > len(function.output):
            raise ModelError(f"the function has {len(function.input)} inputs and {len(function.output)} outputs only.",
                             node=title(node), hint="Export it again.")  # fmt: skip
        if len(set(function.input)) < len(function.input):
            raise ModelError(
                "the function names an input twice.", node=title(node), hint="Rename it."
            )
        given: dict[str, Item | None] = dict(zip_longest(function.input, inputs))
        pairs = [
            (name, target)
            for name, target in zip(function.output, node.output, strict=False)
            if target
        ]

        def define(values: Sequence[Item]) -> None:
            for (_, target), value in zip(pairs, values, strict=True):
                self._define(caller, target, value)

        opsets = opsets_of(function.opset_import)
        frame = self._frame_of(
            function, ChainMap(given), opsets, define, [name for name, _ in pairs]
        )
        defaults = {attribute.name: attribute for attribute in function.attribute_proto}
        return dataclasses.replace(frame, attributes={**defaults, **attributes})


def _present(names: Mapping[str, Item | None], name: str) -> Item:
    """A value that must be there: only an input of a function may be absent."""
    value = names[name]
    if value is None:
        raise ModelError(
            f"{printable(name)!r} is an absent input.", hint="Give all inputs of the function."
        )
    return value


def _results(name: str, item: Item) -> list[tuple[str, Value]]:
    """An output of the graph; of a sequence, each of its tensors is one: name.0, name.1, .."""
    if isinstance(item, ValueSequence):
        return [(f"{name}.{position}", part) for position, part in enumerate(item.parts)]
    return [(name, item)]


class _Known(Collection[str]):
    """The names visible in a frame; "" never is."""

    def __init__(self, names: ChainMap[str, Item | None]) -> None:
        self._names = frozenset().union(*names.maps) if len(names.maps) > 1 else names.maps[0]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _attributes(
    node: onnx.NodeProto, outer: Mapping[str, AttributeProto]
) -> dict[str, AttributeProto]:
    """A node's attributes by name; references to a function's attributes are replaced."""
    found: dict[str, AttributeProto] = {}
    for attribute in node.attribute:
        if attribute.name in found:
            raise ModelError(f"attribute {printable(attribute.name)!r} is given twice.", node=title(node),
                             hint="Export it again.")  # fmt: skip
        if not attribute.ref_attr_name:
            found[attribute.name] = attribute
        elif attribute.ref_attr_name in outer:
            found[attribute.name] = outer[attribute.ref_attr_name]
    return found


# -- shapes of inputs ------------------------------------------------------------------------------


class _InputShapes:
    """Inputs' types under the caller's wishes; one symbol for each free dim."""

    def __init__(self, dims: Dims, shapes: Shapes) -> None:
        self.dims, self.shapes = dims, shapes
        self.symbols: dict[str, Extent] = {}
        self._taken: set[str] = set()

    @property
    def are_changed(self) -> bool:
        """Whether the caller changed shapes, so that the model's annotations are out of date."""
        return bool(self.dims or self.shapes)

    def type_of(self, info: onnx.ValueInfoProto) -> TensorType:
        """The type of an input."""
        shown = f"the input {printable(info.name)!r}"
        if not info.type.HasField("tensor_type"):
            raise ModelError(
                f"{shown} is no dense tensor.", hint="Only dense tensors are supported."
            )
        tensor = info.type.tensor_type
        dtype = dtype_of(tensor.elem_type, shown)
        if info.name in self.shapes:
            wanted = self.shapes[info.name]
            if not all(isinstance(extent, str | int) for extent in wanted):
                raise UsageError(
                    f"the shape {wanted!r} of {shown} holds more than numbers and names."
                )
            if tensor.HasField("shape") and len(tensor.shape.dim) != len(wanted):
                raise ShapeError(f"{shown} has rank {len(tensor.shape.dim)}; the shape given for it has {len(wanted)}.",
                                 hint="Give one extent for each axis.")  # fmt: skip
            extents = tuple(self._named(e) if isinstance(e, str) else e for e in wanted)
        elif tensor.HasField("shape"):
            extents = tuple(
                self._extent(d, f"{info.name}_{axis}") for axis, d in enumerate(tensor.shape.dim)
            )
        else:
            raise ShapeError(f"{shown} has no shape.", hint="Give one with shapes= (--shape).")
        check_shape(
            [e for e in extents if isinstance(e, int)]
            + [1] * sum(not isinstance(e, int) for e in extents),
            shown,
        )
        result = TensorType(dtype, extents)
        check_size(result)
        return result

    def _extent(self, entry: onnx.TensorShapeProto.Dimension, fallback: str) -> Extent:
        """A number; or a free dim, named by the model or by input and axis (-1 is written for it
        too).
        """
        if entry.HasField("dim_value") and entry.dim_value != -1:
            return int(entry.dim_value)
        return self._named(entry.dim_param or fallback)

    def _named(self, name: str) -> Extent:
        if name not in self.symbols:
            chosen = self.dims.get(name)
            match chosen:
                case int():
                    if chosen < 0:
                        raise UsageError(f"the dim {printable(name)} cannot be {chosen}.")
                    self.symbols[name] = chosen
                case None | range():
                    safe = identifier(name, self._taken)
                    self._taken.add(safe)
                    numbers = (
                        range(1, LARGEST_DIM + 1)
                        if chosen is None
                        else _checked_range(name, chosen)
                    )
                    step = numbers.step
                    self.symbols[name] = (
                        dim.symbol(safe, numbers[0] // step, numbers[-1] // step) * step
                    )
                case _:
                    raise UsageError(f"the dim {printable(name)} cannot be {chosen!r}.")
        return self.symbols[name]

    def dim_of(self, symbol: Symbol) -> tuple[str, int]:
        """The free dim that a symbol stands for, and how many times the symbol it is; no name if
        there is none.
        """
        for name, extent in self.symbols.items():
            if isinstance(extent, Dim) and symbol in extent.symbols():
                ((_, step),) = extent.terms
                return name, step
        return "", 1

    def refuse_leftovers(self, inputs: Sequence[Value]) -> None:
        """Names that the model lacks are mistakes of the caller."""
        names = [value.label for value in inputs]
        for name in self.shapes:
            if name not in names:
                raise UsageError(
                    f"the model has no input {name!r}.",
                    hint=f"It has {', '.join(map(repr, map(printable, names))) or 'none'}.",
                )
        for name in self.dims:
            if name not in self.symbols:
                free = ", ".join(printable(known) for known in self.symbols) or "none"
                raise UsageError(f"the model has no free dim {name!r}.", hint=f"It has {free}.")


def _checked_range(name: str, chosen: range) -> range:
    """Numbers that a free dim may be: all of a range, or the multiples of its step in it."""
    if chosen.step < 1 or len(chosen) == 0 or chosen.start < 0 or chosen.start % chosen.step:
        raise UsageError(
            f"the dim {printable(name)} cannot lie in {chosen}.",
            hint="Give a range such as range(1, 65), or of multiples, such as range(32, 641, 32).",
        )
    return chosen


# -- assertions and the last step ------------------------------------------------------------------


def _check_annotation(value: Item, annotation: onnx.TypeProto, name: str, is_changed: bool) -> None:
    """ShapeError where the model says otherwise than what was computed. Nothing is sized from
    annotations.
    """
    if isinstance(value, ValueSequence) or not annotation.HasField("tensor_type"):
        return
    tensor = annotation.tensor_type
    said = f"the model says that {name!r} is"
    narrow = NARROW.get(tensor.elem_type)
    dtype = (
        narrow.carrier
        if narrow
        else dtype_of(tensor.elem_type, name)
        if tensor.elem_type
        else value.dtype
    )
    if dtype is not value.dtype:
        raise ShapeError(f"{said} {dtype.value}, but it is {value.dtype.value}.",
                         hint="Run onnx.shape_inference on it again.")  # fmt: skip
    if not tensor.HasField("shape"):
        return
    claimed = [
        d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else None
        for d in tensor.shape.dim
    ]
    is_same = len(claimed) == value.type.rank and all(
        is_changed or c is None or not isinstance(e, int) or c == e
        for c, e in zip(claimed, value.shape, strict=False)
    )
    if not is_same:
        shown = ", ".join("?" if c is None else str(c) for c in claimed)
        raise ShapeError(
            f"{said} [{shown}], but it is {value.type}.",
            hint="Run onnx.shape_inference on it again.",
        )


def _swept(graph: Graph) -> Graph:
    """The graph without nodes that no output needs."""
    needed = set(graph.results)
    kept = []
    for node in reversed(graph.nodes):
        if needed.intersection(node.outputs):
            kept.append(node)
            needed.update(node.inputs)
    return dataclasses.replace(graph, nodes=tuple(reversed(kept)))
