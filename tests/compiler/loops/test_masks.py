"""How lanes that do not run are kept from memory where a CPU has no masks."""

from __future__ import annotations

import re

from netloom.compiler.loops.parse import parse_kernel
from netloom.compiler.targets.cpu.llvm import kernels_as_llvm
from netloom.compiler.targets.cpu.machine import CPUS

KERNEL = """kernel k(x: float32[40], y: float32[40])
parallel w < 2:
  vector l < 16:
    if -1*l + 9*w + 6 >= 0:
      y[l + 16*w] = (x[l + 8*w] if -1*l + 5*w + 3 >= 0 else 0.0:float32)
"""


def test_llvm_does_not_know_where_they_go_instead() -> None:
    """Where one of two addresses is known to be on the stack, LLVM searches each pair of loads and
    stores for what they share: most of the time for border tiles.
    """
    for level in ("x86-64", "aarch64"):
        text = kernels_as_llvm({"k": parse_kernel(KERNEL)}, CPUS[level])
        places = re.findall(r'(%"[^"]*") = alloca <16 x i64>', text)
        choices = [line for line in text.splitlines() if re.search(" = select .* ptr ", line)]
        assert len(places) == 2 and len(choices) == 32
        assert not any(f"ptr {place}" in line for place in places for line in choices)
