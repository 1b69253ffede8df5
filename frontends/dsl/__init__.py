"""The language in which networks are written: Python functions over symbolic values, traced into
graphs.
"""

from __future__ import annotations

from . import initializers, losses, optimizers, zoo
from .attention_layers import multi_head_attention, rotary
from .functions import (
    argmax,
    attention,
    cast,
    clip,
    concat,
    elu,
    equal,
    exp,
    flatten,
    gelu,
    leaky_relu,
    log,
    log_softmax,
    lrn,
    maximum,
    minimum,
    one_hot,
    pad,
    random_normal,
    random_uniform,
    reduce_max,
    reduce_mean,
    reduce_min,
    reduce_sum,
    relu,
    reshape,
    sigmoid,
    sign,
    silu,
    softmax,
    softplus,
    softsign,
    sqrt,
    square,
    tanh,
    transpose,
    where,
)  # fmt: skip
from .imported import apply, trainable
from .layers import (
    average_pool2d,
    conv1d,
    conv2d,
    conv3d,
    conv_transpose2d,
    dense,
    dropout,
    embedding,
    global_average_pool,
    max_pool2d,
)  # fmt: skip
from .network import Network, TracedGraph, network, with_states
from .normalizations import batch_norm, group_norm, instance_norm, layer_norm, rms_norm
from .recurrent import gru, lstm
from .trace import Symbolic, is_training, parameter, tensor
from .training_step import training_graph

__all__ = [
    "Network", "Symbolic", "TracedGraph", "apply", "argmax", "attention", "average_pool2d", "batch_norm",
    "cast", "clip", "concat",
    "conv1d", "conv2d", "conv3d", "conv_transpose2d", "dense", "dropout", "elu", "embedding",
    "equal", "exp", "flatten", "gelu",
    "global_average_pool", "group_norm", "gru", "initializers", "instance_norm", "is_training",
    "layer_norm", "leaky_relu", "log", "log_softmax", "losses",
    "lrn", "lstm", "max_pool2d", "maximum", "minimum", "multi_head_attention", "network",
    "one_hot", "optimizers", "pad", "parameter", "random_normal", "random_uniform", "reduce_max",
    "reduce_mean", "reduce_min", "reduce_sum", "relu", "reshape", "rms_norm", "rotary", "sigmoid", "sign", "silu",
    "softmax", "softplus",
    "softsign", "sqrt", "square", "tanh", "tensor", "trainable", "training_graph", "transpose", "where",
    "with_states", "zoo",
]  # fmt: skip
