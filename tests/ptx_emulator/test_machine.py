"""The emulator itself: each instruction against NumPy or Python's integers, and each fault that
it must find.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from tests.ptx_emulator.machine import emulate
from tests.ptx_emulator.memory import MemoryFault

Array = npt.NDArray[Any]
REGISTERS = "\n".join(
    f".reg .{kind} %{prefix}<20>;"
    for kind, prefix in (
        ("pred", "p"),
        ("b16", "rs"),
        ("b32", "r"),
        ("b64", "rd"),
        ("f32", "f"),
        ("f64", "fd"),
    )
)
PREFIX = {
    "u2": "rs",
    "i2": "rs",
    "f2": "rs",
    "u4": "r",
    "i4": "r",
    "u8": "rd",
    "i8": "rd",
    "f4": "f",
    "f8": "fd",
}
HEAD = ".version 8.0\n.target sm_80\n"


def kernel(body: str, parameters: int, shared: int = 0) -> str:
    """A PTX module of one kernel; parameter i is in %rd{i}, the thread's number in %r0."""
    declared = ", ".join(f".param .u64 k_{i}" for i in range(parameters))
    loads = "\n".join(f"ld.param.u64 %rd{i}, [k_{i}];" for i in range(parameters))
    memory = f".shared .align 16 .b8 scratch[{shared}];" if shared else ""
    return (
        HEAD + f"{memory}\n.visible .entry "
        f"k({declared})\n{{\n{REGISTERS}\n{loads}\nmov.u32 %r0, %tid.x;\n{body}\nret;\n}}"
    )


def memory_kind(dtype: np.dtype[Any]) -> str:
    return (
        "b16"
        if dtype == np.float16
        else f"{ ({'i': 's', 'u': 'u', 'f': 'f'}[dtype.kind]) }{dtype.itemsize * 8}"
    )


def applied(instructions: str, arrays: Sequence[Array], result: str) -> Array:
    """The instructions for each element: {x}, {y}, {z} are the operands, {d} the result."""
    arrays = [np.asarray(a) for a in arrays]
    names = dict(
        zip(
            "xyz",
            (f"%{PREFIX[a.dtype.str[1:]]}{i + 5}" for i, a in enumerate(arrays)),
            strict=False,
        )
    )
    out = np.zeros(arrays[0].size, result)
    lines = []
    for i, array in enumerate((*arrays, out)):
        lines += [
            f"mul.wide.u32 %rd{10 + i}, %r0, {array.itemsize};",
            f"add.s64 %rd{10 + i}, %rd{10 + i}, %rd{i};",
        ]
        if i < len(arrays):
            lines.append(f"ld.global.{memory_kind(array.dtype)} {names['xyz'[i]]}, [%rd{10 + i}];")
    target = f"%{PREFIX[out.dtype.str[1:]]}8"
    lines.append(instructions.format(d=target, **names))
    lines.append(f"st.global.{memory_kind(out.dtype)} [%rd{10 + len(arrays)}], {target};")
    emulate(
        kernel("\n".join(lines), len(arrays) + 1), 1, out.size, [*arrays, out], inputs=len(arrays)
    )
    return out


F4 = np.array(
    [
        0.0,
        -0.0,
        1.5,
        -2.5,
        0.1,
        3.0,
        -7.25,
        1e-40,
        1e30,
        -1e30,
        np.inf,
        -np.inf,
        np.nan,
        0.5,
        2.5,
        -0.5,
    ],
    np.float32,
)
I4 = np.array(
    [0, 1, -1, 2, -7, 100, -(2**31), 2**31 - 1, 12345, -54321, 3, 31, 32, 33, 255, 256], np.int32
)
I8 = np.array(
    [0, 1, -1, 2, -7, 100, -(2**63), 2**63 - 1, 2**40, -(2**40), 3, 31, 64, 63, 255, 2**32],
    np.int64,
)


def pairs(values: Array) -> tuple[Array, Array]:
    """All pairs."""
    return np.repeat(values, values.size), np.tile(values, values.size)


