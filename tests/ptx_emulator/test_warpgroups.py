"""wgmma in the emulator: products against NumPy, and each way to get them wrong."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from tests.ptx_emulator.machine import emulate
from tests.ptx_emulator.memory import MemoryFault
from tests.ptx_emulator.test_machine import HEAD, REGISTERS

Array = npt.NDArray[Any]
SHAPES = {
    "tf32": ("k8.f32.tf32.tf32", "1, 1"),
    "bf16": ("k16.f32.bf16.bf16", "1, 1, 0, 0"),
}
CODES = {64: 2, 128: 1}  # of swizzles, by bytes of a row
SUMS = ", ".join(f"%f{i}" for i in range(4))
STORE = "".join(f"st.global.f32 [%rd9+{4 * i}], %f{i};" for i in range(4))

# thread t copies row t to where swizzling puts it: 64 of the left matrix, then 8 of the right one
# (others are read by nobody); two products take the first 64 bytes
BODY = """mul.wide.u32 %rd3, %r0, {bytes}; add.s64 %rd4, %rd0, %rd3; mov.u32 %r4, scratch; 
mul.lo.u32 %r5, %r0, {bytes}; add.u32 %r5, %r4, %r5;
mul.lo.u32 %r6, %r0, {bytes}; shr.u32 %r6, %r6, 7; and.b32 %r6, %r6, {groups}; shl.b32 %r6, %r6, 4;
{rows}
fence.proxy.async.shared::cta;
bar.sync 0;
mov.f32 %f0, 0f3F800000; mov.f32 %f1, 0f3F800000; mov.f32 %f2, 0f3F800000; mov.f32 %f3, 0f3F800000;
cvt.u64.u32 %rd5, %r4; shr.u64 %rd5, %rd5, 4; or.b64 %rd5, %rd5, {high}; add.s64 %rd6, %rd5, {right};
setp.ne.b32 %p1, 1, 0;
wgmma.fence.sync.aligned;
wgmma.mma_async.sync.aligned.m64n8{shape} {{{sums}}}, %rd5, %rd6, %p1, {signs};
add.s64 %rd7, %rd5, 2; add.s64 %rd8, %rd6, 2;
wgmma.mma_async.sync.aligned.m64n8{shape} {{{sums}}}, %rd7, %rd8, %p1, {signs};
wgmma.commit_group.sync.aligned;
wgmma.wait_group.sync.aligned 0;
bar.sync 0;
mul.wide.u32 %rd3, %r0, 16; add.s64 %rd9, %rd1, %rd3; {store}"""


def description(row: int) -> int:
    """Of rows of so many bytes: the swizzle, and how far groups of 8 lie apart."""
    return CODES[row] << 62 | 8 * row >> 4 << 32 | 1 << 16


def body(kind: str = "tf32", row: int = 64) -> str:
    shape, signs = SHAPES[kind]
    rows = "".join(
        f"xor.b32 %r7, %r6, {16 * group}; add.u32 %r8, %r5, %r7; ld.global.v4.u32 "
        f"{{%r10, %r11, %r12, %r13}}, [%rd4+{16 * group}];"
        "st.shared.v4.u32 [%r8], {%r10, %r11, %r12, %r13};" for group in range(row // 16)
    )  # fmt: skip
    return BODY.format(
        rows=rows,
        bytes=row,
        groups=row // 16 - 1,
        high=description(row),
        right=64 * row >> 4,
        shape=shape,
        signs=signs,
        sums=SUMS,
        store=STORE,
    )


def run(text: str, x: Array, threads: int = 128) -> Array:
    """The 64 x 8 products of 128 rows of 16 words: the first 64, and the 8 behind them."""
    y = np.zeros((128, 4), np.float32)
    code = f"""{HEAD}.shared .align 1024 .b8 scratch[16384];
    .visible .entry k(.param .u64 k_0, .param .u64 k_1)
    {{\n{REGISTERS}\nld.param.u64 %rd0, [k_0]; ld.param.u64 %rd1, [k_1]; mov.u32 %r0, %tid.x;\n{text}\nret;\n}}"""
    emulate(code, 1, threads, [x, y], inputs=1)
    found = np.zeros((64, 8), np.float32)
    for thread in range(128):  # as the PTX ISA draws m64nN: 16 rows a warp, two columns a thread
        warp, (row, pair) = thread // 32, divmod(thread % 32, 4)
        for place in range(4):
            found[16 * warp + row + 8 * (place // 2), 2 * pair + place % 2] = y[thread, place]
    return found


def numbers() -> Array:
    return np.random.default_rng(0).integers(-8, 9, (128, 16)).astype(np.float32)


def test_tf32() -> None:
    x = numbers()
    np.testing.assert_array_equal(run(body(), x), 1 + x[:64] @ x[64:72].T)


def test_rows_of_128_bytes() -> None:
    x = np.random.default_rng(0).integers(-8, 9, (128, 32)).astype(np.float32)
    wanted = 1 + x[:64, :16] @ x[64:72, :16].T
    np.testing.assert_array_equal(run(body(row=128), x), wanted)
    wrong = body(row=128).replace(str(description(128)), str(description(64)))
    assert (run(wrong, x) != wanted).any()


def test_moves_name_sums_anew() -> None:
    """A product that is under way goes on in the register that its sum moves to; the old one is
    nothing, and what is written to the new one from elsewhere is no sum."""
    x = numbers()
    wait = "wgmma.wait_group.sync.aligned 0;"
    moved = body().replace(wait, f"mov.f32 %f9, %f0; {wait} mov.f32 %f0, %f9;")
    np.testing.assert_array_equal(run(moved, x), 1 + x[:64] @ x[64:72].T)
    early = body().replace(wait, f"add.f32 %f9, %f0, 0f00000000; {wait} mov.f32 %f0, %f9;")
    assert np.isnan(run(early, x)[:, ::2]).any()
    other = body().replace(
        wait, f"mov.f32 %f9, %f0; mov.f32 %f9, 0f40000000; {wait} mov.f32 %f0, %f9;"
    )
    assert (run(other, x)[::16, ::8] == 2).all()


def test_bf16() -> None:
    x = np.random.default_rng(0).integers(-8, 9, (128, 32)).astype(np.float32)
    words = x.astype(ml_dtypes.bfloat16).view(np.uint32)
    np.testing.assert_array_equal(run(body("bf16"), words), 1 + x[:64] @ x[64:72].T)


def test_the_low_bits_are_not_read() -> None:
    x = numbers()
    noisy = (x.view(np.uint32) | np.uint32(0x1FFF)).view(np.float32)
    np.testing.assert_array_equal(run(body(), noisy), 1 + x[:64] @ x[64:72].T)


FAULTS = {
    "no proxy fence": ("fence.proxy.async.shared::cta;", "", "has not fenced"),
    "a store behind the fence": ("shared::cta;", "shared::cta; st.shared.u32 [%r8], %r13;",
                                 "has not fenced"),
    "no barrier": ("fence.proxy.async.shared::cta;\nbar.sync 0;", "fence.proxy.async.shared::cta;",
                   "race"),
    "no fence of registers": ("wgmma.fence.sync.aligned;", "", "no wgmma.fence"),
    "a write to what is read": ("wgmma.wait_group", "st.shared.u32 [%r5], %r0; wgmma.wait_group",
                                "a product reads that nobody"),
    "a write without a barrier": ("aligned 0;\nbar.sync 0;", "aligned 0; st.shared.u32 [%r5], %r0;",
                                  "race"),
    "a matrix outside": ("add.s64 %rd6, %rd5, 256;", "add.s64 %rd6, %rd5, 1022;", "a matrix ends"),
    "different matrices": ("wgmma.fence", "mul.wide.u32 %rd8, %r0, 4; add.s64 %rd5, %rd5, %rd8; "
                                          "wgmma.fence", "different matrices"),
    "half a warpgroup": ("wgmma.fence", "setp.lt.u32 %p2, %r0, 64; @%p2 wgmma.fence",
                         "some threads of a warpgroup"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_found(name: str) -> None:
    old, new, message = FAULTS[name]
    text = body()
    assert old in text
    with pytest.raises(MemoryFault, match=message):
        run(text.replace(old, new, 1), numbers())


def test_sums_are_nothing_before_they_are_waited_for() -> None:
    assert np.isnan(run(body().replace("wgmma.wait_group.sync.aligned 0;", ""), numbers())).all()
    assert np.isnan(
        run(body().replace("wait_group.sync.aligned 0", "wait_group.sync.aligned 1"), numbers())
    ).all()


@pytest.mark.parametrize(("old", "new"), [
    ("m64n8k8.f32.tf32.tf32", "m64n8k16.f32.f16.f16"), ("%p1, 1, 1;", "%p1, 1, -1;"),
    ("wgmma.fence.sync.aligned", "wgmma.other.sync.aligned"),
    ("fence.proxy.async.shared::cta", "fence.acq_rel.gpu"),
    (str(description(64)), str(3 << 62 | 32 << 32)),
])  # fmt: skip
def test_what_it_does_not_know(old: str, new: str) -> None:
    assert old in body()
    with pytest.raises(ValueError, match="the emulator"):
        run(body().replace(old, new), numbers())
