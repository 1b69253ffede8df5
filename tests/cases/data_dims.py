"""Rows of data_dim, and of the ops that count and choose what becomes one."""

from __future__ import annotations

from netloom.compiler.dim import symbol
from netloom.compiler.graph import Builder, Graph
from netloom.compiler.tensor_type import FLOAT32, TensorType

from .case import N, row

_TURNS = [symbol(f"turn_{number}") for number in range(2)]


def _handed_on() -> Graph:
    """x w + turn"""
    b = Builder("turn")
    x, w = (b.input(TensorType(FLOAT32, (3,)), name) for name in "xw")
    number = b("cast", b("extent", extent=_TURNS[0]), dtype=FLOAT32)
    return b.build([b("add", b("mul", x, w), number)])


def _stacked() -> Graph:
    """An entry of x times the turn."""
    b = Builder("turn")
    place = b("extent", extent=_TURNS[1])
    entry = b("gather", b.input(TensorType(FLOAT32, (N, 3)), "x"), place, axis=0)
    return b.build([b("mul", entry, b("cast", place, dtype=FLOAT32))])


DATA_DIMS = [
    row("data_dim", "int64[] label:9", extent=symbol("K", 0, 8), bound=8),
    row("iterate", "float32[3] inside", "float32[3] inside", terms=10, body=_handed_on(),
        turn=_TURNS[0], count=5, handed_on=1),
    row("iterate", "float32[N, 3]", body=_stacked(), turn=_TURNS[1], count=N, handed_on=0),
    row("running_sum", "int64[37]"),
    row("running_sum", "int64[2, 3, 19]"),
    row("running_sum", "int64[N, 5]"),
    row("running_sum", "int64[3, N] wide"),
    row("running_sum", "int64[2, 0]"),
    row("running_sum", "float32[2, 40]", terms=40),
    row("running_sum", "float16[3, N]", terms=8),
    row("running_sum", "int32[2, 9] wide"),
    row("running_sum", "int64[0, 4]"),
    row("running_sum", "int64[4, 0]", axis=0),
    row("running_sum", "float32[9, 70]", terms=9, axis=0),
    row("running_sum", "float32[2, N, 3]", terms=8, axis=1, reverse=True),
    row("running_sum", "float16[5, 2, N]", terms=5, axis=0, exclusive=True),
    row("running_sum", "int32[2, 6, 17] wide", axis=1, exclusive=True, reverse=True),
    row("running_sum", "int64[3, 5]", axis=1, exclusive=True, reverse=True),
    row("true_positions", "bool[37]", size=30),
    row("true_positions", "bool[2, 3, 19]", size=5),
    row("true_positions", "bool[N, 5]", size=0),
    row("true_positions", "bool[3, N]", size=40),
    row("true_positions", "bool[2, 0]", size=3),
    row("true_positions", "bool[0, 4]", size=3),
    row("search_sorted", "int64[41] ascending", "int64[70]"),
    row("search_sorted", "int64[2, 3, 19] ascending", "int64[2, 3, 17]"),
    row("search_sorted", "int64[N] ascending", "int64[1100]"),
    row("search_sorted", "int64[3, 8] ascending", "int64[3, N]"),
    row("search_sorted", "int64[N, 1] ascending", "int64[N, 16]"),
    row("search_sorted", "int64[2, 0]", "int64[2, 3]"),
    row("search_sorted", "int64[4] ascending", "int64[0]"),
    *(row("order_keys", text, descending=descending)
      for text in ("float32[2, 37] special", "float32[70] nan", "bfloat16[19] special",
                   "float16[3, 18]", "int8[40] wide", "uint32[33] wide", "float32[N]")
      for descending in (False, True)),
    *(row("order_keys", text, descending=descending, half=half)
      for text, descending in (("float64[2, 40] special", False), ("uint64[21] wide", True),
                               ("int64[3, N] wide", False), ("float64[70] nan", True))
      for half in ("lower", "upper")),
    row("merge_sort", "int64[1] wide"),
    row("merge_sort", "int64[16] wide"),
    row("merge_sort", "int64[2, 3, 33] wide"),
    row("merge_sort", "int64[2, 700] wide"),
    row("merge_sort", "int64[3, N] wide"),
    row("merge_sort", "int64[N, 40]"),
    row("merge_sort", "int64[2, 0]"),
    row("merge_sort", "int64[0, 4]"),
    row("first_places", "float32[37] special", size=5),
    row("first_places", "float32[2, 3, 70] nan", size=17, descending=True),
    row("first_places", "float64[2, 40] special", size=16, descending=True),
    row("first_places", "bfloat16[3, 19] special", size=19),
    row("first_places", "uint8[2, 200] wide", size=33, descending=True),
    row("first_places", "int64[3, 90] wide", size=48),
    row("first_places", "uint64[50] wide", size=1),
    row("first_places", "float16[N, 33]", size=3),
    row("first_places", "int32[3, N + 6]", size=6, descending=True),
    row("first_places", "float32[0, 4]", size=2),
    row("first_places", "float32[2, 90] special", size=30, is_ranked=False),
    row("first_places", "float64[3, 57] nan", size=9, descending=True, is_ranked=False),
    row("first_places", "uint8[70] wide", size=64, descending=True, is_ranked=False),
    row("first_places", "int64[2, N + 20] wide", size=20, is_ranked=False),
    row("first_places", "uint64[40] wide", size=40, descending=True, is_ranked=False),
    row("first_places", "bfloat16[3, 33] special", size=1, is_ranked=False),
    row("run_sum", "float32[37, 20]", "int64[37] ascending", terms=37),
    row("run_sum", "float32[1100, 3]", "int64[1100] index:2", terms=1100),
    row("run_sum", "float64[N, 70]", "int64[N] ascending", terms=5),
    row("run_sum", "float16[9, N]", "int64[9]", terms=9),
    row("run_sum", "float32[0, 4]", "int64[0]"),
    row("run_sum", "float32[4, 0]", "int64[4]"),
    row("suppress", "float32[4, 50] boxes", "bool[50]", "float32[] inside"),
    row("suppress", "float32[2, 3, 4, 33] boxes", "bool[2, 3, 33]", "float32[] inside"),
    row("suppress", "float64[3, 4, N] boxes", "bool[3, N]", "float64[] inside"),
    row("suppress", "float32[N, 4, 17] boxes", "bool[N, 17]", "float32[] inside"),
    row("suppress", "float32[2, 4, 0]", "bool[2, 0]", "float32[]"),
    row("suppress", "float32[4, 20] special", "bool[20]", "float32[] inside"),
    row("suppress", "float32[4, 50] boxes", "bool[50]", "float32[] inside", most=3),
    row("suppress", "float32[2, 4, 90] boxes", "bool[2, 90]", "float32[] inside", most=17),
    row("suppress", "float64[3, 4, N] boxes", "bool[3, N]", "float64[] inside", most=1),
    row("suppress", "float32[N, 4, 17] boxes", "bool[N, 17]", "float32[] inside", most=16),
    row("suppress", "float32[2, 4, 0]", "bool[2, 0]", "float32[]", most=5),
    row("suppress", "float32[4, 20] special", "bool[20]", "float32[] inside", most=300),
]  # fmt: skip
