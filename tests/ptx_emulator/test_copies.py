"""cp.async in the emulator: what arrives, and each way to read it too early."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.ptx_emulator.machine import emulate
from tests.ptx_emulator.memory import MemoryFault
from tests.ptx_emulator.test_machine import kernel

Array = npt.NDArray[Any]

# each thread copies WIDTH bytes, in two groups: the first half of the block's words, then the
# second; then reads another's
COPY = """mul.wide.u32 %rd3, %r0, {width}; add.s64 %rd4, %rd0, %rd3; mov.u32 %r4, scratch;
mul.lo.u32 %r3, %r0, {width}; add.u32 %r5, %r4, %r3;
cp.async.{cache}.shared.global [%r5], [%rd4], {width}{size};
cp.async.commit_group;
cp.async.{cache}.shared.global [%r5+{half}], [%rd4+{half}], {width};
cp.async.commit_group;
cp.async.wait_group 0;
bar.sync 0;
sub.u32 %r6, 31, %r0; mul.lo.u32 %r7, %r6, {width}; add.u32 %r7, %r4, %r7;
ld.shared.u32 %r8, [%r7]; ld.shared.u32 %r9, [%r7+{half}];
mul.wide.u32 %rd5, %r0, 4; add.s64 %rd6, %rd1, %rd5; st.global.u32 [%rd6], %r8; st.global.u32 [%rd6+128], %r9;"""


def program(width: int = 4, cache: str = "ca", size: str = "") -> str:
    return COPY.format(width=width, half=32 * width, cache=cache, size=size)


def run(body: str, width: int = 4) -> Array:
    x, y = np.arange(64 * width // 4, dtype=np.uint32), np.full(64, 77, np.uint32)
    emulate(kernel(body, 2, 64 * width), 1, 32, [x, y], inputs=1)
    return y.reshape(2, 32)[:, ::-1]


@pytest.mark.parametrize(("width", "cache"), [(4, "ca"), (8, "ca"), (16, "ca"), (16, "cg")])
def test_copies_arrive(width: int, cache: str) -> None:
    np.testing.assert_array_equal(
        run(program(width, cache), width), np.arange(64 * width // 4).reshape(2, 32, -1)[:, :, 0]
    )


def test_what_is_not_read_is_zero() -> None:
    """A size of 0 for odd threads, whose address is then nobody's."""
    body = "and.b32 %r10, %r0, 1; sub.u32 %r11, 1, %r10; shl.b32 %r11, %r11, 2; " + program(
        4, "ca", ", %r11"
    )
    body = body.replace("cp.async", "setp.eq.u32 %p1, %r10, 1; @%p1 mov.u64 %rd4, 16; cp.async", 1)
    body = body.replace(
        "cp.async.commit_group;",
        "cp.async.commit_group; mul.wide.u32 %rd3, %r0, 4; add.s64 %rd4, %rd0, %rd3;",
        1,
    )
    found = run(body)
    np.testing.assert_array_equal(found[0], np.where(np.arange(32) % 2, 0, np.arange(32)))
    np.testing.assert_array_equal(found[1], np.arange(32, 64))


FAULTS = {
    "no wait": ("cp.async.wait_group 0;", "", "nobody has waited for"),
    "a wait for too few": ("wait_group 0", "wait_group 1", "nobody has waited for"),
    "a copy in no group": ("cp.async.commit_group;\ncp.async.wait", "cp.async.wait",
                           "nobody has waited for"),
    "no barrier": ("bar.sync 0;", "", "race"),
    "a wait behind the barrier": ("cp.async.wait_group 0;\nbar.sync 0;",
                                  "bar.sync 0;\ncp.async.wait_group 0;", "race"),
    "a write under way": ("cp.async.wait_group 0;", "st.shared.u32 [%r5], %r0; cp.async.wait_group "
                                                    "0;", "nobody has waited for"),
    "a copy to what others read": ("sub.u32 %r6", "ld.shared.u32 %r8, [scratch]; "
                                                  "cp.async.ca.shared.global [%r5], [%rd4], 4; "
                                                  "sub.u32 %r6",
                                  "race"),
    "two copies to one place": ("[%r5+128]", "[%r5]", "nobody has waited for"),
    "a source outside its buffer": ("[%rd4+128]", "[%rd4+132]", "an access at byte"),
    "a target outside its block's memory": ("[%r5+128]", "[%r5+132]", "shared memory: an access"),
    "a misaligned source": ("[%rd4+128]", "[%rd4+126]", "misaligned"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_found(name: str) -> None:
    old, new, message = FAULTS[name]
    assert old in program()
    with pytest.raises(MemoryFault, match=message):
        run(program().replace(old, new))


def test_a_group_arrives_before_later_ones() -> None:
    """With one group pending the first may be read, and what is copied by the second may not."""
    body = (
        program()
        .replace("wait_group 0", "wait_group 1")
        .replace("ld.shared.u32 %r9, [%r7+128];", "mov.u32 %r9, %r6;")
    )
    np.testing.assert_array_equal(run(body)[0], np.arange(32))


@pytest.mark.parametrize(
    "text",
    [
        "cp.async.cg.shared.global [%r5], [%rd4], 4;",
        "cp.async.bulk.commit_group;",
        "cp.async.wait_all;",
    ],
)
def test_what_it_does_not_know(text: str) -> None:
    with pytest.raises(ValueError, match="does not know"):
        run(program().replace("cp.async.wait_group 0;", text))
