"""Every op, by family. Importing this package fills ``compiler.op.OPS``."""

from . import (  # noqa: F401
    convolution,
    elementwise,
    indexing,
    kernels,
    loss,
    matmul,
    normalization,
    pooling,
    random_numbers,
    reduction,
    scatter,
    shape,
    sorting,
    transforms,
    trigonometry,
)  # fmt: skip
