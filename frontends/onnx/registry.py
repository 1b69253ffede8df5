"""All handlers: the one table of what can be imported, and the remedies for what cannot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from .control_flow import CONTROL_FLOW
from .convolution import CONVOLUTION
from .data_dependent import CUT_BEFORE, DATA_DEPENDENT
from .einsum import EINSUM
from .elementwise import ELEMENTWISE
from .handler import HandlerTable
from .indexing import INDEXING
from .matmul import MATMUL
from .microsoft import MICROSOFT
from .normalization import NORMALIZATION
from .pooling import POOLING
from .quantization import QUANTIZATION
from .recurrent import RECURRENT
from .reduction import REDUCTION
from .regions import REGIONS
from .resize import RESIZE
from .sampling import SAMPLING
from .scatter import SCATTER
from .sequences import SEQUENCES
from .shape import SHAPE
from .transforms import TRANSFORMS

HANDLERS: Final = HandlerTable(
    CONVOLUTION,
    DATA_DEPENDENT,
    EINSUM,
    ELEMENTWISE,
    INDEXING,
    MATMUL,
    NORMALIZATION,
    POOLING,
    QUANTIZATION,
    RECURRENT,
    REDUCTION,
    REGIONS,
    RESIZE,
    SAMPLING,
    SCATTER,
    SEQUENCES,
    SHAPE,
    TRANSFORMS,
)

DOMAINS: Final[Mapping[str, HandlerTable]] = {"": HANDLERS, "com.microsoft": MICROSOFT}

# the importer treats them itself: their sub-graphs are inlined
INLINED: Final = frozenset(CONTROL_FLOW)

REMEDIES: Final[Mapping[str, str]] = {
    "NonMaxSuppression": CUT_BEFORE,
    **dict.fromkeys(
        (
            "Bernoulli",
            "Multinomial",
            "RandomNormal",
            "RandomNormalLike",
            "RandomUniform",
            "RandomUniformLike",
        ),
        "Make the random numbers an input of the model.",
    ),
    **dict.fromkeys(
        (
            "RegexFullMatch",
            "StringConcat",
            "StringNormalizer",
            "StringSplit",
            "TfIdfVectorizer",
            "ImageDecoder",
        ),
        "Strings and files are no tensors: cut the model behind it, and do this step outside.",
    ),
    "ConstantFill": "It was an experimental op: convert the model with onnx.version_converter, or use ConstantOfShape.",
}
