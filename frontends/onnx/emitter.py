"""ONNX nodes under construction: what the rules of export work with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from netloom.compiler.constant import Constant
from netloom.compiler.dim import Extent, Minimum, Quotient, Remainder, Symbol
from netloom.compiler.graph import Value

from .tensors import ONNX_DTYPES

SMALLEST_SPLAT: Final = 1024  # elements; smaller constants are stored


class Emitter:
    """ONNX nodes under construction; values are named here, by position, never by their labels."""

    def __init__(self, opset: int, taken: Sequence[str]) -> None:
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        # where to read a free dim: a tensor's name, and an axis
        self.symbols: dict[Symbol, tuple[str, int]] = {}
        self.label = ""
        self._taken = set(taken)
        self._count = 0
        self._vectors: dict[tuple[Extent, ...], str] = {}

    def name(self) -> str:
        """A new name."""
        while True:
            self._count += 1
            if (name := f"v{self._count}") not in self._taken:
                return name

    def __call__(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output; returns its name. Attributes that are None are left out."""
        output = self.name()
        kept = {key: value for key, value in attributes.items() if value is not None}
        node = helper.make_node(
            op_type, list(inputs), [output], name=self.label and f"{self.label}/{output}", **kept
        )
        self.nodes.append(node)
        return output

    def tensor(self, array: npt.NDArray[Any], name: str = "") -> str:
        """An initializer."""
        constant = Constant(array)
        name = name or self.name()
        data = np.asarray(constant.array, order="C")
        self.initializers.append(
            onnx.TensorProto(
                name=name,
                data_type=ONNX_DTYPES[constant.type.dtype],
                dims=data.shape,
                raw_data=data.tobytes(),
            )
        )
        return name

    def number(self, value: float | int | bool, like: Value) -> str:
        """A scalar of a value's dtype."""
        return self.tensor(np.asarray(value, like.dtype.numpy))

    def constant(self, constant: Constant) -> str:
        """An initializer, or a ConstantOfShape for a large splat."""
        if not constant.is_splat or constant.array.size < SMALLEST_SPLAT:
            return self.tensor(constant.array)
        element = np.asarray(constant.splat_value)
        value = onnx.TensorProto(
            data_type=ONNX_DTYPES[constant.type.dtype], dims=[1], raw_data=element.tobytes()
        )
        return self("ConstantOfShape", self.extents(constant.type.shape), value=value)

    # -- extents as tensors ------------------------------------------------------------------------

    def extents(self, extents: Sequence[Extent]) -> str:
        """An int64 vector."""
        key = tuple(extents)
        if key not in self._vectors:
            if all(isinstance(extent, int) for extent in key):
                self._vectors[key] = self.tensor(np.array(key, np.int64).reshape(-1))
            else:
                self._vectors[key] = self("Concat", *map(self._extent, key), axis=0)
        return self._vectors[key]

    def _extent(self, extent: Extent) -> str:
        """An int64 vector of one element."""
        if isinstance(extent, int):
            return self.extents((extent,))
        total = ""
        for atoms, factor in extent.terms:
            term = self.extents((factor,))
            for atom in atoms:
                term = self("Mul", term, self._atom(atom))
            total = self("Add", total, term) if total else term
        return total

    def _atom(self, atom: Any) -> str:
        match atom:
            case Symbol():
                source, axis = self.symbols[atom]
                return self("Gather", self("Shape", source), self.extents((axis,)), axis=0)
            case Quotient(numerator, divisor):
                rest = self._extent(numerator - numerator % divisor)
                return self("Div", rest, self.extents((divisor,)))
            case Remainder(numerator, divisor):
                return self("Mod", self._extent(numerator), self.extents((divisor,)))
            case Minimum(left, right):
                return self("Min", self._extent(left), self._extent(right))
        raise TypeError(f"{atom} is no atom of an extent")
