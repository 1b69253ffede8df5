"""Who reads an image: convolutions, for which it should lie in blocks of channels, or nobody but who
gets the results.
"""

from __future__ import annotations

from ...graph import Graph, Node
from .elementwise import is_elementwise
from .tiles import computes_tiles


def meets_blocks(graph: Graph, node: Node) -> bool:
    """Whether a convolution reads what is made of an image element by element, or picked of it."""
    pending, seen = [node], {node}
    while pending:
        for reader in graph.users.get(pending.pop().output, ()):
            if reader.op.name == "conv" or computes_tiles(reader):
                return True
            if _keeps_image(reader) and reader not in seen:
                seen.add(reader)
                pending.append(reader)
    return False


def becomes_results(graph: Graph, node: Node) -> bool:
    """Whether an image is read element by element only, and in the end by nobody: results of a
    graph are row-major."""
    pending, seen = [node], {node}
    while pending:
        for reader in graph.users.get(pending.pop().output, ()):
            if not is_elementwise(reader):
                return False
            if reader not in seen:
                seen.add(reader)
                pending.append(reader)
    return True


def _keeps_image(node: Node) -> bool:
    return is_elementwise(node) or node.op.name in ("gather", "pad", "concat")
