"""All handlers: the one table of what can be imported, and the remedies for what cannot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from .convolution import CONVOLUTION
from .data_dependent import DATA_DEPENDENT
from .einsum import EINSUM
from .elementwise import ELEMENTWISE
from .handler import HandlerTable
from .indexing import INDEXING
from .loops import CONTROL_FLOW
from .machine_learning import MACHINE_LEARNING
from .matmul import MATMUL
from .microsoft import ADDED_TO_STANDARD, MICROSOFT
from .normalization import NORMALIZATION
from .padding import PADDING
from .pooling import POOLING
from .powers import POWERS
from .quantization import QUANTIZATION
from .random_numbers import RANDOM_NUMBERS
from .recurrent import RECURRENT
from .reduction import REDUCTION
from .regions import REGIONS
from .resize import RESIZE
from .sampling import SAMPLING
from .scatter import SCATTER
from .sequences import SEQUENCES
from .shape import SHAPE
from .slicing import SLICING
from .suppression import SUPPRESSION
from .transforms import TRANSFORMS

HANDLERS: Final = HandlerTable(
    CONVOLUTION,
    DATA_DEPENDENT,
    EINSUM,
    ELEMENTWISE,
    INDEXING,
    MATMUL,
    NORMALIZATION,
    PADDING,
    POOLING,
    POWERS,
    QUANTIZATION,
    RANDOM_NUMBERS,
    RECURRENT,
    REDUCTION,
    REGIONS,
    RESIZE,
    SAMPLING,
    SCATTER,
    SEQUENCES,
    SHAPE,
    SLICING,
    SUPPRESSION,
    TRANSFORMS,
)

DOMAINS: Final[Mapping[str, HandlerTable]] = {
    "": HANDLERS,
    "ai.onnx.ml": MACHINE_LEARNING,
    "com.microsoft": MICROSOFT,
}

# the importer treats them itself: their sub-graphs are inlined
INLINED: Final = frozenset(CONTROL_FLOW)

REMEDIES: Final[Mapping[str, str]] = {
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

# what to do about single ops outside the standard
FOREIGN_REMEDIES: Final[Mapping[tuple[str, str], str]] = {
    **dict.fromkeys(
        (
            ("com.microsoft", name)
            for name in ("BeamSearch", "GreedySearch", "Sampling", "WhisperBeamSearch")
        ),
        "It runs a whole decoder until data end it: import the decoder, and search outside.",
    ),
    ("com.microsoft", "Tokenizer"): "Strings are no tensors: cut the model behind it, and do this "
    "step outside.",
    ("com.microsoft", "WordConvEmbedding"): "Export it as Gather, Conv, Tanh and ReduceMax.",
}

# what to do about other ops outside the standard that have no handler
DOMAIN_REMEDIES: Final[Mapping[str, str]] = {
    "ai.onnx.ml": "Strings and dictionaries are no tensors: convert the model with integer labels "
    "and without DictVectorizer, or cut it.",
    "com.microsoft": "Export without ONNX Runtime's optimizations (graph_optimization_level).",
    "com.microsoft.nchwc": "Optimize at the level ORT_ENABLE_EXTENDED at most: the layouts of "
    "higher ones hold for one machine.",
}

__all__ = [
    "ADDED_TO_STANDARD",
    "DOMAINS",
    "DOMAIN_REMEDIES",
    "FOREIGN_REMEDIES",
    "HANDLERS",
    "INLINED",
    "REMEDIES",
]
