"""x @ y = sum over parts of x[:, part] @ y[part]: products with too few tiles for a device become
more and shorter ones.

A kernel that is a product of few tiles is cut in two: the first makes each part's sums, as a tensor
of ``addends``; the second adds these in order and does what was fused behind the product. What is
cut, and into how many parts, depends on shapes alone. Values are the same up to the order of
float32 additions.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...graph import Builder, Graph, Node, Value, finish, rebuilder
from ...loops.build import anchor_of
from ...ops.kernels import KernelAttrs
from ...tensor_type import FLOAT32
from .addends import ADDENDS, AddendsAttrs
from .devices import BLOCKS
from .forms import Engine, Form, Product, blocks, count, nominal
from .schedule import plan_kernel
from .tilings import NO_TILINGS, Tilings

FEWEST_TERMS = 128  # of a part: shorter ones cost more to add up than they save
MOST_PARTS = 31  # one thread adds them up


def parts_of(form: Form, tilings: Tilings = NO_TILINGS) -> int:
    """Into how many parts a form is cut: as many as were measured to be best for its size, else as
    many as the device has room for, none with less than FEWEST_TERMS terms.
    """
    tiles = blocks(form)
    if not isinstance(form, Product) or not isinstance(tiles, int) or not tiles:
        return 1
    tiling = tilings.of(form)
    if tiling is not None and tiling.parts:
        return min(tiling.parts, MOST_PARTS)
    return max(1, min(BLOCKS // tiles, nominal(count(form.terms)) // FEWEST_TERMS, MOST_PARTS))


def split_products(graph: Graph, engine: Engine, tilings: Tilings = NO_TILINGS) -> Graph:
    """The graph of kernels with products of few tiles cut in two kernels each."""
    b, mapping = rebuilder(graph)
    for node in graph.nodes:
        inputs = [mapping[v] for v in node.inputs]
        anchor = anchor_of(node.attrs.body) if node.op.name == "kernel" else None
        is_candidate = (
            anchor is not None and anchor.output.dtype is FLOAT32 and len(anchor.inputs) == 2
        )
        number = 1
        if is_candidate:
            number = parts_of(plan_kernel(node.attrs.body, engine, tilings).form, tilings)
        if anchor is None or number == 1:
            mapping.update(zip(node.outputs, b.copy(node, inputs), strict=True))
        else:
            mapping[node.output] = _cut(b, node, anchor, number, inputs)
    return finish(b, graph, mapping)


def _cut(b: Builder, node: Node, anchor: Node, number: int, inputs: Sequence[Value]) -> Value:
    """The two kernels of a product; the value of the second."""
    body: Graph = node.attrs.body
    arguments = dict(zip(body.inputs, inputs, strict=True))
    first = _Body(arguments)
    first.add_all(body, anchor.output)
    sums = first.kernel(
        b, node, first.body.add(ADDENDS, [first.inner[anchor.output]], AddendsAttrs(number)).output
    )
    second = _Body(arguments)
    second.inner[anchor.output] = second.body(
        "reduce_sum", second.argument(sums, sums), axes=(0,), keep=False
    )
    (out,) = body.outputs
    second.add_all(body, out)
    return second.kernel(b, node, second.inner[out])


class _Body:
    """A kernel's graph in the making, over as few inputs as it reads."""

    def __init__(self, arguments: dict[Value, Value]) -> None:
        self.body = Builder("kernel")
        self.outer = arguments
        self.inner: dict[Value, Value] = {}
        self.arguments: list[Value] = []

    def argument(self, value: Value, outer: Value) -> Value:
        """A new input."""
        self.inner[value] = Value(value.type, f"x{len(self.arguments)}", value.layout)
        self.body.inputs.append(self.inner[value])
        self.arguments.append(outer)
        return self.inner[value]

    def add_all(self, graph: Graph, root: Value) -> None:
        """The nodes that ``root`` depends on and that are not there yet, in order."""
        wanted = {root}
        for node in reversed(graph.nodes):
            if node.output in wanted and node.output not in self.inner:
                wanted.update(node.inputs)
        for node in graph.nodes:
            if node.output not in wanted or node.output in self.inner:
                continue
            for value in node.inputs:
                if value not in self.inner:
                    self.argument(value, self.outer[value])
            (self.inner[node.output],) = self.body.copy(node, [self.inner[v] for v in node.inputs])

    def kernel(self, b: Builder, node: Node, root: Value) -> Value:
        """The kernel's node in the graph of kernels."""
        finished = self.body.build([root])
        return b.add(
            node.op,
            self.arguments,
            KernelAttrs(finished),
            node.label,
            [Value(root.type, node.output.label)],
        ).output


__all__ = ["split_products"]
