"""The host code, entered through the C interface: what it refuses, and with which words."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from netloom import abi
from netloom.compiler.dim import Dim
from netloom.compiler.program import Entry, Launch, Port
from netloom.compiler.targets.cpu.features import FEATURES, Feature
from netloom.compiler.targets.cpu.jit import load_in_process
from netloom.compiler.targets.cpu.variant import Variant
from netloom.errors import CpuFeatureError, InputError, ToolchainError, VerificationError
from netloom.runtime.buffer import Tensors
from netloom.runtime.session import Session
from tests.compiler.targets.cpu import small_programs as small
from tests.compiler.targets.cpu.host_calls import Raw, random, session_of, tensors
from tests.compiler.targets.cpu.small_programs import N, float32


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (
            np.zeros((3, 5), np.float32),
            r'The input "x" must be float32\[N, 4\] \(here float32\[3, 4\]\), but float32\[3, 5\] was given',
        ),
        (
            np.zeros(4, np.float32),
            r'The input "x" must be float32\[N, 4\], but float32\[4\] was given',
        ),
        (np.zeros((65, 4), np.float32), r"with N from 1 to 64, but float32\[65, 4\] was given"),
        (np.zeros((0, 4), np.float32), r"with N from 1 to 64, but float32\[0, 4\] was given"),
    ],
)
def test_wrong_shapes(x: np.ndarray, text: str) -> None:
    session = session_of(small.chain())
    with pytest.raises(InputError, match=text):
        session(x)
    assert session(random(2, 4)).shape == (2, 4)  # still usable


def test_two_inputs_must_agree_on_a_dim() -> None:
    ports = (Port("a", float32(Dim.of(N))), Port("b", float32(Dim.of(N))))
    session = session_of(small.program([Entry("run", ports, (), (), ())], symbols=[N]))
    with pytest.raises(
        InputError,
        match=r'"b" must be float32\[N\] \(here float32\[3\]\), but float32\[4\] was given',
    ):
        session(random(3), random(4))


def _set(**fields: Any) -> Callable[[Any], None]:
    def change(tensor: Any) -> None:
        for name, value in fields.items():
            setattr(tensor, name, value)

    return change


_STRIDED = (ctypes.c_int64 * 2)(8, 1)
_COMPACT = (ctypes.c_int64 * 2)(4, 1)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (_set(data=None), 'The input "x" has no data: its pointer is null.'),
        (
            _set(strides=ctypes.addressof(_STRIDED)),
            'The input "x" has strides; pass a compact row-major tensor.',
        ),
        (
            _set(shape=None),
            'The input "x" must be float32[5, 4], but float32 of rank 2 without a usable shape was given.',
        ),
        (
            _set(ndim=-1),
            'The input "x" must be float32[5, 4], but float32 of rank -1 without a usable shape was given.',
        ),
        (
            _set(ndim=1 << 30),
            'The input "x" must be float32[5, 4], but float32 of rank 1073741824 without a usable shape was given.',
        ),
        (
            lambda t: setattr(t.device, "device_type", 2),
            'The input "x" must be in CPU memory (device type 1), but device type 2 was given.',
        ),
        (
            lambda t: setattr(t.dtype, "lanes", 4),
            'The input "x" must be float32[5, 4], but an unknown dtype [5, 4] was given.',
        ),
        (
            _set(byte_offset=2),
            'The data of the input "x" must be aligned to its elements of 4 bytes.',
        ),
    ],
)
def test_bad_tensors(change: Callable[[Any], None], text: str) -> None:
    raw, x, y = Raw(small.doubling()), random(5, 4), np.zeros((5, 4), np.float32)
    assert raw.run(tensors(x, change), tensors(y)) == (abi.CODE["NL_ERROR_INPUT"], text)
    code, other = raw.run(tensors(x), tensors(y, change))
    assert (code, other.replace("output", "input").replace('"y"', '"x"')) == (
        abi.CODE["NL_ERROR_INPUT"],
        text,
    )
    assert raw.run(tensors(x, _set(strides=ctypes.addressof(_COMPACT))), tensors(y))[0] == 0
    np.testing.assert_array_equal(y, 2 * x)
    raw.close()


def test_counts_and_null_arrays() -> None:
    raw, x, y = Raw(small.doubling()), random(5, 4), random(5, 4)
    both = Tensors([x, x], ["float32"] * 2)
    assert raw.run(both, tensors(y)) == (
        abi.CODE["NL_ERROR_INPUT"],
        'The program takes 1 inputs: "x"; 2 were given.',
    )
    assert raw.run(tensors(x), both)[1] == 'The program gives 1 outputs: "y"; 2 were asked for.'
    assert raw.run(None, tensors(y)) == (
        abi.CODE["NL_ERROR_ARGUMENT"],
        "The array of inputs is null.",
    )
    assert raw.run(tensors(x), None) == (
        abi.CODE["NL_ERROR_ARGUMENT"],
        "The array of outputs is null.",
    )
    assert raw.api["run"](None, None, 0, None, 0) == abi.CODE["NL_ERROR_ARGUMENT"]
    raw.close()


def test_overlapping_outputs_are_refused() -> None:
    raw, memory = Raw(small.doubling()), np.zeros(40, np.float32)
    x, y = memory[:20].reshape(5, 4), memory[19:39].reshape(5, 4)
    assert raw.run(tensors(x), tensors(y)) == (
        abi.CODE["NL_ERROR_INPUT"],
        'The memory of the output "y" overlaps that of "x".',
    )
    assert raw.run(tensors(x), tensors(memory[20:].reshape(5, 4)))[0] == 0
    raw.close()


def test_an_index_error_flag_becomes_an_error() -> None:
    session = session_of(small.checking(), 2)
    with pytest.raises(InputError, match=r"A run-time index was out of range \(check 7\)"):
        session(np.array([1, 2, -3, 4], np.int32))
    np.testing.assert_array_equal(session(np.arange(4, dtype=np.int32)), np.arange(4))


def test_hostile_names_are_data() -> None:
    name = 'a"\n%s%n\0\x1b' + "x" * 10_000
    session = session_of(small.doubling(name=name, x=name, y="y" + name))
    with pytest.raises(InputError, match=r"a\\\"\\n%s%n\\u0000") as error:
        session.run(None, {name: np.zeros((5, 5), np.float32)})
    assert len(str(error.value)) < 1000


def test_missing_features_are_an_error_at_open(monkeypatch: pytest.MonkeyPatch) -> None:
    disabled = Feature(
        1, 0, 2, 0, 1 << 62
    )  # the processor has it, but the operating system does not save its registers
    # a leaf past the last, where some processors repeat another leaf
    beyond = Feature(0x70000000, 0, 0, 0)
    for imagined in (disabled, beyond):
        monkeypatch.setitem(FEATURES, "imagined", imagined)
        with pytest.raises(
            CpuFeatureError, match="needs the CPU feature imagined, which this machine lacks"
        ):
            Session.in_process(
                load_in_process([Variant(small.doubling(), small.kernels(), ["sse2", "imagined"])])
            )


def test_features_of_this_machine_are_found() -> None:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    flags = {word for line in lines if line.startswith("flags") for word in line.split()}
    names = {
        "avx2": "avx2",
        "fma": "fma",
        "sse4.2": "sse4_2",
        "avx512f": "avx512f",
        "avx512vnni": "avx512_vnni",
        "bmi2": "bmi2",
        "lzcnt": "abm",
        "f16c": "f16c",
        "avx512bf16": "avx512_bf16",
        "amx-tile": "amx_tile",
        "movbe": "movbe",
    }
    found = [name for name, flag in names.items() if flag in flags]
    program = load_in_process([Variant(small.doubling(), small.kernels(), found)])
    assert Session.in_process(program)(random(5, 4)).shape == (5, 4)
    for name in names.keys() - found:
        program = load_in_process([Variant(small.doubling(), small.kernels(), [name])])
        with pytest.raises(CpuFeatureError):
            Session.in_process(program)


def test_what_the_host_cannot_build_is_refused() -> None:
    with pytest.raises(
        ToolchainError, match=r"The CPU features warp-drive are unknown\. Known are"
    ):
        load_in_process([Variant(small.doubling(), small.kernels(), ["warp-drive"])])
    entry = small.doubling().entries[0]
    with pytest.raises(VerificationError, match="cannot be named 'free'"):
        load_in_process(
            [Variant(small.program([Entry("run", (), (), (Launch("free", (), (), 1),), ())]), [])]
        )
    with pytest.raises(VerificationError, match="no entry dance"):
        load_in_process(
            [Variant(small.program([Entry("dance", entry.inputs, entry.outputs, (), ())]), [])]
        )
