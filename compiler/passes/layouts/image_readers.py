"""Who reads an image: convolutions, for which it should lie in blocks of channels, or nobody but who
gets the results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ...graph import Graph, Node
from .elementwise import is_elementwise
from .tiles import computes_tiles


def meets_blocks(graph: Graph, node: Node) -> bool:
    """Whether a convolution reads what is made of an image element by element, or picked of it."""
    readers = _followed(graph, node, _keeps_image)
    return any(reader.op.name == "conv" or computes_tiles(reader) for reader in readers)


def becomes_results(graph: Graph, node: Node) -> bool:
    """Whether an image is read element by element only, and in the end by nobody: results of a
    graph are row-major."""
    return all(map(is_elementwise, _followed(graph, node, is_elementwise)))


def _followed(graph: Graph, node: Node, keeps: Callable[[Node], bool]) -> Iterator[Node]:
    """Who reads an image, or what those that ``keeps`` is true of make of it; each once."""
    pending, seen = [node], {node}
    while pending:
        for reader in graph.users.get(pending.pop().output, ()):
            if reader not in seen:
                seen.add(reader)
                yield reader
                if keeps(reader):
                    pending.append(reader)


def _keeps_image(node: Node) -> bool:
    return is_elementwise(node) or node.op.name in ("gather", "pad", "concat")
