"""Convolutions: each row gives the op and its two gradients."""

from __future__ import annotations

from typing import Any

from .case import Case, parse_input, row


def _convolutions(x: str, w: str, y: str, terms: tuple[int, int, int], **attrs: Any) -> list[Case]:
    """The convolution x, w -> y and its two gradients; ``terms`` of y, of dx, of dw."""
    spatial, kernel = (parse_input(t).type.shape[2:] for t in (x, w))
    rank = len(kernel)
    plain = {
        "stride": (1,) * rank,
        "dilation": (1,) * rank,
        "lo": (0,) * rank,
        "hi": (0,) * rank,
        "groups": 1,
        **attrs,
    }
    return [
        row("conv", x, w, terms=terms[0], **plain),
        row("conv_input_gradient", y, w, terms=terms[1], **plain, spatial=spatial),
        row("conv_weight_gradient", x, y, terms=terms[2], **plain, kernel=kernel),
    ]


CONVOLUTION = [
    *_convolutions("float32[2, 3, 7, 6]", "float32[5, 3, 3, 3]", "float32[2, 5, 7, 6]",
                   (27, 45, 84), lo=(1, 1), hi=(1, 1)),
    *_convolutions("float32[1, 4, 9, 8]", "float32[6, 2, 3, 2]", "float32[1, 6, 4, 5]",
                   (12, 18, 20),
                   stride=(2, 2), dilation=(2, 1), lo=(1, 2), hi=(2, 0), groups=2),
    *_convolutions("float32[2, 3, 5, 5]", "float32[3, 1, 3, 3]", "float32[2, 3, 3, 2]", (9, 9, 12),
                   stride=(2, 2), lo=(1, 0), hi=(1, 0), groups=3),
    *_convolutions("float32[2, 17, 4, 5]", "float32[19, 17, 1, 1]", "float32[2, 19, 4, 5]",
                   (17, 19, 40)),
    *_convolutions("float64[1, 2, 11]", "float64[3, 2, 4]", "float64[1, 3, 4]", (8, 12, 4),
                   stride=(3,), lo=(2,), hi=(1,)),
    *_convolutions("float32[1, 1, 4, 3, 5]", "float32[2, 1, 2, 3, 2]", "float32[1, 2, 3, 2, 4]",
                   (12, 24, 24), lo=(0, 1, 0), hi=(0, 0, 0)),
    *_convolutions("float32[N, 2, 4, 4]", "float32[3, 2, 3, 3]", "float32[N, 3, 2, 2]",
                   (18, 27, 20)),
    *_convolutions("float32[1, 2, N, 6]", "float32[3, 2, 3, 3]", "float32[1, 3, N, 6]",
                   (18, 27, 30), lo=(1, 1), hi=(1, 1)),
    *_convolutions("int32[1, 2, 5, 5]", "int32[3, 2, 2, 2]", "int32[1, 3, 4, 4]", (8, 12, 16)),
    *_convolutions("float32[0, 2, 4, 4]", "float32[3, 2, 3, 3]", "float32[0, 3, 2, 2]",
                   (18, 27, 0)),
    *_convolutions("bfloat16[1, 3, 5, 5]", "bfloat16[2, 3, 2, 2]", "bfloat16[1, 2, 4, 4]",
                   (12, 8, 16)),
    *_convolutions("float32[1, 1, 1, 1]", "float32[1, 1, 1, 1]", "float32[1, 1, 3, 3]", (1, 1, 9),
                   lo=(1, 1), hi=(1, 1)),
]  # fmt: skip
