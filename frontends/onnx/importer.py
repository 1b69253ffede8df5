"""ONNX model -> Graph. The model is untrusted: whatever it holds, the result is a graph or one
clear ModelError.

Shapes are recomputed from the inputs' shapes; the model's own annotations are assertions. Names
stay data. Nested graphs and local functions are inlined with an explicit stack, so depth is no
limit.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections import ChainMap
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from itertools import zip_longest

import onnx
from onnx import AttributeProto

from netloom.compiler.graph import Builder, Graph, Value
from netloom.compiler.rewrite import without_dead_nodes
from netloom.errors import ModelError, ModelWarning, NetloomError, UnsupportedOpError, UsageError

from .annotations import check_annotation, check_annotations, contradiction_of, summary_of
from .context import Context
from .control_flow import Done, Step
from .frame import Body, Frame, KnownNames, present_item, resolved_attributes
from .functions import Key, check_expansion, key_of, local_functions
from .handler import Handler
from .input_shapes import Dims, InputShapes, Shapes
from .loops import CONTROL_FLOW
from .model_file import Source, opsets_of, read_model
from .names import identifier, printable
from .narrow import mark_moved, narrow_input
from .node import Item, ModelNode, named_tensors
from .order import AnyGraph, label, ordered, title
from .registry import ADDED_TO_STANDARD, DOMAINS, HANDLERS, INLINED
from .restriction import Restriction, restrict
from .schema import check_node, find_schema
from .standard_function import body_of, has_body
from .support import refuse_unsupported, report_support
from .tensors import TensorReader
from .turns import iterated


def from_onnx(source: Source, *, dims: Dims | None = None, shapes: Shapes | None = None) -> Graph:
    """Read an ONNX model as a graph for inference.

    ``dims`` gives free dims by name a number, a range of numbers, with a step those that it
    divides, or the name of the free dim that they equal; and integers that data decide, by the name
    of their tensor, a range from 0 on. ``shapes`` replaces the shapes of inputs, where a name is a
    free dim. Free dims that neither fixes stay free (1 to 10^9, or as far as the nodes fit). Raises
    ModelError if the model is malformed, UnsupportedOpError naming every op that is not known,
    UsageError for names that the model lacks. Warns (ModelWarning) where the result is not quite
    what the model says: of maps that become tensors, of shapes that it gives wrongly.
    """
    file = read_model(source)
    model = file.model
    functions = local_functions(model)
    check_expansion(model, functions)
    refuse_unsupported(report_support(model, functions))
    limits: dict[str, int | range | str] = {}
    notes: list[str] = []
    while True:
        importer = _Importer(
            model,
            functions,
            TensorReader(file.folder, file.apart, file.outside),
            {**limits, **(dims or {})},
            shapes or {},
            fixed=dims or {},
            notes=notes,
        )
        try:
            return importer.run()
        except Restriction as found:
            limits[found.name] = found.chosen
            notes += [found.note] if found.note else []


def _to_nobody(_results: list[Item]) -> None:
    """The main graph's results are read from its names."""


