"""The zoo: well-known networks as functions that give graphs.

Each constructor takes ``classes``, the input's size, ``batch`` (an int or the name of a free dim),
``seed``, ``training`` (which form) and ``initializer`` (replaces every parameter's own), and
returns a traced graph whose input is ``x`` and whose output ``y`` are logits, before any softmax.
``NETWORKS`` names them all.
"""

from __future__ import annotations

from collections.abc import Callable

from ..network import TracedGraph
from .alexnet import alexnet
from .lenet import lenet5
from .mlp import mlp
from .resnet import resnet18, resnet34, resnet50, resnet101, resnet152
from .vgg import vgg16, vgg19

NETWORKS: dict[str, Callable[..., TracedGraph]] = {
    "mlp": mlp,
    "lenet5": lenet5,
    "alexnet": alexnet,
    "vgg16": vgg16,
    "vgg19": vgg19,
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "resnet101": resnet101,
    "resnet152": resnet152,
}

__all__ = [
    "NETWORKS",
    "alexnet",
    "lenet5",
    "mlp",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "vgg16",
    "vgg19",
]  # fmt: skip
