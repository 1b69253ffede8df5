"""Pooling: each row gives every pooling op and its gradient."""

from __future__ import annotations

from typing import Any

import numpy as np

from .case import Case, parse_input, row


def _poolings(x: str, y: str, extra: tuple[int, ...], **attrs: Any) -> list[Case]:
    """Every pooling op from x to y."""
    spatial, size = parse_input(x).type.shape[2:], int(np.prod(attrs["kernel"]))
    index = f"{y.replace('float32', 'int32')} label:{size}"
    averages = [{"count_padding": count, "extra": extra} for count in (False, True)]
    return [
        row("max_pool", x, **attrs), row("max_pool_index", x, f"{y} max_pool", **attrs),
        row("max_pool_gradient", y, index, terms=size, **attrs, spatial=spatial),
        *(row("average_pool", x, terms=size, **attrs, **a) for a in averages),
        *(row("average_pool_gradient", y, terms=size, **attrs, **a,
              spatial=spatial) for a in averages),
    ]  # fmt: skip


POOLING = [
    *_poolings("float32[2, 3, 9, 8]", "float32[2, 3, 5, 4]", (1, 0), kernel=(3, 2), stride=(2, 2),
               dilation=(1, 1), lo=(1, 0), hi=(1, 1)),
    *_poolings("float32[1, 2, 6, 7]", "float32[1, 2, 4, 5]", (), kernel=(2, 2), stride=(1, 1),
               dilation=(2, 2), lo=(0, 0), hi=(0, 0)),
    *_poolings("float32[1, 3, 10]", "float32[1, 3, 4]", (), kernel=(5,), stride=(2,), dilation=(1,),
               lo=(1,), hi=(0,)),
    *_poolings("float32[1, 1, 3, 4, 3]", "float32[1, 1, 2, 2, 1]", (), kernel=(2, 3, 3),
               stride=(1, 1, 2), dilation=(1, 1, 1),
               lo=(0, 0, 1), hi=(0, 0, 0)),
    *_poolings("float32[N, 1, 4, 4]", "float32[N, 1, 2, 2]", (), kernel=(2, 2), stride=(2, 2),
               dilation=(1, 1), lo=(0, 0), hi=(0, 0)),
    row("max_pool", "float32[1, 1, 5, 5] nan", kernel=(2, 2), stride=(2, 2), dilation=(1, 1),
        lo=(1, 1), hi=(0, 0)),
    *_poolings("float32[1, 2, N, 3]", "float32[1, 2, N, 3]", (), kernel=(3, 3), stride=(1, 1),
               dilation=(1, 1), lo=(1, 1), hi=(1, 1)),
    row("max_pool", "float32[1, 1, 3]", kernel=(2,), stride=(1,), dilation=(1,), lo=(3,), hi=(2,)),
    row("max_pool_index", "float32[1, 1, 3]", "float32[1, 1, 7] max_pool", kernel=(2,), stride=(1,),
        dilation=(1,), lo=(3,), hi=(2,)),
    row("max_pool", "int8[1, 2, 6] wide", kernel=(3,), stride=(1,), dilation=(1,), lo=(1,),
        hi=(1,)),
    row("max_pool", "float16[1, 2, 6]", kernel=(3,), stride=(2,), dilation=(1,), lo=(1,), hi=(1,)),
    row("average_pool", "bfloat16[1, 2, 6]", terms=3, kernel=(3,), stride=(2,), dilation=(1,),
        lo=(1,), hi=(1,)),
]  # fmt: skip
