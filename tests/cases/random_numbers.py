"""Random numbers from a key."""

from netloom.compiler.tensor_type import FLOAT64, DType

from .case import N, row

_KEY = "uint32[4] wide"
RANDOM_NUMBERS = [
    *(row(op, _KEY, shape=shape, **kind)
      for op,
      kind in (("random_bits", {}), ("random_uniform", {}), ("random_uniform", {"dtype": FLOAT64}),
                       ("random_normal", {}), ("random_normal", {"dtype": DType.FLOAT16}))
      for shape in ((5, 37), (), (0, 3), (3,), (N, 2))),
    row("dropout", "float32[5, 7]", _KEY, rate=0.25), row("dropout", "float64[3]", _KEY, rate=0.0),
    row("dropout", "float32[N, 9]", _KEY, rate=0.75),
]  # fmt: skip
