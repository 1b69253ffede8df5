"""netloom: a compiler from neural networks to native code. This is its thin public face.

Names are looked up on first use, so that ``import netloom`` costs next to nothing and loading a
shared object needs NumPy only.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import errors

__version__ = "0.1.0"

_DSL = "netloom.frontends.dsl"
_PLACES = {
    "compile": "netloom.api", "compile_training": "netloom.api", "CompiledNetwork": "netloom.api",
    "load": "netloom.runtime.session", "Session": "netloom.runtime.session", "Trainer": "netloom.runtime.training",
    "from_onnx": "netloom.frontends.onnx.importer", "to_onnx": "netloom.frontends.onnx.exporter",
    **{name: _DSL for name in (
        "apply", "argmax", "attention", "average_pool2d", "batch_norm", "cast", "clip", "concat", "conv1d", "conv2d",
        "conv3d", "conv_transpose2d", "dense", "dropout", "elu", "embedding", "equal", "exp", "flatten", "gelu",
        "global_average_pool", "group_norm", "gru", "initializers", "instance_norm", "is_training", "layer_norm",
        "leaky_relu", "log", "log_softmax", "losses", "lrn", "lstm",
        "max_pool2d", "maximum", "minimum", "multi_head_attention", "network",
        "one_hot", "optimizers", "pad", "parameter", "random_normal", "random_uniform", "reduce_max",
        "reduce_mean", "reduce_min", "reduce_sum", "relu", "reshape", "rms_norm", "rotary", "sigmoid", "sign",
        "silu", "softmax", "softplus", "softsign", "sqrt", "square", "tanh", "tensor", "trainable",
        "training_graph", "transpose", "where", "with_states", "zoo",
    )},
}  # fmt: skip

if TYPE_CHECKING:
    from .api import CompiledNetwork, compile, compile_training
    from .frontends.dsl import *  # noqa: F403
    from .frontends.onnx.exporter import to_onnx
    from .frontends.onnx.importer import from_onnx
    from .runtime.session import Session, load
    from .runtime.training import Trainer


def __getattr__(name: str) -> Any:
    place = _PLACES.get(name)
    if place is None:
        raise AttributeError(f"module 'netloom' has no attribute {name!r}")
    value = getattr(importlib.import_module(place), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*_PLACES, "errors"])


__all__ = ["errors", *_PLACES]
