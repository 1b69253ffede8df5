"""THE table of ops: for every op, the inputs on which tests and benchmarks try it.

A row names an op, its inputs as "dtype[shape] domain", its attributes, and how many terms one
element of the result adds (the k of the derived tolerance). Shapes are awkward on purpose: extents
of 1, none a multiple of 16, scalars, empty ones, free dims. What the op must give is in
tests/oracle/, under the op's name; how it is checked, in tests/test_cases.py.
"""

from .attention import ATTENTION
from .case import DIMS, FREE, Case, Input, N, row
from .convolution import CONVOLUTION
from .data_dims import DATA_DIMS
from .domains import draw
from .elementwise import ELEMENTWISE
from .indexing import INDEXING
from .matmul import MATMUL
from .normalization import NORMALIZATION
from .pooling import POOLING
from .random_numbers import RANDOM_NUMBERS
from .reduction import REDUCTION
from .shape import SHAPE
from .transforms import TRANSFORMS

__all__ = ["CASES", "DIMS", "FREE", "Case", "Input", "N", "draw", "row"]

CASES = (
    *ELEMENTWISE,
    *REDUCTION,
    *MATMUL,
    *CONVOLUTION,
    *POOLING,
    *NORMALIZATION,
    *ATTENTION,
    *SHAPE,
    *INDEXING,
    *DATA_DIMS,
    *RANDOM_NUMBERS,
    *TRANSFORMS,
)
