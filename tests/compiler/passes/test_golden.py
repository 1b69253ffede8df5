"""Each file in tests/golden is one case: a graph, a line ``=>``, and the graph that the pass makes
of it.

The file's name begins with the pass: ``simplify.movement.txt``. ``pytest --update-golden`` writes
the second half anew.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from netloom.compiler.graph import Graph
from netloom.compiler.passes.bind_dims import bind_dims
from netloom.compiler.passes.decompose import decompose
from netloom.compiler.passes.differentiate import gradient_graph
from netloom.compiler.passes.eliminate_common import eliminate_common
from netloom.compiler.passes.eliminate_dead import eliminate_dead
from netloom.compiler.passes.fold_batchnorm import fold_batchnorm
from netloom.compiler.passes.fold_constants import fold_constants
from netloom.compiler.passes.freeze_states import freeze_states
from netloom.compiler.passes.simplify import simplify
from netloom.compiler.text import parse_graph, print_graph
from netloom.compiler.verify import verify

FOLDER = Path(__file__).parents[2] / "golden"
FILES = sorted(FOLDER.glob("*.txt"))


def _differentiate(graph: Graph) -> Graph:
    return gradient_graph(graph, "loss", [state.name for state in graph.states])


PASSES = {
    "bind_dims": lambda graph: bind_dims(graph, {"N": 4}),
    "decompose": decompose,
    "differentiate": _differentiate,
    "eliminate_common": eliminate_common,
    "eliminate_dead": eliminate_dead,
    "fold_batchnorm": fold_batchnorm,
    "fold_constants": fold_constants,
    "freeze_states": freeze_states,
    "simplify": simplify,
}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_golden(file: Path, request: pytest.FixtureRequest) -> None:
    before, _, expected = file.read_text(encoding="utf-8").partition("=>\n")
    graph = parse_graph(before)
    verify(graph)
    result = PASSES[file.name.partition(".")[0]](graph)
    verify(result)
    after = print_graph(result)
    if request.config.getoption("--update-golden"):
        file.write_text(f"{print_graph(graph)}=>\n{after}", encoding="utf-8")
    else:
        assert after == expected


def test_every_pass_has_a_golden_text() -> None:
    assert {file.name.partition(".")[0] for file in FILES} == set(PASSES)
