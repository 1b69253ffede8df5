"""The arena of a context, in the host layer: memory for intermediate results, which grows to what a
call needs. It is the context's own (from the caller's alloc, or the library's, aligned and in large
pages if it is large) or one that the caller lends.
"""

from __future__ import annotations

from ...program import ALIGNMENT
from .host import I64, PTR, Function, Record
from .host_module import HostModule
from .host_types import RUN

_HUGE_PAGE = 1 << 21


class Arena:
    """Writes ``reserve``, and what gives an arena back."""

    def __init__(self, host: HostModule) -> None:
        self.host = host
        self.reserve = self._reserve()

    def _reserve(self) -> Function:
        """Makes the arena hold ``bytes``."""
        code = self.host.function("reserve", context=PTR, bytes=I64)
        context, size = self.host.enter(code), code["bytes"]
        with code.if_(size <= context["arena_bytes"]):
            code.return_(0)
        with code.if_(context["owned"].equals(0) & context["arena"].differs(0)):
            self.host.fail(
                context,
                "NL_ERROR_MEMORY",
                "The arena has %lld bytes, but these shapes need %lld bytes.",
                context["arena_bytes"],
                size,
            )
        self.forget(code, context)
        memory = code.variable(PTR)
        with code.if_(context["alloc"].to(I64).differs(0)):
            memory[0] = code.call(context["alloc"], context["user"], size)
        with code.if_(context["alloc"].to(I64).equals(0)):
            large = size >= 2 * _HUGE_PAGE
            failed = code.call(
                self.host.library["posix_memalign"],
                memory.address(0),
                code.select(large, _HUGE_PAGE, ALIGNMENT),
                size,
            )
            memory[0] = code.select(failed.equals(0), memory[0], 0, PTR)
            with code.if_(large & failed.equals(0)):
                code.call(self.host.library["madvise"], memory[0], size, 14)  # MADV_HUGEPAGE
        context["owned"] = 1
        context["arena"] = memory[0]
        with code.if_(memory[0].equals(0)):
            self.host.fail(
                context,
                "NL_ERROR_MEMORY",
                "%lld bytes of memory for intermediate results could not be allocated.",
                size,
            )
        with code.if_((memory[0].to(I64) & (ALIGNMENT - 1)).differs(0)):
            self.host.fail(
                context,
                "NL_ERROR_MEMORY",
                f"The caller's alloc returned memory that is not aligned to {ALIGNMENT} bytes.",
            )
        context["arena_bytes"] = size
        code.return_(0)
        return code

    def forget(self, code: Function, context: Record) -> None:
        """Frees an arena of the context's own; every entry computes its addresses anew."""
        with code.if_(context["owned"].differs(0) & context["arena"].differs(0)):
            with code.if_(context["free"].to(I64).differs(0)):
                code.call(context["free"], context["user"], context["arena"])
            with code.if_(context["free"].to(I64).equals(0)):
                code.call(self.host.library["free"], context["arena"])
        context["arena"], context["arena_bytes"], context["owned"] = 0, 0, 0
        for position in range(len(self.host.shape.entries)):
            run = context.address("runs").record(RUN, position)
            run["prepared"] = code.select(run["prepared"] > 1, 1, run["prepared"])
