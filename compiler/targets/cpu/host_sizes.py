"""The sizes of an entry, in the host layer: the caller's inputs, checked, bind the free dims; from these
follow all sizes of a call.
"""

from __future__ import annotations

from .host import I1, I32, I64, PTR, Function, Record, Word
from .host_checks import Checks
from .host_module import HostModule
from .host_tables import ENTRY, EXTENT, PORT
from .host_types import RUN, TENSOR, UNBOUND


class Sizes:
    """Writes ``prepare``, and what else asks for sizes: launches that bind dims."""

    def __init__(self, host: HostModule, checks: Checks) -> None:
        self.host, self.checks = host, checks
        self.prepare = self._prepare()

    def _prepare(self) -> Function:
        """Checks the inputs' types and computes every size of the entry; run.prepared is then 1
        (2: addresses too).
        """
        code = self.host.function(
            "prepare", context=PTR, entry=PTR, run=PTR, inputs=PTR, input_count=I32
        )
        context, entry, run = (
            self.host.enter(code),
            code["entry"].record(ENTRY),
            code["run"].record(RUN),
        )
        kind = code.address_of(self.host.text("input"))
        self.expect(
            code, context, entry, "input", "The program takes %lld inputs%s; %d were given."
        )
        data = self.host.data(code)
        count, own = data["symbol_count"], data["own_dims"]
        symbols = code.allocate_here(I64, count + own + 1).array(I64)
        former = run["symbols"].array(I64)
        with code.loop(count) as number:
            symbols[number] = UNBOUND
        self._check_inputs(code, context, entry, self.checks.check_type, kind, symbols.address(0))
        values = run["pool"].array(I64).address(entry["value_base"])
        changed = code.variable(I1, run["prepared"].equals(0))
        with code.loop(count) as number:
            changed[0] = changed[0] | symbols[number].differs(former[number])
        with code.if_(changed[0]):
            run["prepared"] = 0
            with code.loop(count) as number:  # a symbol that this entry does not use counts as 0
                former[number] = symbols[number]
                symbols[number] = code.select(symbols[number].equals(UNBOUND), 0, symbols[number])
            with code.loop(own) as number:  # nothing reads what they decide before a run binds them
                symbols[count + number] = 0
            self.compute_values(code, context, entry, symbols.address(0), values)
            run["prepared"] = 1
        self._check_inputs(code, context, entry, self.checks.check_extents, kind, values)
        code.return_(0)
        return code

    def _check_inputs(
        self,
        code: Function,
        context: Record,
        entry: Record,
        check: Function,
        kind: Word,
        numbers: Word,
    ) -> None:
        """One of the checks for every input; ``numbers``: what it binds or compares with."""
        with code.loop(entry["input_count"]) as index:
            port, tensor = entry["ports"].record(PORT, index), code["inputs"].record(TENSOR, index)
            self.host.passes(code, check, context.word, port.word, tensor.word, kind, numbers)

    def compute_values(
        self, code: Function, context: Record, entry: Record, symbols: Word, values: Word
    ) -> None:
        """All sizes of the entry, from what the symbols stand for; fails if one is too large, or an
        output would have less than no elements.
        """
        with code.if_(code.call(entry["compute_values"], symbols, values)):
            self.host.fail(
                context, "NL_ERROR_MEMORY", "These shapes need more memory than 64 bits can count."
            )
        self.check_outputs_possible(code, context, entry, values, "value")

    def expect(
        self, code: Function, context: Record, entry: Record, what: str, message: str
    ) -> None:
        """As many arrays of inputs or outputs as the entry has."""
        count, given = entry[f"{what}_count"], code[f"{what}_count"]
        with code.if_(count.differs(given.to(I64))):
            self.host.fail(context, "NL_ERROR_INPUT", message, count, entry[f"{what}_names"], given)
        with code.if_(code[f"{what}s"].equals(0) & (count > 0)):
            self.host.fail(context, "NL_ERROR_ARGUMENT", f"The array of {what}s is null.")

    def check_outputs_possible(
        self, code: Function, context: Record, entry: Record, values: Word, kind: str
    ) -> None:
        """Fails if an extent of an output is negative; ``kind``: "value" (what it may be at most) or
        "actual" (what data have decided).
        """
        with code.loop(entry["output_count"]) as index:
            port = entry["ports"].record(PORT, entry["input_count"] + index)
            with code.loop(port["rank"].to(I64)) as axis:
                value = values.array(I64)[port["extents"].record(EXTENT, axis)[kind]]
                with code.if_(value < 0):
                    self.host.fail(
                        context,
                        "NL_ERROR_INPUT",
                        "Axis %lld of the output %s would have %lld elements: the inputs are too small.",
                        axis,
                        port["name"],
                        value,
                    )