def integers(function: Callable[..., int], dtype: str) -> Callable[..., Array]:
    """An expectation by Python's integers, wrapped to the dtype."""
    width = np.dtype(dtype).itemsize * 8

    def expected(*arrays: Array) -> Array:
        rows = zip(*(a.tolist() for a in arrays), strict=True)
        return np.array([function(*row) % (1 << width) for row in rows], f"u{width // 8}").view(
            dtype
        )

    return expected


def truncated(x: int, y: int) -> int:
    return abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1)


# halves of a TF32's and of a bfloat16's last bit among them
HALF_TF32 = np.concatenate([F4,
                            np.array([0x3F801000, 0x3F800FFF, 0xBF803000, 0x7FFFFFFF, 0x3F808000,
                                      0x3F818000, 0xBF808001, 0x7F7FFFFF],
                                         np.uint32).view(np.float32)])  # fmt: skip


def nearest_tf32(x: Array) -> Array:
    """The nearer of the two numbers of 10 bits around x, the larger of equally near ones; by
    magnitude.
    """
    bits = x.view(np.uint32)
    low = bits & np.uint32(0xFFFFE000)
    return np.where((bits & np.uint32(0x1FFF)) >= 0x1000, low + np.uint32(0x2000), low)


def bfloat16(x: Array) -> Array:
    return np.where(np.isnan(x), 0x7FFF, x.astype(ml_dtypes.bfloat16).view(np.uint16)).astype(
        np.uint32
    )


