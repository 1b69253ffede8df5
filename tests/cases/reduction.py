"""Reductions, positions of extremes, and sorting."""

from .case import row

_SHAPES: tuple[tuple[str, tuple[int, ...], bool, int], ...] = (
    ("float32[3, 37]", (1,), False, 37),
    ("float32[3, 5, 7]", (0, 2), True, 21),
    ("float64[2, 1, 3, 1, 4]", (1, 2, 4), False, 12),
    ("float32[4]", (0,), True, 4),
    ("float32[]", (), False, 1),
    ("float32[3, 0]", (1,), False, 0),
    ("float32[0, 3]", (1,), False, 3),
    ("float32[N, 3]", (0,), False, 5),
    ("float32[3, 5] nan", (0,), False, 3),
    ("float32[5, 8] special", (0,), False, 5),
    ("int32[3, 5]", (0,), False, 3),
    ("uint8[17]", (0,), False, 17),
    ("int64[3, 0]", (1,), True, 0),
    ("bfloat16[3, 19]", (1,), False, 19),
    ("float16[19, 3]", (0,), False, 19),
)
REDUCTION = [
    *(row(op, text, terms=k, axes=axes, keep=keep)
      for op in ("reduce_sum", "reduce_product", "reduce_max", "reduce_min", "reduce_mean")
      for text, axes, keep, k in _SHAPES if op != "reduce_product" or k <= 21),
    row("reduce_sum", "float32[2000] positive", terms=2000, axes=(0,)),
    row("reduce_product", "float32[3, 18] positive", terms=18, axes=(1,)),
    row("reduce_mean", "float32[0, 3]", axes=(0,)),
    row("reduce_product", "float32[9, 5] zeros", terms=5, axes=(1,)),
    *(row(op, text, axis=axis, keep=keep, last=last)
      for op in ("argmax", "argmin")
      for text, axis, keep,
      last in (("float32[5, 19] halves", 1, False, False), ("float32[5, 19] halves", 0, True, True),
                                     ("float64[1]", 0, False, False),
                                     ("float32[3, 9] nan", 1, False, False),
                                     ("int32[2, 30, 2]", 1, False, True),
                                     ("uint8[N, 3]", 0, True, False),
                                     ("float32[19] special", 0, False, True),
                                     ("float32[0, 3]", 1, False, False))),
    *(row("sort_positions", text, axis=axis, descending=descending)
      for descending in (False, True)
      for text,
      axis in (("float32[3, 19]", 1), ("float32[40, 2] halves", 0),
               ("float32[2, 21, 3] special", 1), ("float64[1]", 0),
                         ("float32[2, 9] nan", 1), ("float32[0, 3]", 1), ("float32[3, 0]", 1),
                         ("float32[N, 5] halves", 0),
                         ("bfloat16[17] halves", 0), ("float16[2, 5]", 1), ("int32[37]", 0),
                         ("uint64[67] wide", 0), ("int8[67] wide", 0))),
]  # fmt: skip
