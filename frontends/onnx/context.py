"""What handlers work with: a graph under construction, and what is known of its values at import.

Small results of constants are computed at once, and integer tensors carry their contents as
extents, which may be symbolic: so the shape arithmetic of a model with free dims (Shape, Gather,
Concat, Reshape) is evaluated here, and the dead nodes that it leaves are swept at the end.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx

from netloom.compiler import dim
from netloom.compiler.constant import Constant
from netloom.compiler.dim import Dim, Extent
from netloom.compiler.graph import Builder, Value
from netloom.compiler.tensor_type import (
    BOOL,
    FLOAT32,
    FLOAT64,
    INT32,
    INT64,
    MAX_RANK,
    DType,
    TensorType,
)

from .bounds import bound_of, bound_of_array
from .dequantized import Dequantized
from .folding import computed
from .node import ModelNode
from .ratios import Ratio, converted, known_floats, objects
from .sizes import check_size
from .sparse import dense
from .tensors import NARROW, Narrow, TensorReader

Contents = npt.NDArray[Any]  # of dtype object: ints and Dims

KNOWN: Final = (INT64, INT32, FLOAT32, FLOAT64)  # dtypes of symbolic contents
MOST_FLOATS: Final = 8  # elements of a float constant that may be part of sizes
MOST_KNOWN: Final = 1 << 10  # elements of a tensor whose symbolic contents are followed


class Context:
    """A builder that remembers constants and contents."""

    def __init__(self, builder: Builder, reader: TensorReader) -> None:
        self.builder = builder
        self.reader = reader
        self.constants: dict[Value, Constant] = {}
        self.narrow: dict[Value, Narrow] = {}  # whose dtype in the model is narrower than theirs
        self.dequantized: dict[Value, Dequantized] = {}  # which are integers times a scale
        self.unrolled = 0  # steps of loops so far
        self.notes: list[str] = []  # what the user should know of the import
        self.folds_floats = True  # results of small float constants are computed at once
        self.turns: tuple[Dim, ...] = ()  # of the loops around what is being imported
        # (seed, node with a seed) -> how often numbers were drawn
        self.draws: Counter[tuple[int, str]] = Counter()
        self._contents: dict[Value, Contents] = {}
        self._sources: dict[Value, Value] = {}
        self._extents: dict[Extent, Value] = {}
        self.splats: dict[Value, float | int | bool] = {}  # of a free shape: what fills them
        self.positions: dict[Value, Value] = {}  # where what is not zero stands in a value
        self.data_bounds: dict[Extent, Extent] = {}  # of dims that data decide
        self.largest: dict[Value, Extent] = {}  # that integers can be which data decide
        self.parts: dict[Value, Sequence[Value]] = {}  # of short vectors that were joined

    @contextmanager
    def nested(self) -> Iterator[Builder]:
        """A graph within this one is being built; what is learnt meanwhile is forgotten behind
        it.
        """
        before = {**self.__dict__}
        for name, item in before.items():
            self.__dict__[name] = copy(item) if isinstance(item, dict) else item
        self.builder = Builder(self.builder.name, self.builder)
        try:
            yield self.builder
        finally:
            self.__dict__.update({**before, "unrolled": self.unrolled, "draws": self.draws})

    @contextmanager
    def whole_weights(self) -> Iterator[None]:
        """Parts of weights stay nodes that read them, so that whoever trains the model trains one
        tensor, by its name; passes fold them.
        """
        before, self.folds_floats = self.folds_floats, False
        try:
            yield
        finally:
            self.folds_floats = before

    # -- adding nodes ------------------------------------------------------------------------------

    def constant(self, array: npt.ArrayLike | Constant, dtype: DType | None = None) -> Value:
        """A constant tensor."""
        value = array if isinstance(array, Constant) else Constant(array, dtype)
        result = self.builder.constant(value)
        self.constants[result] = value
        return result

    def tensor(self, tensor: onnx.TensorProto, what: str = "") -> Value:
        """A tensor of the model as a constant; where its dtype is narrow, that is remembered."""
        result = self.constant(self.reader.constant(tensor, what))
        if tensor.data_type in NARROW:
            self.narrow[result] = NARROW[tensor.data_type]
        return result

    def sparse_tensor(self, tensor: onnx.SparseTensorProto, what: str) -> Value:
        """A sparse tensor of the model as a constant with all its elements."""
        return self.constant(dense(self.reader, tensor, what))

    def splat(self, number: float | int | bool, dtype: DType, shape: Sequence[Extent]) -> Value:
        """One number repeated over a shape, which may be symbolic."""
        check_size(TensorType(dtype, tuple(shape)))
        if all(isinstance(extent, int) for extent in shape):
            return self._filler(number, TensorType(dtype, tuple(shape)))
        value = self("broadcast", self.number(number, dtype), shape=tuple(shape))
        self.splats[value] = number
        return value

    def _filler(self, number: float | int | bool, type: TensorType) -> Value:
        """A constant without a label: it is no weight, and must not be trained as one."""
        label, self.builder.label = self.builder.label, ""
        result = self.constant(Constant.splat(number, type))
        self.builder.label = label
        return result

    def number(self, number: float | int | bool, dtype: DType) -> Value:
        """A scalar constant, shared."""
        value = self.builder.number(number, dtype)
        if value not in self.constants:
            self.constants[value] = Constant(np.asarray(number, dtype.numpy))
        return value

    def __call__(self, op: str, *inputs: Value | float | int | bool, **attrs: Any) -> Value:
        """Add a node with one output, or its value if all inputs are small constants."""
        dtypes = [v.dtype for v in inputs if isinstance(v, Value)]
        values = [v if isinstance(v, Value) else self.number(v, dtypes[-1]) for v in inputs]
        folded = self._fold(op, values, attrs)
        if folded is not None:
            return folded
        result = self.builder(op, *values, **attrs)
        check_size(result.type)
        if result.dtype.is_integer:
            bound = bound_of(op, attrs, values, [self.bound(value) for value in values])
            if bound is not None:
                self.largest[result] = bound
        return result

    def _fold(self, op: str, inputs: Sequence[Value], attrs: Mapping[str, Any]) -> Value | None:
        """The result as a constant, if all inputs are constants and it is small."""
        known = [self.constants.get(value) for value in inputs]
        arrays = [constant.array for constant in known if constant is not None]
        if len(arrays) < len(inputs):
            return None
        if not self.folds_floats and any(value.dtype.is_float for value in inputs):
            return None
        array = computed(op, attrs, [value.type for value in inputs], arrays)
        return None if array is None else self.constant(Constant.shortest(array))

    # -- what is known -----------------------------------------------------------------------------

    def array(self, value: Value | None) -> npt.NDArray[Any] | None:
        """The contents of a constant, else None."""
        constant = self.constants.get(value) if value is not None else None
        return None if constant is None else constant.array

    def contents(self, value: Value | None) -> Contents | None:
        """The contents of a small integer or bool tensor as extents, where they are known; those
        of a float tensor as ratios of extents.
        """
        if value is None:
            return None
        array = self.array(value)
        if array is not None and value.dtype.is_float:
            return known_floats(array) if array.size <= MOST_FLOATS else None
        if array is not None and array.size <= MOST_KNOWN:
            return objects(array.astype(np.int64) if value.dtype is BOOL else array)
        return self._contents.get(value)

    def know(self, value: Value, contents: Contents) -> Value:
        """Remember contents; a value whose contents are all numbers is replaced by a constant."""
        if contents.size <= MOST_KNOWN and all(isinstance(item, int) for item in contents.flat):
            info = np.iinfo(value.dtype.numpy) if value.dtype.is_integer else None
            if info is not None and any(not info.min <= item <= info.max for item in contents.flat):
                return value
            return self.constant(
                np.array(contents.tolist(), np.int64).reshape(contents.shape), value.dtype
            )
        kind = Ratio if value.dtype.is_float else (int, Dim)
        is_known = value.dtype in KNOWN and all(isinstance(item, kind) for item in contents.flat)
        if contents.size <= MOST_KNOWN and is_known:
            self._contents[value] = contents
        return value

    def learn(self, value: Value, function: Callable[..., Any], *operands: Value | None) -> Value:
        """Evaluate ``function`` on the operands' contents, where all are known, as the contents
        of ``value``.
        """
        if value in self.constants:
            return value
        known = [self.contents(operand) for operand in operands]
        if any(contents is None for contents in known):
            return value
        try:
            result = function(*known)
        except (TypeError, ValueError):  # not a polynomial: it stays a run-time value
            return value
        return self.know(value, objects(result))

    def extents(self, value: Value, node: ModelNode, what: str) -> tuple[Extent, ...]:
        """The contents of a rank-1 (or scalar) integer tensor; UnsupportedOpError if data decide
        them.
        """
        contents = self.contents(value)
        if contents is None:
            bound = self.bound(value)
            contents = None if bound is None else self.decided(value, bound, "size")
        if contents is None or contents.ndim > 1:
            name = node.name_of(value)
            named = f"the tensor {name!r}" if name else "that tensor's name"
            raise node.unsupported(
                f"{what} is computed from data, and must be known at import, or have a bound.",
                f"Fix the free dims (dims=, shapes=; --dim, --shape), give {named} a range "
                f"(--dim {name or 'NAME'}=0..LARGEST), or simplify the model before.",
            )
        return tuple(contents.reshape(-1).tolist())

    def extent(self, value: Value, node: ModelNode, what: str) -> Extent:
        """Like ``extents``, of a tensor with one element."""
        found = self.extents(value, node, what)
        if len(found) != 1:
            raise node.misshapen(f"{what} is {value.type}; one number is needed.")
        return found[0]

    def integers(self, value: Value, node: ModelNode, what: str) -> tuple[int, ...]:
        """Like ``extents``, all of them numbers."""
        extents = self.extents(value, node, what)
        if not all(isinstance(extent, int) for extent in extents):
            raise node.unsupported(
                f"{what} depends on free dims: {list(extents)}.",
                "Fix the free dims (dims=, shapes=; --dim, --shape).",
            )
        return tuple(int(extent) for extent in extents if isinstance(extent, int))

    def scalar(self, value: Value | None, node: ModelNode, what: str) -> Any:
        """The element of a constant of one element, as a Python number; None for an absent
        input.
        """
        if value is None:
            return None
        array = self.array(value)
        if array is None or array.size != 1:
            raise node.unsupported(
                f"{what} must be one number, known at import.", "Make it an initializer."
            )
        return (
            array.reshape(()).astype(np.float64).item()
            if value.dtype.is_float
            else array.reshape(()).item()
        )

    def data_dim(self, count: Value, bound: Extent, name: str) -> Extent:
        """The extent that stands for an int64 scalar: what is known of it, or a new dim that data
        decide, from 0 to ``bound``.
        """
        known = self.contents(count)
        if known is not None:
            return known.item()  # type: ignore[no-any-return]
        extent = self.builder.new_data_dim(name, bound)
        self.know(count, objects(extent))
        self.builder("data_dim", count, extent=extent, bound=bound)
        self.data_bounds[extent] = bound
        return extent

    def bound(self, value: Value) -> Extent | None:
        """The largest that the integers of a value can be, none of them negative; None if that
        is not known.
        """
        array = self.array(value)
        if array is not None:
            return bound_of_array(array)
        contents = None if value.dtype.is_float else self._contents.get(value)
        if contents is not None and contents.size == 1 and dim.is_nonnegative(contents.item()):
            return contents.item()  # type: ignore[no-any-return]
        return self.largest.get(value)

    def _decided_parts(self, value: Value, bound: Extent, name: str) -> Contents | None:
        found: list[Contents] = []
        for part in self.parts[value]:
            contents = self.contents(part)
            own = self.bound(part)
            if contents is None:
                contents = self.decided(part, bound if own is None else own, name)
            if contents is None:
                return None
            found.append(contents)
        return self._contents.setdefault(value, np.concatenate(found))

    def decided(self, value: Value, bound: Extent, name: str) -> Contents | None:
        """Dims that data decide, up to ``bound``: what a short vector or a scalar holds, or None."""
        if value in self.parts:
            return self._decided_parts(value, bound, name)
        if value.type.rank > 1 or not value.type.is_static or not value.dtype.is_integer:
            return None
        count = math.prod(value.type.static_shape)
        if count > MAX_RANK:
            return None
        extents: list[Extent] = []
        flat = self.reshape(value, (count,))
        for place in range(count):
            part = self.reshape(self.slice_axis(flat, 0, place, 1), ())
            extents.append(self.data_dim(self.cast(part, INT64), bound, name))
        contents = objects(extents).reshape(value.type.static_shape)
        self._contents[value] = contents
        return contents

    # -- extents as data ---------------------------------------------------------------------------

    def extent_value(self, extent: Extent) -> Value:
        """An extent as an int64 scalar of the graph."""
        if isinstance(extent, int):
            return self.number(extent, INT64)
        if extent not in self._extents:
            self._extents[extent] = self.know(self("extent", extent=extent), objects(extent))
        return self._extents[extent]

    def extents_value(self, extents: Sequence[Extent]) -> Value:
        """Extents as an int64 vector of the graph."""
        if all(isinstance(extent, int) for extent in extents):
            return self.constant(np.array(extents, np.int64).reshape(-1))
        parts = [self.reshape(self.extent_value(extent), (1,)) for extent in extents]
        value = self("concat", *parts, axis=0) if len(parts) > 1 else parts[0]
        return self.know(value, objects(list(extents)))

    # -- common steps ------------------------------------------------------------------------------

    def reshape(self, value: Value, shape: Sequence[Extent]) -> Value:
        """The value with another shape; nothing if it has that shape already, or had it before
        it was reshaped.
        """
        for known in (value, self.source(value)):
            if known.shape == tuple(shape):
                return known
        result = self("reshape", value, shape=tuple(shape))
        self._sources[result] = value
        return self.learn(result, lambda x: x.reshape(tuple(shape)), value)

    def source(self, value: Value) -> Value:
        """The value before it was reshaped; itself if it was not."""
        return self._sources.get(value, value)

    def transpose(self, value: Value, permutation: Sequence[int]) -> Value:
        if tuple(permutation) == tuple(range(len(permutation))):
            return value
        result = self("transpose", value, permutation=tuple(permutation))
        return self.learn(result, lambda x: x.transpose(tuple(permutation)), value)

    def cast(self, value: Value, dtype: DType) -> Value:
        if value.dtype is dtype:
            return value
        result = self("cast", value, dtype=dtype)
        if BOOL in (value.dtype, dtype):
            return result
        turned = np.frompyfunc(partial(converted, to_float=dtype.is_float), 1, 1)
        return self.learn(result, turned, value)

    def slice(
        self,
        value: Value,
        start: Sequence[Extent],
        size: Sequence[Extent],
        step: Sequence[int] | None = None,
    ) -> Value:
        """Part of a value, one entry per axis; nothing if it is the whole."""
        steps = tuple(step) if step is not None else (1,) * value.type.rank
        if tuple(size) == value.shape and all(s == 1 for s in steps):
            return value
        return self("slice", value, start=tuple(start), size=tuple(size), step=steps)

    def slice_axis(self, value: Value, axis: int, start: Extent, size: Extent) -> Value:
        """Part of one axis."""
        starts: list[Extent] = [0] * value.type.rank
        sizes = list(value.shape)
        starts[axis], sizes[axis] = start, size
        return self.slice(value, starts, sizes)

    def per_channel(self, value: Value, rank: int, axis: int = 1) -> Value:
        """A vector shaped so that it broadcasts along ``axis`` of a tensor of ``rank``."""
        return self.reshape(value, (*value.shape, *(1,) * (rank - axis - 1)))
