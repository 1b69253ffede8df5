"""ONNX: import of models and export of graphs.

Import: ``model_file`` reads a model, ``tensors`` its constants; ``importer`` walks its nodes and
looks each one up in ``registry``. Most other files are families of handlers (``elementwise``,
``convolution``, ...): functions of a ``context`` (the graph under construction) and a ``node``
(checked against the standard by ``schema``) that fill a table (``handler``). Nested graphs and
functions are inlined (``frame``, ``functions``, ``control_flow``, ``standard_function``). ``support``
says beforehand which ops a model needs and which are missing.

Export: ``exporter``, with one rule for each op in ``export_rules``.
"""

from .exporter import to_onnx
from .importer import from_onnx
from .support import OpSupport, SupportReport, check

__all__ = ["OpSupport", "SupportReport", "check", "from_onnx", "to_onnx"]
