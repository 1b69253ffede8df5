"""The table of what can be imported, as Markdown: ``python -m netloom.frontends.onnx.coverage >
docs/onnx-coverage.md``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import onnx.defs

from .handler import LATEST_OPSET
from .loops import CONTROL_FLOW
from .registry import ADDED_TO_STANDARD, DOMAINS, INLINED, REMEDIES
from .schema import find_schema
from .standard_function import has_body

# Inputs that decide shapes or code, and so must be initializers, or be computed from shapes and
# initializers alone.
NARROW: Final = "inputs of less than 8 bits, or float8"
KNOWN: Final[Mapping[str, str]] = {
    "Cast": NARROW, "CastLike": NARROW, "DequantizeLinear": NARROW,
    "AffineGrid": "size", "BlackmanWindow": "size", "CenterCropPad": "shape",
    "Col2Im": "image_shape, block_shape",
    "ConstantOfShape": "input", "CumProd": "axis", "CumSum": "axis",
    "DFT": "dft_length, axis",
    "Expand": "shape", "HammingWindow": "size", "HannWindow": "size",
    "If": "cond, unless both branches give the same types", "Loop": "M, if results are stacked and nothing bounds it",
    "MaxUnpool": "output_shape", "MelWeightMatrix": "all", "OneHot": "depth",
    "OptionalGetElement": "input, if it is an input of the model",
    "OptionalHasElement": "input, if it is an input of the model",
    "Pad": "pads, axes",
    "Range": "start, limit, delta", "ReduceL1": "axes", "ReduceL2": "axes", "ReduceLogSum": "axes",
    "ReduceLogSumExp": "axes",
    "ReduceMax": "axes", "ReduceMean": "axes", "ReduceMin": "axes", "ReduceProd": "axes",
    "ReduceSum": "axes",
    "ReduceSumSquare": "axes", "Reshape": "shape", "Resize": "roi, scales, sizes",
    "STFT": "frame_step, frame_length",
    "Slice": "axes, steps; starts and ends where a step is negative", "Split": "split", "SplitToSequence": "split",
    "Squeeze": "axes", "Tile": "repeats; before opset 6 tiles, axis",
    "Unique": "X, where slices along an axis are compared", "Unsqueeze": "axes", "Upsample": "scales",
}  # fmt: skip

HEAD: Final = f"""# Which ONNX ops are imported

Written by `python -m netloom.frontends.onnx.coverage`; a test compares it with the code. Opsets 1
to {LATEST_OPSET}.

"Known at import" names inputs that must be initializers, or follow from shapes and initializers.
Free dims may be part of shapes, but not of axes and repeats. Results that are as long as data say
(NonMaxSuppression, NonZero, Compress, Unique, Slice and TopK with bounds that are data) have dims
that each run decides; shapes that follow from them are known too, and other integers that data
decide may be part of shapes and numbers of steps if something bounds them. Sequences and optionals live at import
only: their lengths must be known, and they cannot be inputs of the model. `netloom check
model.onnx` says for one model what is missing.

Random ops (RandomNormal, RandomUniform, their Like forms, Bernoulli, Multinomial, Dropout in training
mode) draw from a generator by counter, Philox-4x32-10. Their numbers have the distribution of ONNX
Runtime's, but not its bits. Nodes of one `seed` and shape draw the same; a node without a seed has
the number of its place among such nodes instead. A program draws the same numbers in every run, for
any number of threads; turns of a loop and steps of a training (`nl.trainable`) draw others. If runs
are to differ, make the random numbers an input of the model.
"""


def table() -> str:
    """The page."""
    parts = [
        HEAD,
        "## Standard ops\n",
        "| op | opsets | how | known at import |",
        "|---|---|---|---|",
    ]
    parts += [_standard_row(op_type) for op_type in _standard_ops()]
    parts += ["", "## Not imported\n", "| op | what to do |", "|---|---|"]
    parts += [
        f"| {op} | {REMEDIES.get(op, 'Export the network with simpler ops.')} |"
        for op in _missing_ops()
    ]
    parts += ["", "## Experimental ops, and ONNX Runtime's in the standard's domain\n"]
    parts += [", ".join(sorted(ADDED_TO_STANDARD.entries)) + "."]
    for domain, handlers in DOMAINS.items():
        if domain:
            parts += ["", f"## {domain}\n", ", ".join(sorted(handlers.entries)) + "."]
    return "\n".join(parts) + "\n"


def _all_ops() -> Iterator[str]:
    """Every op type of the standard that is in force at some opset."""
    schemas = onnx.defs.get_all_schemas_with_history()
    yield from sorted({s.name for s in schemas if not s.domain and s.since_version <= LATEST_OPSET})


def _standard_ops() -> Iterator[str]:
    return (op for op in _all_ops() if _opsets(op))


def _missing_ops() -> Iterator[str]:
    return (op for op in _all_ops() if not _opsets(op))


def _opsets(op_type: str) -> list[int]:
    """The opsets in which an op is imported."""
    return [opset for opset in range(1, LATEST_OPSET + 1) if _how(op_type, opset)]


def _how(op_type: str, opset: int) -> str:
    """How an op is imported; "" if it is not."""
    schema = find_schema(op_type, opset)
    if schema is None or schema.is_deprecated:
        return ""
    if op_type in INLINED:
        if opset < getattr(CONTROL_FLOW[op_type], "first_opset", 1):
            return ""
        return "branches" if op_type == "If" else "turns, few of them unrolled"
    if DOMAINS[""].find(op_type, opset):
        return "own rule"
    return "the standard's function" if has_body(op_type, opset) else ""


def _standard_row(op_type: str) -> str:
    opsets = _opsets(op_type)
    return f"| {op_type} | {_ranges(opsets)} | {_how(op_type, opsets[-1])} | {KNOWN.get(op_type, '')} |"


def _ranges(numbers: Sequence[int]) -> str:
    """1, 2, 3, 7 as "1-3, 7"."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)


if __name__ == "__main__":
    print(table(), end="")
