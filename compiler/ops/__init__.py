"""Every op, by family. Importing this package fills ``compiler.op.OPS``."""

from ..op import OPS, Op

_BEFORE = frozenset(OPS.values())

from . import (  # noqa: E402, F401
    attention,
    attention_gradient,
    convolution,
    data_dims,
    depth_to_space,
    elementwise,
    fft,
    indexing,
    iteration,
    kernels,
    look_up,
    loss,
    matmul,
    merging,
    normalization,
    padding,
    pooling,
    random_numbers,
    reduction,
    runs,
    scatter,
    searching,
    selecting,
    slicing,
    sorting,
    suppression,
    trigonometry,
    views,
    windows,
    winograd,
)  # fmt: skip

# the compiler's own ops, whose sources the cache's keys cover; a user's are defined elsewhere
OWN: frozenset[Op] = frozenset(OPS.values()) - _BEFORE