F8 = F4.astype(np.float64)
HALVES = np.arange(0, 1 << 16, 97, dtype=np.uint16).view(np.float16)
U4, U8 = I4.view(np.uint32), I8.view(np.uint64)
SHIFTS = np.array([0, 1, 5, 31, 32, 33, 200], np.uint32)
ROWS: list[tuple[str, list[Array], str, Callable[..., Any]]] = [
    *((f"{op}.rn.f32 {{d}}, {{x}}, {{y}};", list(pairs(F4)), "f4", f) for op, f in
      (("add", np.add), ("sub", np.subtract), ("mul", np.multiply), ("div", np.divide))),
    *((f"{op}.rn.f64 {{d}}, {{x}}, {{y}};", list(pairs(F8)), "f8", f) for op, f in
      (("add", np.add), ("sub", np.subtract), ("mul", np.multiply), ("div", np.divide))),
    ("max.f32 {d}, {x}, {y};", list(pairs(F4)), "f4", np.fmax),
    ("min.f32 {d}, {x}, {y};", list(pairs(F4)), "f4", np.fmin),
    ("rcp.rn.f32 {d}, {x};", [F4], "f4", lambda x: np.float32(1) / x),
    ("copysign.f32 {d}, {x}, {y};", list(pairs(F4)), "f4", lambda sign,
     size: np.where(np.signbit(sign), -abs(size), abs(size))),
    ("neg.f32 {d}, {x};", [F4], "f4", np.negative), ("abs.f64 {d}, {x};", [F8], "f8", np.abs),
    ("sqrt.rn.f32 {d}, {x};", [F4], "f4", np.sqrt),
    ("cvt.rmi.f32.f32 {d}, {x};", [F4], "f4", np.floor),
    ("cvt.rpi.f64.f64 {d}, {x};", [F8], "f8", np.ceil),
    ("cvt.rzi.f32.f32 {d}, {x};", [F4], "f4", np.trunc),
    ("cvt.rni.f32.f32 {d}, {x};", [F4], "f4", np.rint),
    ("cvt.f64.f32 {d}, {x};", [F4], "f8", lambda x: x.astype(np.float64)),
    ("cvt.rn.f32.f64 {d}, {x};", [F8 / 3], "f4", lambda x: x.astype(np.float32)),
    ("cvt.rn.f16.f32 {d}, {x};", [F4], "f2", lambda x: x.astype(np.float16)),
    ("cvt.f32.f16 {d}, {x};", [HALVES], "f4", lambda x: x.astype(np.float32)),
    ("cvt.rna.tf32.f32 {d}, {x};", [HALF_TF32], "u4",
     lambda x: np.where(np.isnan(x), 0x7FFFFFFF, nearest_tf32(x))),
    ("cvt.rn.bf16x2.f32 {d}, {x}, {y};", [HALF_TF32, HALF_TF32[::-1].copy()], "u4", lambda x,
     y: bfloat16(x) << 16 | bfloat16(y)),
    ("cvt.rn.f32.s32 {d}, {x};", [I4], "f4", lambda x: x.astype(np.float32)),
    ("cvt.rn.f32.u64 {d}, {x};", [U8], "f4", lambda x: x.astype(np.float32)),
    ("cvt.rn.f64.s64 {d}, {x};", [I8], "f8", lambda x: x.astype(np.float64)),
    *((f"{op}.{kind} {{d}}, {{x}}, {{y}};", list(pairs(values)), dtype, integers(f, dtype)) for op,
      f in
      (("add", lambda x, y: x + y), ("sub", lambda x, y: x - y)) for kind, values,
      dtype in (("s32", I4, "i4"), ("s64", I8, "i8"))),
    *((f"mul.lo.{kind} {{d}}, {{x}}, {{y}};", list(pairs(values)), dtype,
       integers(lambda x, y: x * y, dtype))
      for kind, values, dtype in (("s32", I4, "i4"), ("u32", U4, "u4"), ("s64", I8, "i8"))),
    *((f"mul.hi.{kind} {{d}}, {{x}}, {{y}};", list(pairs(values)), dtype,
       integers(lambda x, y, w=width: (x * y) >> w, dtype))
      for kind, values, dtype,
      width in (("s32", I4, "i4", 32), ("u32", U4, "u4", 32), ("u64", U8, "u8", 64))),
    ("mul.wide.s32 {d}, {x}, {y};", list(pairs(I4)), "i8", integers(lambda x, y: x * y, "i8")),
    ("mul.wide.u32 {d}, {x}, {y};", list(pairs(U4)), "u8", integers(lambda x, y: x * y, "u8")),
    ("mad.lo.s32 {d}, {x}, {y}, {z};", [*pairs(I4), pairs(I4)[0][::-1].copy()], "i4",
     integers(lambda x, y, z: x * y + z, "i4")),
    ("mad.wide.u32 {d}, {x}, {y}, {z};", [*pairs(U4), pairs(U8)[0]], "u8",
     integers(lambda x, y, z: x * y + z, "u8")),
    ("div.s32 {d}, {x}, {y};", [a[pairs(I4)[1] != 0] for a in pairs(I4)], "i4",
     integers(truncated, "i4")),
    ("div.s64 {d}, {x}, {y};", [a[(pairs(I8)[1] != 0) & (pairs(I8)[1] != -1)] for a in pairs(I8)],
     "i8", integers(truncated, "i8")),
    ("rem.s32 {d}, {x}, {y};", [a[pairs(I4)[1] != 0] for a in pairs(I4)], "i4",
     integers(lambda x, y: x - y * truncated(x, y), "i4")),
    ("div.u64 {d}, {x}, {y};", [a[pairs(U8)[1] != 0] for a in pairs(U8)], "u8",
     integers(lambda x, y: x // y, "u8")),
    ("rem.u32 {d}, {x}, {y};", [a[pairs(U4)[1] != 0] for a in pairs(U4)], "u4",
     integers(lambda x, y: x % y, "u4")),
    *((f"{op}.s32 {{d}}, {{x}}, {{y}};", list(pairs(I4)), "i4", f) for op,
      f in (("max", np.maximum), ("min", np.minimum))),
    ("min.u32 {d}, {x}, {y};", list(pairs(U4)), "u4", np.minimum),
    ("neg.s32 {d}, {x};", [I4], "i4", integers(lambda x: -x, "i4")),
    ("abs.s32 {d}, {x};", [I4], "i4", integers(abs, "i4")),
    ("not.b32 {d}, {x};", [U4], "u4", np.invert),
    *((f"{op}.b32 {{d}}, {{x}}, {{y}};", list(pairs(U4)), "u4", f) for op, f in
      (("and", np.bitwise_and), ("or", np.bitwise_or), ("xor", np.bitwise_xor))),
    ("shl.b32 {d}, {x}, {y};", [np.repeat(U4, 7), np.tile(SHIFTS, 16)], "u4",
     integers(lambda x, s: x << s if s < 32 else 0, "u4")),
    ("shr.u32 {d}, {x}, {y};", [np.repeat(U4, 7), np.tile(SHIFTS, 16)], "u4",
     integers(lambda x, s: x >> s, "u4")),
    ("shr.s32 {d}, {x}, {y};", [np.repeat(I4, 7), np.tile(SHIFTS, 16)], "i4",
     integers(lambda x, s: x >> s, "i4")),
    ("bfe.u32 {d}, {x}, 5, 9;", [U4], "u4", lambda x: x >> 5 & 511),
    ("bfe.s32 {d}, {x}, 24, 8;", [I4], "i4", lambda x: x >> 24),
    ("bfe.s32 {d}, {x}, 0, 8;", [I4], "i4", lambda x: x.astype(np.int8).astype(np.int32)),
    ("bfi.b32 {d}, {x}, {y}, 4, 8;", list(pairs(U4)), "u4", lambda x,
     y: (y & ~np.uint32(0xFF0)) | (x & 0xFF) << 4),
    ("dp2a.lo.u32.u32 {d}, {x}, {y}, {z};", [*pairs(U4), pairs(U4)[0]], "u4",
     integers(lambda x, y, z: z + (x & 0xFFFF) * (y & 255) + (x >> 16) * (y >> 8 & 255), "u4")),
    ("dp2a.hi.u32.u32 {d}, {x}, {y}, {z};", [*pairs(U4), pairs(U4)[0]], "u4",
     integers(lambda x, y, z: z + (x & 0xFFFF) * (y >> 16 & 255) + (x >> 16) * (y >> 24), "u4")),
    ("prmt.b32 {d}, {x}, {y}, 0x5410;", list(pairs(U4)), "u4", lambda x, y: (x & 0xFFFF) | y << 16),
    ("prmt.b32 {d}, {x}, {y}, 0x0123;", list(pairs(U4)), "u4", lambda x, y: x.byteswap()),
    ("mov.b32 {d}, {x};", [F4], "u4", lambda x: x.view(np.uint32)),
    *((f"setp.{name}.f32 %p1, {{x}}, {{y}};\nselp.b32 {{d}}, 1, 0, %p1;", list(pairs(F4)), "u4",
       f) for name, f in (
        ("lt", np.less), ("le", np.less_equal), ("gt", np.greater), ("ge", np.greater_equal),
        ("eq", np.equal),
        ("neu", np.not_equal), ("ltu", lambda x, y: ~(x >= y)),
        ("nan", lambda x, y: np.isnan(x) | np.isnan(y)),
        ("num", lambda x, y: ~(np.isnan(x) | np.isnan(y))),
        ("ne", lambda x, y: (x < y) | (x > y)))),
    ("setp.lt.u32 %p1, {x}, {y};\nselp.b32 {d}, 1, 0, %p1;", list(pairs(U4)), "u4", np.less),
    ("setp.lt.s32 %p1, {x}, {y};\nselp.b32 {d}, 7, 9, %p1;", list(pairs(I4)), "u4", lambda x,
     y: np.where(x < y, 7, 9)),
    ("setp.lt.s32 %p2, {x}, 0;\nsetp.lt.and.s32 %p1, {x}, {y}, %p2;\nselp.b32 {d}, 1, 0, %p1;",
     list(pairs(I4)), "u4",
     lambda x, y: (x < y) & (x < 0)),
    ("mov.b64 {{%r10, %r11}}, {x};\nmov.b64 {d}, {{%r11, %r10}};", [U8], "u8",
     lambda x: x >> np.uint64(32) | x << np.uint64(32)),
    ("{{ .reg .b32 %temp; mov.b64 {{%temp, %r10}}, {x}; }}\nmov.b32 {d}, %r10;", [U8], "u4",
     lambda x: x >> np.uint64(32)),
    ("mov.u32 {d}, 5;\nsetp.eq.s32 %p1, {x}, 1;\n@%p1 bra $A;\nmov.u32 {d}, 6;\n$A:\nadd.u32 {d}, "
     "{d}, 1;", [I4], "u4",
     lambda x: np.where(x == 1, 6, 7)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "arrays", "dtype", "expected"), ROWS, ids=[row[0].split(";")[0] for row in ROWS]
)
def test_instruction(
    text: str, arrays: list[Array], dtype: str, expected: Callable[..., Any]
) -> None:
    with np.errstate(all="ignore"):
        wanted = np.asarray(expected(*arrays)).astype(dtype)
    np.testing.assert_array_equal(applied(text, arrays, dtype), wanted)


def test_fma_rounds_once() -> None:
    x = np.array([1 + 2**-12, 3.0, 1e20], np.float32)
    y = np.array([1 - 2**-12, 1 / 3, 1e20], np.float32)
    z = np.array([-1.0, -1.0, -1e38], np.float32)
    exact = [
        np.float32(int(a * 2**60) * int(b * 2**60) / 2**120 + float(c))
        if i < 2
        else np.float32(np.inf)
        for i, (a, b, c) in enumerate(zip(x.tolist(), y.tolist(), z.tolist(), strict=True))
    ]
    np.testing.assert_array_equal(applied("fma.rn.f32 {d}, {x}, {y}, {z};", [x, y, z], "f4"), exact)


@pytest.mark.parametrize(
    ("source", "target"), [("f32", "s32"), ("f32", "u32"), ("f64", "s64"), ("f32", "u64")]
)
def test_floats_to_integers_saturate(source: str, target: str) -> None:
    x = F4.astype(f"f{int(source[1:]) // 8}")
    dtype = np.dtype(f"{'i' if target[0] == 's' else 'u'}{int(target[1:]) // 8}")
    info = np.iinfo(dtype)
    wanted = [
        0 if np.isnan(v) else info.max if v >= info.max else info.min if v <= info.min else int(v)
        for v in x.tolist()
    ]
    np.testing.assert_array_equal(
        applied(f"cvt.rzi.{target}.{source} {{d}}, {{x}};", [x], dtype.str[1:]),
        np.array(wanted, dtype),
    )


def test_vectors_load_and_store() -> None:
    x, y = np.arange(8, dtype=np.float32), np.zeros(8, np.float32)
    body = """mul.wide.u32 %rd3, %r0, 16; add.s64 %rd4, %rd0, %rd3; add.s64 %rd5, %rd1, %rd3;
    ld.global.v4.f32 {%f1, %f2, %f3, %f4}, [%rd4];
    st.global.v2.f32 [%rd5], {%f4, %f3}; st.global.v2.f32 [%rd5+8], {%f2, %f1};"""
    emulate(kernel(body, 2), 1, 2, [x, y], inputs=1)
    np.testing.assert_array_equal(y, [3, 2, 1, 0, 7, 6, 5, 4])


# -- loops, blocks and barriers --------------------------------------------------------------------

REVERSE = """mul.wide.u32 %rd3, %r0, 4; mov.u32 %r1, %ctaid.x; mul.lo.u32 %r2, %r1, 32; add.u32 %r2, %r2, %r0;
mul.wide.u32 %rd4, %r2, 4; add.s64 %rd5, %rd0, %rd4; ld.global.f32 %f1, [%rd5];
shl.b32 %r3, %r0, 2; mov.u32 %r4, scratch; add.u32 %r5, %r4, %r3; st.shared.f32 [%r5], %f1;
bar.sync 0;
sub.u32 %r6, 31, %r0; shl.b32 %r6, %r6, 2; add.u32 %r6, %r4, %r6; ld.shared.f32 %f2, [%r6];
add.s64 %rd6, %rd1, %rd4; st.global.f32 [%rd6], %f2;"""


def test_a_barrier_orders_a_blocks_threads() -> None:
    x, y = np.arange(96, dtype=np.float32), np.zeros(96, np.float32)
    emulate(kernel(REVERSE, 2, 128), 3, 32, [x, y], inputs=1)
    np.testing.assert_array_equal(y, x.reshape(3, 32)[:, ::-1].reshape(-1))


def test_threads_leave_a_loop_at_their_own_time() -> None:
    y = np.zeros(20, np.uint32)
    body = """mov.u32 %r1, 0; mov.u32 %r2, 0;
    $L: setp.ge.u32 %p1, %r2, %r0; @%p1 bra $E; add.u32 %r2, %r2, 1; add.u32 %r1, %r1, %r2; bra $L;
    $E: mul.wide.u32 %rd3, %r0, 4; add.s64 %rd4, %rd0, %rd3; st.global.u32 [%rd4], %r1;"""
    emulate(kernel(body, 1), 1, 20, [y])
    np.testing.assert_array_equal(y, [i * (i + 1) // 2 for i in range(20)])


@pytest.mark.parametrize(("width", "stride", "cycles", "least"), [
    (4, 4, 1, 1), (4, 8, 2, 1), (4, 128, 32, 1), (4, 0, 1, 1), (4, 132, 1, 1), (16, 16, 4, 4),
    (16, 128, 32, 4), (16, 80, 4, 4),
    (8, 8, 2, 2),
])  # fmt: skip
def test_bank_conflicts_are_counted(width: int, stride: int, cycles: int, least: int) -> None:
    target = {4: "%r7", 8: "{%r7, %r8}", 16: "{%r7, %r8, %r9, %r10}"}[width]
    vector = {4: "", 8: ".v2", 16: ".v4"}[width]
    fill = "".join(
        f"mul.lo.u32 %r3, %r0, {width}; mov.u32 %r4, scratch; add.u32 %r5, %r4, %r3; add.u32 %r5, "
        f"%r5, {32 * width * part};"
        f"st.shared{vector}.u32 [%r5], {target};"
        for part in range(8 * 16 // width * 4 // 4)
    )
    read = f"bar.sync 0; mul.lo.u32 %r3, %r0, {stride}; add.u32 %r5, %r4, %r3; ld.shared{vector}.u32 {target}, [%r5];"
    before = emulate(kernel(fill, 0, 8192), 1, 32, [])
    both = emulate(kernel(fill + read, 0, 8192), 1, 32, [])
    assert before.cycles == before.least
    assert (both.cycles - before.cycles, both.least - before.least) == (cycles, least)


# -- tensor cores ----------------------------------------------------------------------------------

LDMATRIX = """mul.wide.u32 %rd3, %r0, 16; add.s64 %rd4, %rd0, %rd3; ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%rd4];
shl.b32 %r5, %r0, 4; mov.u32 %r6, scratch; add.u32 %r5, %r5, %r6;
st.shared.v4.u32 [%r5], {%r1, %r2, %r3, %r4}; bar.sync 0;
ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r7, %r8, %r9, %r10}, [%r5];
add.s64 %rd5, %rd1, %rd3; st.global.v4.u32 [%rd5], {%r7, %r8, %r9, %r10};"""


def test_ldmatrix_hands_out_words() -> None:
    """[matrix, row, word] -> lane 4 row + word, register matrix."""
    x, y = np.arange(128, dtype=np.uint32), np.zeros(128, np.uint32)
    emulate(kernel(LDMATRIX, 2, 512), 1, 32, [x, y], inputs=1)
    np.testing.assert_array_equal(y.reshape(8, 4, 4), x.reshape(4, 8, 4).transpose(1, 2, 0))


def test_ldmatrix_turns_matrices_of_halves() -> None:
    """[matrix, row, half] -> lane 4 column + pair, register matrix: two halves of a column."""
    x, y = np.arange(256, dtype=np.uint16), np.zeros(256, np.uint16)
    emulate(kernel(LDMATRIX.replace(".x4", ".x4.trans"), 2, 512), 1, 32, [x, y], inputs=1)
    wanted = x.reshape(4, 8, 8).transpose(2, 1, 0)  # [column, row, matrix]
    found = y.reshape(8, 4, 4, 2).transpose(0, 1, 3, 2).reshape(8, 8, 4)
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(("shape", "kind", "k"), [("m16n8k8", "tf32", 8), ("m16n8k16", "bf16", 16)])
def test_mma_multiplies_matrices(shape: str, kind: str, k: int) -> None:
    """Fragments as the PTX ISA draws them: g = lane / 4, q = lane % 4; each element put where
    its formula says.
    """
    rng = np.random.default_rng(0)
    a, b, c = (rng.integers(-8, 9, size).astype(np.float32) for size in ((16, k), (k, 8), (16, 8)))
    per_word = k // 8
    words = [np.zeros((32, 4), np.uint32), np.zeros((32, 2), np.uint32)]
    for lane in range(32):
        g, q = divmod(lane, 4)
        for r in range(4):
            row, first = g + 8 * (r % 2), (q + 4 * (r // 2)) * per_word
            words[0][lane, r] = packed(a[row, first : first + per_word])
        for r in range(2):
            first = (q + 4 * r) * per_word
            words[1][lane, r] = packed(b[first : first + per_word, g])
    sums = np.array(
        [
            [c[g + 8 * (r // 2), 2 * q + r % 2] for r in range(4)]
            for g in range(8)
            for q in range(4)
        ],
        np.float32,
    )
    out = np.zeros((32, 4), np.float32)
    body = f"""mul.wide.u32 %rd5, %r0, 16; mul.wide.u32 %rd6, %r0, 8;
    add.s64 %rd7, %rd0, %rd5; add.s64 %rd8, %rd1, %rd6; add.s64 %rd9, %rd2, %rd5; add.s64 %rd10, %rd3, %rd5;
    ld.global.v4.u32 {{%r1, %r2, %r3, %r4}}, [%rd7]; ld.global.v2.u32 {{%r5, %r6}}, [%rd8];
    ld.global.v4.f32 {{%f1, %f2, %f3, %f4}}, [%rd9];
    mma.sync.aligned.{shape}.row.col.f32.{kind}.{kind}.f32 {{%f5, %f6, %f7, %f8}}, {{%r1, %r2, %r3, %r4}}, {{%r5, %r6}},
        {{%f1, %f2, %f3, %f4}};
    st.global.v4.f32 [%rd10], {{%f5, %f6, %f7, %f8}};"""
    emulate(kernel(body, 4), 1, 32, [*words, sums, out], inputs=3)
    wanted = a @ b + c
    found = np.zeros((16, 8), np.float32)
    for lane in range(32):
        g, q = divmod(lane, 4)
        for r in range(4):
            found[g + 8 * (r // 2), 2 * q + r % 2] = out[lane, r]
    np.testing.assert_array_equal(found, wanted)


def packed(values: Array) -> int:
    """A float32's bits, or two bfloat16 in one word."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    return int(bits[0]) if len(bits) == 1 else int(bits[0] >> 16 | bits[1] & 0xFFFF0000)


def test_a_warp_that_is_not_whole() -> None:
    body = (
        "setp.lt.u32 %p1, %r0, 7; @%p1 bra $E;\n"
        + LDMATRIX.split(";", 6)[-1].split("bar.sync 0;")[1].split("add.s64")[0]
        + "$E:"
    )
    faulty(body, match="some threads of a warp are elsewhere", shared=512)


# -- faults ----------------------------------------------------------------------------------------


def faulty(
    body: str,
    *arrays: Array,
    match: str,
    threads: int = 32,
    blocks: int = 1,
    shared: int = 0,
    inputs: int = 0,
) -> None:
    with pytest.raises(MemoryFault, match=match):
        emulate(kernel(body, len(arrays), shared), blocks, threads, list(arrays), inputs=inputs)


def test_a_removed_barrier_is_a_race() -> None:
    assert REVERSE.count("bar.sync 0;") == 1
    faulty(
        REVERSE.replace("bar.sync 0;", ""),
        np.zeros(32, np.float32),
        np.zeros(32, np.float32),
        match="race|never written",
        shared=128,
    )


@pytest.mark.parametrize("step", [4, -4])
def test_an_access_outside_a_buffer(step: int) -> None:
    body = f"mul.wide.u32 %rd3, %r0, 4; add.s64 %rd4, %rd0, %rd3; ld.global.u32 %r1, [%rd4+{step}];"
    faulty(body, np.zeros(32, np.uint32), match="access at")


def test_one_thread_too_many() -> None:
    body = "mul.wide.u32 %rd3, %r0, 4; add.s64 %rd4, %rd0, %rd3; st.global.u32 [%rd4], %r0;"
    faulty(body, np.zeros(31, np.uint32), match="an access at byte 124 of 124")


def test_an_access_outside_shared_memory() -> None:
    body = "shl.b32 %r1, %r0, 2; mov.u32 %r2, scratch; add.u32 %r1, %r1, %r2; st.shared.u32 [%r1], %r0;"
    faulty(body, match="shared memory: an access at byte 128 of 128", threads=33, shared=128)


@pytest.mark.parametrize(
    ("instruction", "offset"),
    [
        ("ld.global.v4.f32 {%f1, %f2, %f3, %f4}", 4),
        ("ld.global.u64 %rd9", 4),
        ("ld.global.u32 %r9", 2),
    ],
)
def test_a_misaligned_access(instruction: str, offset: int) -> None:
    faulty(f"{instruction}, [%rd0+{offset}];", np.zeros(64, np.float32), match="misaligned")


def test_shared_memory_read_before_it_is_written() -> None:
    faulty(
        "mov.u32 %r2, scratch; ld.shared.u32 %r1, [%r2];",
        match="never written",
        threads=1,
        shared=16,
    )


def test_two_threads_that_write_one_place() -> None:
    faulty(
        "st.global.u32 [%rd0], %r0;",
        np.zeros(4, np.uint32),
        match="race: two threads write one place",
    )


def test_a_barrier_does_not_order_blocks() -> None:
    body = """mov.u32 %r1, %ctaid.x; setp.eq.u32 %p1, %r1, 0; @%p1 st.global.u32 [%rd0], %r0;
    bar.sync 0; ld.global.u32 %r2, [%rd0];"""
    faulty(body, np.zeros(1, np.uint32), match="race", threads=1, blocks=2)


def test_an_input_is_not_written() -> None:
    faulty(
        "st.global.u32 [%rd0], %r0;",
        np.zeros(1, np.uint32),
        match="a store to an input",
        threads=1,
        inputs=1,
    )


def test_a_barrier_that_some_threads_miss() -> None:
    faulty(
        "setp.eq.u32 %p1, %r0, 0; @%p1 bra $E; bar.sync 0; $E:", match="not all threads", threads=2
    )


def test_a_kernel_that_does_not_end() -> None:
    with pytest.raises(MemoryFault, match="does not end"):
        emulate(kernel("$L: bra $L;", 0), 1, 1, [], most_steps=100)


def test_what_it_does_not_know_is_an_error() -> None:
    with pytest.raises(ValueError, match="does not know 'vote.ballot"):
        emulate(kernel("vote.ballot.b32 %r1, %p1;", 0), 1, 1, [])
    with pytest.raises(ValueError, match="no entry"):
        emulate(".version 8.0", 1, 1, [])


def test_arguments_are_counted() -> None:
    with pytest.raises(ValueError, match="takes 1 arguments, not 0"):
        emulate(kernel("", 1), 1, 1, [])
