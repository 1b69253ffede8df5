"""shfl.sync and ex2.approx in the emulator, against NumPy, and what they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.ptx_emulator.machine import emulate
from tests.ptx_emulator.memory import MemoryFault
from tests.ptx_emulator.test_machine import kernel

Array = npt.NDArray[Any]
# each thread's number through one instruction, and back
EACH = """mul.wide.u32 %rd3, %r0, 4; add.s64 %rd4, %rd0, %rd3; add.s64 %rd5, %rd1, %rd3;
ld.global.f32 %f1, [%rd4]; {} st.global.f32 [%rd5], %f2;"""
SHUFFLE = "shfl.sync.{kind}.b32 %f2|%p1, %f1, {apart}, {bound}, {members};"


def run(instruction: str, x: Array, guard: str = "") -> Array:
    y = np.zeros_like(x)
    emulate(kernel(EACH.format(guard + instruction), 2), 1, x.size, [x, y], inputs=1)
    return y


def shuffle(apart: int = 1, kind: str = "bfly", bound: int = 31, members: int = -1) -> str:
    return SHUFFLE.format(apart=apart, kind=kind, bound=bound, members=members)


@pytest.mark.parametrize("apart", [1, 2, 8, 16, 31])
def test_lanes_change_places_within_a_warp(apart: int) -> None:
    x = np.random.default_rng(0).standard_normal(96).astype(np.float32)
    lanes = np.arange(96)
    np.testing.assert_array_equal(
        run(shuffle(apart), x), x[lanes // 32 * 32 + (lanes % 32 ^ apart)]
    )


def test_a_shuffle_that_not_all_reach_is_an_error() -> None:
    x = np.ones(32, np.float32)
    with pytest.raises(MemoryFault, match="elsewhere"):
        run(shuffle(), x, "setp.lt.u32 %p0, %r0, 31; @%p0 ")
    with pytest.raises(MemoryFault, match="elsewhere"):
        run(shuffle(), x[:16])
    with pytest.raises(MemoryFault, match="take part"):
        run(shuffle(members=0xFFFF), x)


@pytest.mark.parametrize("form", [{"kind": "down"}, {"bound": 15}])
def test_other_shuffles_are_not_known(form: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="does not know"):
        run(shuffle(**form), np.ones(32, np.float32))


def test_powers_of_two() -> None:
    x = np.array([0, 1, -1, 10.5, -126, -126.5, -300, 128, np.inf, -np.inf, np.nan], np.float32)
    with np.errstate(over="ignore"):
        wanted = np.exp2(x.astype(np.float64)).astype(np.float32)
    wanted[[5, 6]] = 0  # denormal
    np.testing.assert_array_equal(run("ex2.approx.ftz.f32 %f2, %f1;", x), wanted)
