"""ONNX's ops of classical machine learning (domain ai.onnx.ml), those of numbers -> ops of the
graph: scaling, linear models, kernels, trees.

Labels are numbers, for strings are no tensors; maps become tensors.
"""

from __future__ import annotations

from typing import Final

from ..handler import HandlerTable
from .linear import LINEAR
from .maps import MAPS
from .preprocessing import PREPROCESSING
from .support_vectors import VECTORS
from .tree_ensemble import TREE_ENSEMBLE
from .trees import TREES

MACHINE_LEARNING: Final = HandlerTable(LINEAR, VECTORS, PREPROCESSING, TREES, TREE_ENSEMBLE, MAPS)

__all__ = ["MACHINE_LEARNING"]
