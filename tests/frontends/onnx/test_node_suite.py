"""The node tests of the ONNX backend suite: what is imported means what the suite says; the rest is
refused clearly.

Every case is imported and interpreted. Where it feeds shapes, axes or bounds at run time that a
compiler must know before, it is imported again with its small inputs as initializers. What is
refused even so is listed in ``REFUSED``, exactly: a case that starts to pass must leave the list.
Every tenth case of each op, and the first, is compiled too (all of them with ``--shapes 300``),
many to a program.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from typing import Any, Final

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import numpy_helper
from onnx.backend.test.case.node import collect_testcases

from netloom.compiler.driver import compile_graph
from netloom.compiler.graph import Builder, Graph
from netloom.compiler.inline import inline
from netloom.compiler.interpret import interpret
from netloom.compiler.tensor_type import MAX_RANK
from netloom.errors import NetloomError
from netloom.frontends.onnx import from_onnx
from netloom.frontends.onnx.coverage import KNOWN
from netloom.frontends.onnx.random_numbers import RANDOM_NUMBERS
from netloom.frontends.onnx.registry import HANDLERS
from netloom.frontends.onnx.sequences import SEQUENCES
from netloom.runtime.session import Session

from .test_ops import CASES

Array = npt.NDArray[Any]

MOST_FIXED: Final = 64  # elements of an input that is made an initializer
PROGRAM: Final = 48  # cases compiled as one program


@dataclass(frozen=True)
class Refused:
    """Cases by pattern of their names (less "test_"), why they are refused, and words that the
    message must hold.
    """

    patterns: str
    reason: str
    words: str


REFUSED: Final = (
    Refused("adagrad* adam* momentum* nesterov_momentum", "ops of other domains",
            "Export without ops of that domain"),
    Refused("ai_onnx_ml_label_encoder_*", "labels that are strings", "element type STRING"),
    Refused("flexattention flexattention_scaled flexattention_gqa flexattention_diff_head_sizes "
            "flexattention_score_mod "
            "flexattention_prob_mod flexattention_fp16 flexattention_double "
            "flexattention_causal_mask flexattention_soft_cap "
            "flexattention_relative_positional", "preview ops",
            "Export without ops of that domain"),
    Refused("cast*_to_FLOAT8* cast*_to_FLOAT4* cast*_to_INT4* cast*_to_UINT4* cast*_to_INT2* "
            "cast*_to_UINT2*",
            "casts to dtypes of less than 8 bits, and float8", "which is not supported"),
    Refused("quantizelinear_int4 quantizelinear_uint4 quantizelinear_int2 quantizelinear_uint2",
            "outputs of less than 8 bits",
            "Dequantize it in the model"),
    Refused("quantizelinear_e* quantizelinear_float4e2m1", "quantization to float8 and less",
            "it quantizes to float"),
    Refused("tfidfvectorizer_* image_decoder_* regex_* string_* strnormalizer_*",
            "strings and files", "are no tensors"),
    Refused("equal_string*", "strings", "element type STRING"),
    Refused("identity_sequence identity_opt loop13_seq loop16_seq_none sequence_map_* "
            "sequence_insert_* "
            "optional_*_sequence optional_has_element_empty_optional_input",
            "sequences and optionals as inputs", "Only dense tensors"),
    Refused("scan_sum", "opset 8", "opset 8"),
)  # fmt: skip

# Cases whose expected outputs differ from what is right here, and why.
DIFFERENT: Final[Mapping[str, str]] = {
    "resize_downsample_scales_linear_align_corners": "the corner of the result's 2 elements, not "
    "of the 2.4 that 4 * 0.6 gives",
    "resize_downsample_scales_cubic_align_corners": "the corner of the result's 3 elements, not of "
    "the 3.2 that 4 * 0.8 gives",
    **dict.fromkeys(
        ("bernoulli_double", "bernoulli_seed", "bernoulli", "bernoulli_double_expanded",
         "bernoulli_seed_expanded", "bernoulli_expanded", "training_dropout_default",
         "training_dropout_default_mask", "training_dropout", "training_dropout_mask"),
        "other random numbers of the same distribution",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What became of a case: a graph and its first difference from the expected outputs, or the
    message that refused it.
    """

    op: str
    graph: Graph | None
    feeds: Mapping[str, Array]
    expected: Sequence[Any]
    tolerance: tuple[float, float]
    message: str  # of the refusal, or what differs; "" if all is right
    is_plain: bool = True  # imported as it is, no inputs made initializers


