"""Norms, softmax and losses."""

from .case import row

_VECTOR = "float32[6]"
NORMALIZATION = [
    row("batch_norm", "float32[2, 6, 3, 5]", _VECTOR, _VECTOR, _VECTOR, "float32[6] positive",
        epsilon=0.125),
    row("batch_norm", "bfloat16[2, 3, 5]", "bfloat16[3]", "bfloat16[3]", "bfloat16[3]",
        "bfloat16[3] positive", terms=2),
    row("layer_norm", "float16[3, 9]", "float16[9]", "float16[9]", terms=9, axis=1),
    row("batch_norm", "float32[N, 6]", _VECTOR, _VECTOR, _VECTOR, "float32[6] positive"),
    row("layer_norm", "float32[3, 4, 7]", "float32[7]", "float32[7]", terms=7, axis=2),
    row("layer_norm", "float32[3, 4, 7]", "float32[4, 7]", "float32[4, 7]", terms=28, axis=1,
        epsilon=0.25),
    row("layer_norm", "float32[N, 5]", "float32[5]", "float32[5]", terms=5, axis=1),
    row("rms_norm", "float32[3, 4, 7]", "float32[7]", terms=7, axis=2),
    row("rms_norm", "float32[9]", "float32[9]", terms=9, axis=0),
    row("group_norm", "float32[2, 6, 3, 5]", _VECTOR, _VECTOR, terms=30, groups=3, epsilon=0.125),
    row("group_norm", "float32[2, 6, 5]", _VECTOR, _VECTOR, terms=30, groups=1),
    row("group_norm", "float32[1, 6, 4]", _VECTOR, _VECTOR, terms=4, groups=6),
    row("instance_norm", "float32[2, 6, 3, 5]", _VECTOR, _VECTOR, terms=15, epsilon=0.125),
    row("instance_norm", "float32[1, 6, 7]", _VECTOR, _VECTOR, terms=7),
    row("lrn", "float32[2, 7, 5, 3]", terms=5, size=5, alpha=0.5, beta=0.75, bias=2.0),
    row("lrn", "float32[1, 5, 7]", terms=4, size=4, alpha=0.25, beta=0.5, bias=1.0),
    row("lrn", "float32[2, 3, 4, 4]", terms=1, size=1, alpha=0.5),
    *(row(op, text, terms=k, axis=axis)
      for op in ("softmax", "log_softmax")
      for text, axis,
      k in (("float32[4, 21]", 1, 21), ("float32[4, 21, 3] far", 1, 21), ("float64[5, 1, 3]", 0, 5),
            ("float32[1]", 0, 1),
                            ("float32[N, 7]", 1, 7), ("float32[7, N]", 0, 7),
                            ("float32[0, 4]", 1, 4), ("float16[3, 9]", 1, 9),
                            ("float32[2, 5] nan", 1, 5), ("float32[3, 8] special", 0, 3))),
    row("cross_entropy", "float32[4, 7]", "int64[4] label:7", terms=28),
    row("cross_entropy", "float32[2, 5, 3]", "int32[2, 3] label:5", terms=30),
    row("cross_entropy", "float32[9, 3]", "int64[9] index:5", terms=27),
    row("cross_entropy", "float32[N, 7] far", "uint8[N] label:7", terms=35),
    row("mean_squared_error", "float32[3, 7]", "float32[3, 7]", terms=21),
    row("mean_squared_error", "float32[N]", "float32[N]", terms=5),
]  # fmt: skip