class _Importer:
    def __init__(
        self, model: onnx.ModelProto, functions: dict[Key, onnx.FunctionProto], reader: TensorReader, dims: Dims,
        shapes: Shapes, fixed: Collection[str], notes: Sequence[str],
    ) -> None:  # fmt: skip
        self.model, self.functions, self.reader = model, functions, reader
        self.fixed = fixed  # free dims that the caller chose
        self.inputs = InputShapes(dims, shapes)
        self.contradictions: list[str] = []  # of the model's annotations
        self.context = Context(Builder(identifier(model.graph.name)), reader)
        self.context.notes += notes

    def run(self) -> Graph:
        graph = self.model.graph
        names: ChainMap[str, Item | None] = ChainMap()
        self._add_initializers(graph, names)
        self._add_inputs(graph, names)
        tensors = {name for node in graph.node for name in node.output} | {*names}
        self.inputs.refuse_leftovers(self.context.builder.inputs, tensors)
        for name in names:
            self._bound(name, present_item(names, name))
        frame = self._frame_of(graph, names, opsets_of(self.model.opset_import), _to_nobody)
        check_annotations(names, frame.annotations, self.inputs.are_changed)
        self._process(frame)
        results = [
            pair
            for output in graph.output
            for pair in named_tensors(output.name, present_item(names, output.name))
        ]
        for name, value in results:
            if value in self.context.narrow:
                raise UnsupportedOpError(f"the output {printable(name)!r} is {self.context.narrow[value].name}.",
                                         hint="Dequantize it in the model.")  # fmt: skip
        if len(dict(results)) < len(results):
            raise ModelError("two outputs of the model have one name.", hint="Rename one.")
        for note in (*self.context.notes, *summary_of(self.contradictions)):
            warnings.warn(note, ModelWarning, stacklevel=3)  # of who calls from_onnx
        return without_dead_nodes(
            self.context.builder.build(
                [value for _, value in results], [name for name, _ in results]
            )
        )

    # -- names of a graph --------------------------------------------------------------------------

    def _add_initializers(self, graph: onnx.GraphProto, names: ChainMap[str, Item | None]) -> None:
        for name, constant in self._initializers(graph):
            if not name:
                raise ModelError("an initializer has no name.", hint="Export the model again.")
            if name in names.maps[0]:  # in a nested graph it hides a name outside
                raise ModelError(f"the initializer {printable(name)!r} is defined twice.",
                                 hint="Rename one.")  # fmt: skip
            self.context.builder.label = printable(name)
            names[name] = constant()

    def _initializers(self, graph: onnx.GraphProto) -> Iterator[tuple[str, Callable[[], Value]]]:
        """(name, what makes its value)"""
        for tensor in graph.initializer:
            yield tensor.name, partial(self.context.tensor, tensor)
        for sparse in graph.sparse_initializer:
            name = sparse.values.name
            what = f"the sparse initializer {printable(name)!r}"
            yield name, partial(self.context.sparse_tensor, sparse, what)

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
                check_annotation(
                    present_item(names, info.name),
                    info.type,
                    printable(info.name),
                    self.inputs.are_changed,
                )
            else:
                names[info.name] = self.context.builder.input(self.inputs.type_of(info), info.name)

    def _frame_of(
        self, graph: AnyGraph, names: ChainMap[str, Item | None], opsets: Mapping[str, int],
        deliver: Callable[[list[Item]], Frame | None], results: Sequence[str] | None = None,
    ) -> Frame:  # fmt: skip
        """``results``: the outputs that are wanted, if not all."""
        annotated: Sequence[onnx.ValueInfoProto] = graph.value_info
        if isinstance(graph, onnx.GraphProto):
            results = [output.name for output in graph.output]
            annotated = [*annotated, *graph.output]
        wanted = list(graph.output) if results is None else list(results)  # type: ignore[arg-type]
        annotations = {info.name: info.type for info in annotated}
        nodes = ordered(graph.node, KnownNames(names), wanted)
        return Frame(iter(nodes), names, opsets, wanted, deliver, annotations=annotations)

    # -- nodes -------------------------------------------------------------------------------------

    def _process(self, first: Frame) -> None:
        stack = [first]
        while stack:
            frame = stack[-1]
            node = next(frame.nodes, None)
            if node is not None:
                inner = self._step(frame, node)
                stack += [inner] if inner is not None else []
                continue
            stack.pop()
            following = frame.deliver([present_item(frame.names, name) for name in frame.results])
            stack += [following] if following is not None else []

    def _define(self, frame: Frame, name: str, value: Item) -> None:
        if name:
            frame.names[name] = value
            self._bound(name, value)
            if (said := frame.annotations.get(name)) is not None:
                changed = self.inputs.are_changed
                found = contradiction_of(value, said, printable(name), changed)
                self.contradictions += [found] if found else []

    def _bound(self, name: str, value: Item) -> None:
        """Makes extents of integers that data decide, where the caller says how large they are."""
        most = self.inputs.most_of(name)
        if most is None or not isinstance(value, Value) or self.context.contents(value) is not None:
            return
        if self.context.decided(value, most, identifier(name)) is None:
            raise UsageError(
                f"{printable(name)!r} is {value.type}, which has no range.",
                hint="Ranges are of free dims, and of integers that become extents.",
            )

    def _step(self, frame: Frame, node: onnx.NodeProto) -> Frame | None:
        """Add one node; a frame comes back if it stands for a whole graph."""
        inputs = tuple(frame.names[name] if name else None for name in node.input)
        self.context.builder.label = label(node)
        function = self.functions.get(key_of(node))
        if function is not None:
            return self._call(
                frame, node, function, inputs, resolved_attributes(node, frame.attributes)
            )
        domain = key_of(node)[0]
        opset = frame.opsets.get(domain, 0)
        call = ModelNode(printable(node.op_type), node.domain, opset, label(node), inputs, tuple(node.output),
                         resolved_attributes(node, frame.attributes), tuple(node.input))  # fmt: skip
        try:
            outside = self._outside(call, domain)
            if outside is not None:
                self._convert(frame, call, outside)
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
            narrow = narrow_input(self.context, call)
            self._convert(frame, call, handler)
            outputs = (frame.names.get(name) for name in call.outputs)
            mark_moved(self.context, call, narrow, outputs)
        except NetloomError as error:
            raise self._explained(frame, call, error) from error
        except (ValueError, ArithmeticError, LookupError) as error:
            raise ModelError(
                f"it cannot be imported: {error}.", node=call.title, hint="Export it again."
            ) from error
        return None

    def _explained(self, frame: Frame, call: ModelNode, error: NetloomError) -> NetloomError:
        """The error with its node, and with what would help; Restriction if that can be done here."""
        cause = frame.undecided() or error
        hint = restrict(self.context, self.inputs, self.fixed, call, cause) or error.hint
        is_own = error.node in ("", call.label, call.title)
        return type(error)(error.message, node=call.title, hint=hint) if is_own else error

    def _outside(self, call: ModelNode, domain: str) -> Handler | None:
        """The handler of an op that the standard does not have; None for the standard's own."""
        if not domain:
            is_standard = find_schema(call.op_type, call.opset) is not None
            return None if is_standard else ADDED_TO_STANDARD.find(call.op_type, call.opset)
        handler = DOMAINS[domain].find(call.op_type, call.opset) if domain in DOMAINS else None
        if handler is None:
            raise call.unsupported(
                "the op is not supported.", "Export the network with standard ops."
            )
        return handler

    def _expansion(self, frame: Frame, node: onnx.NodeProto, call: ModelNode) -> Frame:
        """The body of an op that the standard defines by other ops."""
        if not has_body(call.op_type, call.opset):
            raise call.unsupported(
                "the op is not supported.", "Export the network with simpler ops."
            )
        return self._call(frame, node, body_of(call), call.inputs, call.attributes)

    def _convert(self, frame: Frame, call: ModelNode, handler: Handler) -> None:
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

    def _inlined(self, frame: Frame, call: ModelNode) -> Frame | None:
        """The first graph of an If, Loop or Scan; its driver then says which follows, and with
        what.
        """

        def define(values: Sequence[Item]) -> None:
            for name, value in zip(call.outputs, values, strict=True):
                self._define(frame, name, value)

        driver = CONTROL_FLOW[call.op_type](self.context, call)
        if (turns := driver.turns()) is not None:
            try:
                define(iterated(self.context, call, turns, partial(self._applied, frame, call)))
                return None
            except NetloomError as error:
                driver.why = error
        bodies: dict[str, Body] = {}

        def advance(values: list[Item]) -> Frame | None:
            try:
                return follow(driver.next(values))
            except NetloomError as error:
                raise self._explained(frame, call, error) from error

        def follow(step: Step) -> Frame | None:
            """The frame of a step; the driver's results are defined after the last one."""
            if isinstance(step, Done):
                define(step.values)
                return None
            if step.graph not in bodies:
                bodies[step.graph] = self._body(frame, call.graph(step.graph))
            inner = self._body_frame(bodies[step.graph], frame, step.inputs, advance)
            inner.undecided = lambda: frame.undecided() or driver.undecided()
            return inner

        return follow(driver.first())

    def _applied(self, frame: Frame, call: ModelNode, inputs: Sequence[Item]) -> list[Item]:
        """The results of a node's body, imported at once. Loops that hold each other so are few:
        see ``turns.py``.
        """
        results: list[Item] = []
        body = self._body(frame, call.graph("body"))
        self._process(self._body_frame(body, frame, inputs, results.extend))
        return results

    def _body(self, frame: Frame, graph: onnx.GraphProto) -> Body:
        """A graph attribute: its initializers are added once, however often it is unrolled."""
        names = frame.names.new_child()
        self._add_initializers(graph, names)
        return Body(graph, names)

    def _body_frame(
        self,
        body: Body,
        outer: Frame,
        inputs: Sequence[Item],
        deliver: Callable[[list[Item]], Frame | None],
    ) -> Frame:
        given = [info.name for info in body.graph.input]
        own = body.names.maps[0]
        if len(set(given)) < len(given) or any(not name or name in own for name in given):
            raise ModelError(
                "an input of its graph has no name, or that of another or of an initializer.",
                hint="Rename it.",
            )
        names = body.names.new_child(dict(zip(given, inputs, strict=True)))
        inner = self._frame_of(body.graph, names, outer.opsets, deliver)
        # exporters annotate bodies with the shapes of branches that are never taken
        return dataclasses.replace(inner, attributes=outer.attributes, annotations={})

    def _call(
        self, caller: Frame, node: onnx.NodeProto, function: onnx.FunctionProto, inputs: Sequence[Item | None],
        attributes: Mapping[str, AttributeProto],
    ) -> Frame:  # fmt: skip
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
