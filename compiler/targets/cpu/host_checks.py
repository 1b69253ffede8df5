"""Checks of a caller's tensors, in the host layer: types, extents, memory; errors say what is
expected and given.
"""

from __future__ import annotations

from llvmlite import ir

from netloom import abi

from ...tensor_type import MAX_RANK
from .host import I8, I32, I64, PTR, VOID, Array, Function, Record, Word
from .host_module import HostModule
from .host_tables import ENTRY, EXTENT, NAMED_DTYPE, PORT, SYMBOL, UNBOUNDED
from .host_types import RUN, TENSOR, TEXT_BYTES, UNBOUND, dtype_of


class Checks:
    """Writes the checks into a module."""

    def __init__(self, host: HostModule) -> None:
        self.host = host
        self.describe = self._describe()
        self.mismatch = self._mismatch()
        self.check_type = self._check_type()
        self.check_extents = self._check_extents()
        self.check_memory = self._check_memory()
        self.check_overlap = self._check_overlap()

    def _describe(self) -> Function:
        """Writes ``float32[2, 3]`` into a buffer of TEXT_BYTES bytes."""
        code = Function(
            self.host.module,
            "describe",
            VOID,
            {"buffer": PTR, "dtype": I32, "rank": I64, "shape": PTR},
        )
        buffer, rank, shape = code["buffer"], code["rank"], code["shape"].array(I64)
        name = code.variable(PTR, code.address_of(self.host.text("an unknown dtype ")))
        with code.loop(len(abi.DLPACK_CODES)) as index:
            known = code.address_of(self.host.dtypes).record(NAMED_DTYPE, index)
            name[0] = code.select(known["dtype"].equals(code["dtype"]), known["name"], name[0], PTR)
        with code.if_((rank < 0) | (rank > MAX_RANK) | ((rank > 0) & code["shape"].equals(0))):
            self.host.print(
                code, buffer, TEXT_BYTES, "%s of rank %lld without a usable shape", name[0], rank
            )
            code.return_()
        length = code.variable(
            I64, self.host.print(code, buffer, TEXT_BYTES, "%s[", name[0]).to(I64)
        )
        with code.loop(rank) as axis:
            comma = code.select(
                axis > 0,
                code.address_of(self.host.text(", ")),
                code.address_of(self.host.text("")),
                PTR,
            )
            room = code.word(TEXT_BYTES) - length[0]
            length[0] = length[0] + self.host.print(
                code, buffer.offset(length[0]), room, "%s%lld", comma, shape[axis]
            ).to(I64)
        self.host.print(code, buffer.offset(length[0]), code.word(TEXT_BYTES) - length[0], "]")
        code.return_()
        return code

    def _mismatch(self) -> Function:
        """Fails with the expected and the given type of a port; ``values``: the entry's, or NULL
        while unknown.
        """
        code = self.host.function(
            "mismatch", context=PTR, port=PTR, tensor=PTR, kind=PTR, values=PTR
        )
        context, port, tensor = (
            self.host.enter(code),
            code["port"].record(PORT),
            code["tensor"].record(TENSOR),
        )
        given = code.allocate(ir.ArrayType(I8, TEXT_BYTES)).offset(0)
        code.call(self.describe, given, dtype_of(tensor), tensor["ndim"].to(I64), tensor["shape"])
        with code.if_(code["values"].equals(0) | port["symbolic"].equals(0)):
            self.host.fail(
                context,
                "NL_ERROR_INPUT",
                "The %s %s must be %s, but %s was given.",
                code["kind"],
                port["name"],
                port["type"],
                given,
            )
        shape = code.allocate(ir.ArrayType(I64, MAX_RANK)).array(I64)
        with code.loop(port["rank"].to(I64)) as axis:
            shape[axis] = code["values"].array(I64)[port["extents"].record(EXTENT, axis)["value"]]
        expected = code.allocate(ir.ArrayType(I8, TEXT_BYTES)).offset(0)
        code.call(self.describe, expected, port["dtype"], port["rank"].to(I64), shape.address(0))
        self.host.fail(
            context,
            "NL_ERROR_INPUT",
            "The %s %s must be %s (here %s), but %s was given.",
            code["kind"],
            port["name"],
            port["type"],
            expected,
            given,
        )
        return code

    # -- checks of tensors -------------------------------------------------------------------------

    def _check_type(self) -> Function:
        """Checks device, dtype, rank and extents, and binds the symbols that still are UNBOUND."""
        code = self.host.function(
            "check_type", context=PTR, port=PTR, tensor=PTR, kind=PTR, symbols=PTR
        )
        context, port, tensor = (
            self.host.enter(code),
            code["port"].record(PORT),
            code["tensor"].record(TENSOR),
        )
        symbols, rank = code["symbols"].array(I64), port["rank"].to(I64)
        wrong = dtype_of(tensor).differs(port["dtype"]) | tensor["ndim"].differs(port["rank"])
        with code.if_(wrong | (tensor["shape"].equals(0) & (rank > 0))):
            code.return_(
                code.call(self.mismatch, context.word, port.word, tensor.word, code["kind"], 0)
            )
        with code.if_(tensor.inner("device")["device_type"].differs(1)):
            self.host.fail(
                context,
                "NL_ERROR_INPUT",
                "The %s %s must be in CPU memory (device type 1), but device type %d was given.",
                code["kind"],
                port["name"],
                tensor.inner("device")["device_type"],
            )
        with code.loop(rank) as axis:
            extent, given = port["extents"].record(EXTENT, axis), tensor["shape"].array(I64)[axis]
            with code.if_(given < 0):
                code.return_(
                    code.call(self.mismatch, context.word, port.word, tensor.word, code["kind"], 0)
                )
            with code.if_(extent["symbol"] >= 0):
                self._bind(code, context, port, tensor, extent, given, symbols)
        code.return_(0)
        return code

    def _bind(
        self,
        code: Function,
        context: Record,
        port: Record,
        tensor: Record,
        extent: Record,
        given: Word,
        symbols: Array,
    ) -> None:
        symbol = self.host.data(code)["symbols"].record(SYMBOL, extent["symbol"])
        distance = given - extent["offset"]
        value = distance // extent["factor"]
        with code.if_((distance % extent["factor"]).differs(0)):
            code.return_(
                code.call(self.mismatch, context.word, port.word, tensor.word, code["kind"], 0)
            )
        with code.if_((value < symbol["lo"]) | (value > symbol["hi"])):
            text = code.allocate(ir.ArrayType(I8, TEXT_BYTES)).offset(0)
            code.call(
                self.describe, text, dtype_of(tensor), tensor["ndim"].to(I64), tensor["shape"]
            )
            with code.if_(symbol["hi"].equals(UNBOUNDED)):
                self.host.fail(
                    context,
                    "NL_ERROR_INPUT",
                    "The %s %s must be %s with %s at least %lld, but %s was given.",
                    code["kind"],
                    port["name"],
                    port["type"],
                    symbol["name"],
                    symbol["lo"],
                    text,
                )
            self.host.fail(
                context,
                "NL_ERROR_INPUT",
                "The %s %s must be %s with %s from %lld to %lld, but %s was given.",
                code["kind"],
                port["name"],
                port["type"],
                symbol["name"],
                symbol["lo"],
                symbol["hi"],
                text,
            )
        with code.if_(symbols[extent["symbol"]].equals(UNBOUND)):
            symbols[extent["symbol"]] = value

    def _check_extents(self) -> Function:
        """Compares every extent with its value."""
        code = self.host.function(
            "check_extents", context=PTR, port=PTR, tensor=PTR, kind=PTR, values=PTR
        )
        port, tensor = code["port"].record(PORT), code["tensor"].record(TENSOR)
        with code.loop(port["rank"].to(I64)) as axis:
            value = code["values"].array(I64)[port["extents"].record(EXTENT, axis)["value"]]
            with code.if_(value.differs(tensor["shape"].array(I64)[axis])):
                arguments = (code["context"], port.word, tensor.word, code["kind"], code["values"])
                code.return_(code.call(self.mismatch, *arguments))
        code.return_(0)
        return code

    def _check_memory(self) -> Function:
        """Checks strides, null and alignment; stores the tensor's address and size in bytes."""
        code = self.host.function(
            "check_memory", context=PTR, port=PTR, tensor=PTR, kind=PTR, address=PTR, size=PTR
        )
        context, port, tensor = (
            self.host.enter(code),
            code["port"].record(PORT),
            code["tensor"].record(TENSOR),
        )
        shape, strides = tensor["shape"].array(I64), tensor["strides"].array(I64)
        rank = port["rank"].to(I64)
        elements, compact = code.variable(I64, 1), code.variable(I64, 1)
        with code.loop(rank) as step:
            axis = rank - 1 - step
            with (
                code.if_(tensor["strides"].differs(0)),
                code.if_(strides[axis].differs(elements[0]) & shape[axis].differs(1)),
            ):
                compact[0] = 0
            elements[0] = elements[0] * shape[axis]
        code["size"].array(I64)[0] = elements[0] * port["item"]
        address = tensor["data"].offset(tensor["byte_offset"])
        code["address"].array(PTR)[0] = address
        with code.if_(elements[0].equals(0)):
            code.return_(0)
        with code.if_(compact[0].equals(0)):
            self.host.fail(
                context,
                "NL_ERROR_INPUT",
                "The %s %s has strides; pass a compact row-major tensor.",
                code["kind"],
                port["name"],
            )
        with code.if_(tensor["data"].equals(0)):
            self.host.fail(
                context,
                "NL_ERROR_INPUT",
                "The %s %s has no data: its pointer is null.",
                code["kind"],
                port["name"],
            )
        with code.if_((address.to(I64) & (port["item"] - 1)).differs(0)):
            self.host.fail(
                context,
                "NL_ERROR_INPUT",
                "The data of the %s %s must be aligned to its elements of %lld bytes.",
                code["kind"],
                port["name"],
                port["item"],
            )
        code.return_(0)
        return code

    def _check_overlap(self) -> Function:
        """Refuses outputs that share memory with an input or another output."""
        code = self.host.function("check_overlap", context=PTR, entry=PTR, run=PTR)
        context, entry, run = (
            self.host.enter(code),
            code["entry"].record(ENTRY),
            code["run"].record(RUN),
        )
        addresses, sizes = run["pool"].array(I64), run["sizes"].array(I64)
        with code.loop(entry["output_count"]) as index:
            mine = entry["input_count"] + index
            with code.loop(mine) as other:
                apart = (addresses[mine] + sizes[mine] <= addresses[other]) | (
                    addresses[other] + sizes[other] <= addresses[mine]
                )
                with code.if_(apart.equals(0) & (sizes[mine] > 0) & (sizes[other] > 0)):
                    self.host.fail(
                        context,
                        "NL_ERROR_INPUT",
                        "The memory of the output %s overlaps that of %s.",
                        entry["ports"].record(PORT, mine)["name"],
                        entry["ports"].record(PORT, other)["name"],
                    )
        code.return_(0)
        return code
