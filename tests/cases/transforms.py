"""What strategies and passes make: the stages of Winograd's and Fourier's algorithms, windows, and
a kernel.
"""

from __future__ import annotations

from netloom.compiler.graph import Builder, Graph
from netloom.compiler.tensor_type import FLOAT32, TensorType

from .case import N, row


def _form(m: int, taps: int = 3) -> dict[str, tuple[int, int]]:
    """Tiles of m x m outputs."""
    return {"m": (m, m), "taps": (taps, taps)}


def _relu_of_sum() -> Graph:
    b = Builder("body")
    x, y = (b.input(TensorType(FLOAT32, (3, 5)), name) for name in "xy")
    return b.build([b("relu", b("add", x, y))])


TRANSFORMS = [
    row("winograd_input", "float32[2, 3, 6, 10]", terms=36, **_form(4), lo=(1, 1), counts=(2, 3),
        groups=1),
    row("winograd_input", "float32[1, 17, 5, 7]", terms=16, **_form(2), lo=(0, 2), counts=(2, 4),
        groups=1),
    row("winograd_input", "float64[2, 32, 1, 4]", terms=16, **_form(2), lo=(1, 0), counts=(1, 1),
        groups=1),
    row("winograd_input", "float32[N, 33, 4, 4]", terms=36, **_form(4), lo=(2, 1), counts=(2, 1),
        groups=1),
    row("winograd_input", "float32[1, 32, 9, 8]", terms=64, **_form(4, 5), lo=(2, 2), counts=(3, 2),
        groups=2),
    row("winograd_input", "float32[1, 3, 4, 9]", terms=4, m=(1, 2), taps=(1, 3), lo=(0, 1),
        counts=(4, 5), groups=1),
    row("winograd_output", "float32[36, 1, 6, 3]", terms=36, **_form(4), shape=(1, 3, 7, 9)),
    row("winograd_output", "float32[16, 1, 12, 17]", terms=16, **_form(2), shape=(2, 17, 4, 5)),
    row("winograd_output", "float64[16, 2, 1, 16]", terms=16, **_form(2), shape=(1, 32, 1, 2)),
    row("winograd_output", f"float32[36, 1, {2 * N}, 33]", terms=36, **_form(4),
        shape=(N, 33, 5, 4)),
    row("winograd_output", "float32[8, 1, 6, 3]", terms=8, m=(2, 1), taps=(7, 1),
        shape=(1, 3, 4, 3)),
    row("winograd_output_gradient", "float32[1, 3, 7, 9]", terms=16, **_form(4), groups=1),
    row("winograd_output_gradient", "float32[2, 17, 4, 5]", terms=4, **_form(2), groups=1),
    row("winograd_output_gradient", "float64[2, 32, 1, 2]", terms=4, **_form(2, 7), groups=2),
    row("winograd_output_gradient", "float32[N, 33, 5, 4]", terms=16, **_form(4), groups=1),
    *(row("winograd_filter", text, terms=9, **_form(m), groups=1, is_flipped=is_flipped)
      for text,
      m in (("float32[5, 3, 3, 3]", 4), ("float32[18, 17, 3, 3]", 2)) for is_flipped in (False, True)),
    *(row("winograd_filter", "float64[32, 16, 1, 5]", terms=5, m=(1, 2), taps=(1, 5), groups=2,
          is_flipped=is_flipped)
      for is_flipped in (False, True)),
    row("winograd_filter_gradient", "float32[36, 1, 3, 5]", terms=36, **_form(4)),
    row("winograd_filter_gradient", "float32[16, 1, 17, 35]", terms=16, **_form(2)),
    row("winograd_filter_gradient", "float64[64, 2, 16, 32]", terms=64, **_form(6)),
    row("winograd_fused", "float32[2, 3, 6, 10]", "float32[16, 1, 3, 5]", terms=108, **_form(2),
        lo=(1, 1), shape=(2, 5, 6, 10)),
    row("winograd_fused", "float32[1, 5, 4, 3]", "float32[36, 1, 5, 17]", terms=500, **_form(4),
        lo=(0, 2), shape=(1, 17, 2, 5)),
    row("winograd_fused", "float64[3, 2, 1, 4]", "float64[16, 1, 2, 1]", terms=72, **_form(2),
        lo=(1, 0), shape=(3, 1, 1, 2)),
    row("winograd_fused", "float32[N, 2, 5, 4]", "float32[16, 1, 2, 3]", terms=72, **_form(2),
        lo=(2, 1), shape=(N, 3, 7, 4)),
    row("fft_input", "float32[2, 3, 6, 10]", terms=64, **_form(6), lo=(1, 1), counts=(1, 2),
        groups=1),
    row("fft_input", "float32[N, 17, 5, 7]", terms=64, m=(4, 6), taps=(5, 3), lo=(0, 2),
        counts=(2, 2), groups=1),
    row("fft_input", "float64[1, 32, 20, 9]", terms=256, **_form(10, 7), lo=(3, 3), counts=(2, 1),
        groups=2),
    row("fft_input", "float32[1, 3, 4, 9]", terms=8, m=(1, 6), taps=(1, 3), lo=(0, 1),
        counts=(4, 2), groups=1),
    row("fft_input", "float32[1, 3, 2, 3]", terms=8, m=(1, 3), taps=(2, 2), lo=(0, 0),
        counts=(1, 1), groups=1),
    row("fft_output", "float32[94, 1, 4, 3]", terms=94, **_form(6), shape=(1, 3, 7, 9)),
    row("fft_output", "float32[46, 1, 4, 17]", terms=46, m=(2, 3), taps=(3, 6),
        shape=(2, 17, 3, 2)),
    row("fft_output", "float64[382, 2, 1, 16]", terms=382, **_form(12, 5), shape=(1, 32, 11, 12)),
    row("fft_output", f"float32[94, 1, {2 * N}, 33]", terms=94, **_form(4, 5), shape=(N, 33, 5, 4)),
    row("fft_output", "float32[11, 1, 6, 3]", terms=11, m=(2, 1), taps=(7, 1), shape=(1, 3, 4, 3)),
    row("fft_output_gradient", "float32[1, 3, 7, 9]", terms=64, **_form(4, 5), groups=1),
    row("fft_output_gradient", "float64[2, 32, 1, 9]", terms=64, **_form(2, 7), groups=2),
    row("fft_output_gradient", "float32[N, 33, 5, 4]", terms=64, **_form(6), groups=1),
    *(row("fft_filter", text, terms=49, **_form(m, taps), groups=1, is_flipped=is_flipped)
      for text, m,
      taps in (("float32[5, 3, 3, 3]", 6, 3),
               ("float32[18, 17, 7, 7]", 10, 7)) for is_flipped in (False, True)),
    *(row("fft_filter", "float64[32, 16, 1, 5]", terms=5, m=(1, 4), taps=(1, 5), groups=2,
          is_flipped=is_flipped)
      for is_flipped in (False, True)),
    row("fft_filter_gradient", "float32[94, 1, 3, 5]", terms=94, **_form(4, 5)),
    row("fft_filter_gradient", "float32[94, 1, 17, 35]", terms=94, **_form(6)),
    row("fft_filter_gradient", "float64[382, 2, 3, 16]", terms=382, **_form(6, 11)),
    row("windows", "float32[2, 3, 7, 6]", kernel=(3, 2), stride=(2, 1), dilation=(1, 3)),
    row("windows", "float32[1, 2, 9]", kernel=(4,), stride=(3,), dilation=(1,)),
    row("windows", "float32[N, 1, 2, 3, 2]", kernel=(1, 2, 2), stride=(1, 1, 1),
        dilation=(1, 1, 1)),
    row("kernel", "float32[3, 5]", "float32[3, 5]", body=_relu_of_sum()),
]  # fmt: skip