def array(data: Any) -> Array:
    """The suite's data are arrays, or tensors where NumPy lacks the dtype."""
    return numpy_helper.to_array(data) if isinstance(data, onnx.TensorProto) else np.asarray(data)


def difference(actual: Array, expected: Array, rtol: float, atol: float) -> str:
    """What differs beyond the case's own tolerance, or beyond the rounding of the expected values
    themselves; "" if nothing.

    Those are rounded to two steps each, and where terms cancelled, to a step of the largest.
    """
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        return f"{actual.dtype}{actual.shape} instead of {expected.dtype}{expected.shape}"
    try:
        if expected.dtype.kind in "fV":
            step = float(ml_dtypes.finfo(expected.dtype).eps)
            a, b = actual.astype(np.float64), expected.astype(np.float64)
            largest = np.abs(b[np.isfinite(b)]).max(initial=1.0)
            np.testing.assert_allclose(
                a, b, rtol=max(rtol, 2 * step), atol=max(atol, step * largest)
            )
        else:
            np.testing.assert_array_equal(actual, expected)
    except AssertionError as error:
        return " ".join(str(error).split())[:200]
    return ""


def differences(actual: Sequence[Array], outcome: Outcome) -> str:
    """The first difference of all outputs."""
    pairs = zip(actual, outcome.expected, strict=True)
    return next(filter(None, (difference(a, array(b), *outcome.tolerance) for a, b in pairs)), "")


def with_initializers(model: onnx.ModelProto, given: Sequence[Any], rank: int) -> onnx.ModelProto:
    """The model with its small inputs of rank 0 to ``rank`` as initializers."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.input[:]
    for info, data in zip(model.graph.input, given, strict=True):
        is_tensor = isinstance(data, np.ndarray | np.generic | onnx.TensorProto)
        if (
            is_tensor
            and array(data).ndim <= rank
            and array(data).size <= MOST_FIXED
            and array(data).dtype.kind in "iufbV"
        ):
            result.graph.initializer.append(numpy_helper.from_array(array(data), info.name))
        else:
            result.graph.input.append(info)
    return result


def imported(model: onnx.ModelProto, given: Sequence[Any]) -> tuple[Graph, bool]:
    """The graph of a model as it is (True), or else with its small inputs known: numbers and
    lists first, then all.
    """
    for rank in (-1, 1):
        try:
            return from_onnx(with_initializers(model, given, rank)), rank < 0
        except NetloomError:
            pass
    return from_onnx(with_initializers(model, given, MAX_RANK)), False


def outcome_of(case: Any) -> Outcome:
    ((given, expected),) = case.data_sets
    op, tolerance = case.model.graph.node[0].op_type, (case.rtol, case.atol)
    try:
        graph, is_plain = imported(case.model, given)
    except NetloomError as error:
        return Outcome(op, None, {}, expected, tolerance, str(error))
    # sequences are flat here
    expected = [part for data in expected for part in (data if isinstance(data, list) else [data])]
    data = dict(zip((info.name for info in case.model.graph.input), given, strict=True))
    feeds = {value.label: array(data[value.label]) for value in graph.inputs}
    run = Outcome(op, graph, feeds, expected, tolerance, "")
    return Outcome(
        op, graph, feeds, expected, tolerance, differences(interpret(graph, feeds), run), is_plain
    )


@cache
def outcomes() -> dict[str, Outcome]:
    """Of every case, by its name without "test_"."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = {case.name.removeprefix("test_"): case for case in collect_testcases(None)}
        return {name: outcome_of(case) for name, case in cases.items()}


