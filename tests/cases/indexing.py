"""Constants, indices, and ops that read or write where indices say."""

import numpy as np

from netloom.compiler.constant import Constant
from netloom.compiler.tensor_type import BOOL, FLOAT32, FLOAT64, INT64, DType, TensorType

from .case import N, row

_SCATTERS = (
    ("float32[5, 3]", "int64[7, 3] index:5", "float32[7, 3]", 0, 8),
    ("float32[3, 2]", "int64[3, 0]", "float32[3, 0]", 1, 1),
    ("float32[2, 17, 3]", "int32[2, 4, 3] index:17", "float32[2, 4, 3]", 1, 5),
    ("int32[19]", "uint8[40] label:19", "int32[40]", 0, 41),
    ("float32[3, N]", "int64[3, 4] index:5", "float32[3, 4]", 1, 5),
    ("bfloat16[2, 9]", "int64[2, 3] index:9", "bfloat16[2, 3]", 1, 4),
    ("float32[64] special", "int64[64] permutation:0", "float32[64] special:1", 0, 2),
)  # fmt: skip
INDEXING = [
    row("constant", value=Constant(np.arange(6, dtype=np.float32).reshape(2, 3))),
    row("constant", value=Constant(np.array(True))),
    row("constant", value=Constant.splat(7, TensorType(INT64, (3, 5)))),
    row("constant", value=Constant(np.zeros((0, 2), np.float16))),
    row("extent", extent=7), row("extent", extent=2 * N + 3),
    row("extent", extent=(N + 1) // 2 * N),
    row("iota", shape=(3, 5), axis=1, dtype=FLOAT32),
    row("iota", shape=(N, 3), axis=0, dtype=INT64),
    row("iota", shape=(N, 300), axis=1, dtype=DType.UINT8),
    row("iota", shape=(N,), axis=0, dtype=DType.BFLOAT16), row("iota", shape=(0,), axis=0),
    row("gather", "float32[5, 3]", "int64[2, 4] index:5", axis=0),
    row("gather", "float32[3, 5, 2]", "int32[4] index:5", axis=1),
    row("gather", "float32[7]", "uint8[] label:7", axis=0),
    row("gather", "int8[2, 7]", "int8[0] label:7", axis=1),
    row("gather", "float32[N, 3]", "int64[4] index:5", axis=0),
    row("gather", "float32[7, 3]", "int64[N] index:7", axis=0),
    row("gather", "float32[2, 1]", "int64[3, 1] index:1", axis=1),
    row("look_up", "float32[256]", "uint8[3, 40]"), row("look_up", "int32[256]", "int8[N, 5]"),
    row("gather_gradient", "float32[2, 4, 3]", "int64[2, 4] index:5", terms=8, axis=0, extent=5),
    row("gather_gradient", "float32[3, 4, 2]", "int32[4] index:5", terms=4, axis=1, extent=5),
    row("gather_gradient", "float32[]", "uint8[] label:7", axis=0, extent=7),
    row("gather_gradient", "float32[N, 3]", "int64[N] index:7", terms=5, axis=0, extent=7),
    row("gather_gradient", "float64[2, 0]", "int64[0]", axis=1, extent=3),
    row("one_hot", "int64[4] index:7", depth=5),
    row("one_hot", "uint8[2, 3] label:4", depth=4, dtype=FLOAT64),
    row("one_hot", "int32[]", depth=1, dtype=BOOL),
    row("one_hot", "int8[N] index:9", depth=17, dtype=DType.INT16),
    row("gather_elements", "float32[5, 3]", "int64[5, 7] index:3", axis=1),
    row("gather_elements", "int8[5, 3]", "int32[2, 3] index:5", axis=0),
    row("gather_elements", "float32[2, 7, 3]", "uint8[2, 20, 3] label:7", axis=1),
    row("gather_elements", "bool[4]", "int64[0]", axis=0),
    row("gather_elements", "float32[N, 3]", "int64[N, 2] index:3", axis=1),
    row("gather_elements", "bfloat16[N]", "int16[7] index:5", axis=0),
    row("gather_elements", "float64[1, 1]", "int64[1, 1] index:1", axis=0),
    *(row("scatter", x, indices, updates, terms=k, axis=axis, reduction=reduction)
      for reduction in ("add", "mul", "max", "min") for x, indices, updates, axis, k in _SCATTERS),
    row("scatter", "float64[4, 3]", "int64[9, 3] index:4", "float64[9, 3]", terms=10, axis=0),
    *(row("scatter_last", x, indices, updates, axis=axis)
      for x, indices, updates, axis, _ in _SCATTERS),
    row("scatter_last", "bool[4, 19]", "int32[2, 19] index:4", "bool[2, 19]", axis=0),
    row("scatter_last", "float16[0, 3]", "int64[0, 3]", "float16[0, 3]", axis=0),
    row("scatter_source", "int64[2, 9] index:5", axis=1, extent=5),
    row("scatter_source", "int32[4, 3] index:2", axis=0, extent=20),
    row("scatter_source", "uint8[N] label:7", axis=0, extent=7),
    row("scatter_source", "int64[3] index:5", axis=0, extent=N),
    row("scatter_source", "int64[0, 2]", axis=0, extent=3),
    row("inverse_positions", "int64[3, 19] permutation:1", axis=1, size=19),
    row("inverse_positions", "int64[37, 2] permutation:0", axis=0, size=5),
    row("inverse_positions", "int64[N, 3] permutation:0", axis=0, size=N),
    row("inverse_positions", "int64[1] permutation:0", axis=0, size=1),
    row("inverse_positions", "int64[2, 0, 3]", axis=1, size=0),
]  # fmt: skip
