"""Every op, by family. Importing this package fills ``compiler.op.OPS``."""

from . import (  # noqa: F401
    attention,
    convolution,
    elementwise,
    fft,
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
    trigonometry,
    windows,
    winograd,
)  # fmt: skip
