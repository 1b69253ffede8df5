"""Attention, whole and over blocks of keys, and its gradient."""

from .case import N, row

_HEADS = ("float32[2, 3, 7, 5]", "float32[2, 3, 9, 5]", "float32[2, 3, 9, 4]")
_GRADIENT = (*_HEADS, "float32[2, 3, 7, 4]", "float32[2, 3, 7, 4]")
_PANELS = ("float32[2, 3, 7, 5]", "float32[2, 3, 5, 5, 16]", "float32[2, 3, 70, 20]")
ATTENTION = [
    row("attention", *_HEADS, terms=14, scale=0.5),
    row("attention", *_HEADS, "float32[7, 9]", terms=14, is_causal=True),
    row("attention", *_HEADS, "float32[2, 1, 1, 9] far", terms=14),
    row("attention", *_HEADS, "bool[3, 7, 1]", terms=14, fill=-7.0),
    row("attention", *_HEADS, "bool[9]", terms=14),
    row("attention", *_HEADS, "bool[7, 1]", terms=14, has_zeros=True),
    row("attention", "float64[6, 1]", "float64[4, 1]", "float64[4, 1]", terms=5),
    row("attention", "float16[3, 5]", "float16[4, 5]", "float16[4, 3]", terms=9),
    row("attention", "float32[N, 5]", "float32[N, 5]", "float32[N, 4]", terms=10, is_causal=True),
    row("attention", "float32[N, 1, 6, 5]", "float32[2, 6, 5]", "float32[1, 6, 3]", terms=11),
    row("attention", "float32[0, 3]", "float32[4, 3]", "float32[4, 3]", terms=7),
    row("attention_fused", *_HEADS, "bool[7, 9]", terms=14, scale=0.5, fill=-7.0),
    row("attention_fused", *_HEADS, "float32[3, 1, 9]", terms=14, is_causal=True),
    row("attention_fused", *_HEADS, "bool[7, 1]", terms=14, has_zeros=True),
    row("attention_fused", "float32[N, 5]", "float32[N, 5]", "float32[N, 4]", terms=10,
        is_causal=True),
    row("attention_gradient", *_GRADIENT, terms=37, wrt="q", scale=0.5, is_causal=True),
    row("attention_gradient", *_GRADIENT, "float32[7, 9]", terms=35, wrt="k", scale=0.5),
    row("attention_gradient", *_GRADIENT, "bool[3, 7, 1]", terms=32, wrt="v", fill=-7.0),
    row("attention_gradient", *_GRADIENT, "bool[9]", terms=37, wrt="q", fill=-2.0),
    row("attention_gradient", *_GRADIENT, "float32[3, 7, 1]", terms=27, wrt="mask"),
    row("attention_gradient", *_GRADIENT, "bool[7, 1]", terms=37, wrt="k", has_zeros=True),
    row("attention_gradient", "float32[N, 5]", "float32[6, 5]", "float32[2, 6, 3]",
        "float32[2, N, 3]", "float32[2, N, 3]", terms=37, wrt="k"),
    row("key_panels", "float32[2, 3, 37, 5]"), row("key_panels", "float64[16, 3]"),
    row("key_panels", "float32[N, 18, 2]"),
    row("key_panels", "float32[N, 7]"),
    row("attention_online", *_PANELS, "float32[7, 70]", terms=75, scale=0.25),
    row("attention_online", *_PANELS, "bool[2, 1, 1, 70]", terms=75, fill=-3.0),
    row("attention_online", *_PANELS, "bool[70]", terms=75, is_causal=True),
    row("attention_online", *_PANELS, "bool[7, 1]", terms=75, has_zeros=True),
    row("attention_online", "float64[33, 3]", "float64[2, 3, 16]", "float64[17, 1]", terms=20,
        is_causal=True),
    row("attention_online", "float32[2, N, 4]", f"float32[{(N + 15) // 16}, 4, 16]",
        "float32[N, 17]", terms=9, is_causal=True),
    row("attention_online", "float32[N, 1, 4]", "float32[9, 4, 16]", "float32[129, 16]", terms=133),
]  # fmt: skip
