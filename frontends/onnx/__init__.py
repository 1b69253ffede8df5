"""ONNX: import of models and export of graphs."""

from .exporter import to_onnx
from .importer import from_onnx
from .support import OpSupport, SupportReport, check

__all__ = ["OpSupport", "SupportReport", "check", "from_onnx", "to_onnx"]
