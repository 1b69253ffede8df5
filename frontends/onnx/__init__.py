"""ONNX: import of models and export of graphs. Names are looked up on first use: reading a model
needs nothing that writes one.

A model is read (``model_bytes``, ``model_file``, ``large_tensors``, ``tensors``); ``importer`` goes
through its nodes in ``order`` and hands each, checked against ``schema``, to its handler: a function of
a ``context`` and a ``node`` in the ``registry``. Handlers lie in the files of their families, those of
other domains in ``machine_learning/`` and ``microsoft/``. What is known of values at import is in
``context``, ``folding``, ``bounds``, ``ratios`` and ``dequantized``; what nodes demand of free dims in
``fits``, ``restriction``, ``equal_extents`` and ``conditions``. ``support`` tells what a model has that
cannot be imported. ``exporter`` writes graphs by ``export_rules``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .exporter import to_onnx
    from .importer import from_onnx
    from .support import OpSupport, SupportReport, check

_PLACES = {
    "OpSupport": "support", "SupportReport": "support", "check": "support",
    "from_onnx": "importer", "to_onnx": "exporter",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
    globals()[name] = value
    return value


__all__ = ["OpSupport", "SupportReport", "check", "from_onnx", "to_onnx"]
