"""States that a run never changes become constants: the weights of an inference graph."""

from __future__ import annotations

import dataclasses

from ..graph import Graph
from ..rewrite import Rewriter


def freeze_states(graph: Graph) -> Graph:
    """The graph with its unchanged states replaced by their initial constants; changing states
    stay.
    """
    frozen = [state for state in graph.states if state.is_unchanged]
    if not frozen:
        return graph
    changing = dataclasses.replace(
        graph, states=tuple(state for state in graph.states if not state.is_unchanged)
    )
    rewriter = Rewriter(changing)
    for state in frozen:
        rewriter.replace_source(
            state.input, rewriter.constant(state.initial, label=state.input.label)
        )
    rewriter.run(changing.nodes, lambda _rewriter, _node: None)
    return rewriter.finish(changing)