def test_what_is_imported_is_right() -> None:
    wrong = {name: o.message for name, o in outcomes().items() if o.graph is not None and o.message}
    assert {name: message for name, message in wrong.items() if name not in DIFFERENT} == {}
    assert sorted(wrong) == sorted(DIFFERENT)


@pytest.mark.parametrize("row", REFUSED, ids=[row.reason for row in REFUSED])
def test_refusals_say_why(row: Refused) -> None:
    """Each pattern covers refused cases only, and each message says the same."""
    for pattern in row.patterns.split():
        covered = {name: o for name, o in outcomes().items() if fnmatchcase(name, pattern)}
        assert covered, f"{pattern} names no case"
        assert [name for name, o in covered.items() if o.graph is not None] == []
        assert {o.message for o in covered.values() if row.words not in o.message} == set()


def test_every_refusal_is_listed() -> None:
    patterns = [pattern for row in REFUSED for pattern in row.patterns.split()]
    refused = {name: o.message for name, o in outcomes().items() if o.graph is None}
    assert {
        n: m for n, m in refused.items() if not any(fnmatchcase(n, pattern) for pattern in patterns)
    } == {}


def test_what_must_be_known_is_documented() -> None:
    """Every op whose cases need initializers, and no other, says so in the documentation."""
    needed = {o.op for name, o in outcomes().items() if not o.is_plain and "expanded" not in name}
    assert needed == set(KNOWN)


def chosen(every: int) -> list[list[tuple[str, Outcome]]]:
    """The cases to compile, in groups: of each op the first, and every so manieth (of expanded
    functions, among their own).
    """
    by_op: dict[str, list[tuple[str, Outcome]]] = {}
    for name, outcome in sorted(outcomes().items()):
        if outcome.graph is not None and name not in DIFFERENT:
            by_op.setdefault("expanded" if "_expanded" in name else outcome.op, []).append(
                (name, outcome)
            )
    picked = [item for op in sorted(by_op) for item in by_op[op][::every]]
    return [picked[start : start + PROGRAM] for start in range(0, len(picked), PROGRAM)]


def joined(group: Sequence[tuple[str, Outcome]]) -> tuple[Graph, dict[str, Array]]:
    """One graph that computes all cases of a group, and its inputs."""
    b = Builder("node_suite")
    results, feeds = [], {}
    for position, (_, outcome) in enumerate(group):
        assert outcome.graph is not None
        arguments = [
            b.input(value.type, f"x{position}_{k}") for k, value in enumerate(outcome.graph.inputs)
        ]
        feeds |= {
            a.label: outcome.feeds[v.label]
            for a, v in zip(arguments, outcome.graph.inputs, strict=True)
        }
        results += inline(b, outcome.graph, arguments)
    return b.build(results), feeds


def test_compiled_code_is_right(shapes: int) -> None:
    wrong = {}
    for group in chosen(max(1, 300 // shapes)):
        graph, feeds = joined(group)
        session = Session.in_process(compile_graph(graph).image)
        found = iter(session.run(None, feeds))
        for name, outcome in group:
            if message := differences([np.array(next(found)) for _ in outcome.expected], outcome):
                wrong[name] = message
    assert wrong == {}


def test_every_handler_has_a_case() -> None:
    """Here or in test_ops.py; ops of sequences in test_sequences.py, random ones in
    test_random_numbers.py.
    """
    elsewhere = {*SEQUENCES.entries, *RANDOM_NUMBERS.entries}
    passed = {o.op for o in outcomes().values() if o.graph is not None}
    assert set(HANDLERS.entries) - elsewhere - passed - {case.op for case in CASES} == set()


def test_control_differences_are_seen() -> None:
    x = np.ones((2, 3), np.float32)
    assert difference(x, x, 1e-3, 1e-7) == ""
    assert difference(x * np.float32(1.01), x, 1e-3, 1e-7)
    assert difference(x[0], x, 1e-3, 1e-7)
    assert difference(x.astype(np.float64), x, 1e-3, 1e-7)
    assert difference(np.array([1, 2]), np.array([1, 3]), 1e-3, 1e-7)
