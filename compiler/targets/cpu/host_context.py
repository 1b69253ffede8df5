"""Contexts, in the host layer: options, memory, threads."""

from __future__ import annotations

from netloom import abi

from ...program import ALIGNMENT
from .host import I64, PTR, Function, Record
from .host_module import HostModule
from .host_pool import MAX_THREADS, Pool
from .host_run import Runner
from .host_shares import WORKER
from .host_tables import ENTRY, RUN_LENGTHS
from .host_types import MODEL, OPTIONS, RUN, size_of


class Contexts:
    """Writes the functions of the API that concern contexts."""

    def __init__(self, host: HostModule, runner: Runner, threads: Pool) -> None:
        self.host, self.runner, self.threads = host, runner, threads

    def api_context_create(self, code: Function) -> None:
        with code.if_(code["model"].equals(0) | code["context"].equals(0)):
            code.return_(abi.CODE["NL_ERROR_ARGUMENT"])
        code["context"].array(PTR)[0] = 0
        options = self._read_options(code)
        context = self.host.allocate(code, self.host.context_type)
        context["api"], context["model"] = code.address_of(self.host.api), code["model"]
        for name in ("user", "log", "alloc", "free"):
            context[name] = options[name]
        self._place_runs(code, context)
        context["arena"], context["arena_bytes"] = options["arena"], options["arena_bytes"]
        pool = context.inner("pool")
        pool["user"], pool["parallel_for"] = options["user"], options["parallel_for"]
        processors = code.call(self.threads.processors)
        threads = code.variable(
            I64, code.select(options["threads"].equals(0), processors, options["threads"].to(I64))
        )
        threads[0] = code.select(threads[0] > MAX_THREADS, MAX_THREADS, threads[0])
        pool["threads"] = threads[0]
        with code.if_(options["parallel_for"].to(I64).equals(0)):
            pool["threads"] = 1
            size = size_of(code, WORKER)
            pool["workers"] = code.call(self.host.library["calloc"], threads[0], size)
            with code.if_(pool["workers"].differs(0)):
                code.call(self.threads.start, pool.word, threads[0])
        code["context"].array(PTR)[0] = context.word
        code.return_(0)

    def _read_options(self, code: Function) -> Record:
        options = code.allocate(OPTIONS.type).record(OPTIONS)
        for name in OPTIONS.fields:
            options[name] = 0
        with code.if_(code["options"].differs(0)):
            given = code["options"].record(OPTIONS)
            size = size_of(code, OPTIONS)
            with code.if_(given["size"].unsigned(I64) < size):
                self.host.refuse(
                    code,
                    "NL_ERROR_ARGUMENT",
                    "nl_options.size must be at least %lld, but is %u.",
                    size,
                    given["size"],
                )
            code.call(self.host.library["memcpy"], options.word, given.word, size)
        with code.if_(options["threads"] < 0):
            self.host.refuse(
                code,
                "NL_ERROR_ARGUMENT",
                "The number of threads must not be negative, but is %d.",
                options["threads"],
            )
        with code.if_((options["arena"].to(I64) & (ALIGNMENT - 1)).differs(0)):
            self.host.refuse(
                code, "NL_ERROR_ARGUMENT", f"The arena must be aligned to {ALIGNMENT} bytes."
            )
        with code.if_(
            options["alloc"].to(I64).equals(0).differs(options["free"].to(I64).equals(0))
        ):
            self.host.refuse(code, "NL_ERROR_ARGUMENT", "The options alloc and free go together.")
        return options

    def _place_runs(self, code: Function, context: Record) -> None:
        """Cuts one block into each entry's pool, words, symbols and sizes, and writes the
        addresses that stay.
        """
        data, entries = self.host.data(code), range(len(self.host.shape.entries))
        lengths = [data["runs"].record(RUN_LENGTHS, number) for number in entries]
        total = code.word(1)
        for row in lengths:
            for name in RUN_LENGTHS.fields:
                total = total + row[name]
        block = code.call(self.host.library["calloc"], total, 8)
        with code.if_(block.equals(0)):
            code.call(self.host.library["free"], context.word)
            self.host.refuse(code, "NL_ERROR_MEMORY", "Out of memory.")
        context["block"] = block
        model, place = code["model"].record(MODEL), block
        for number in entries:
            run = context.address("runs").record(RUN, number)
            for name in RUN_LENGTHS.fields:
                run[name] = place
                place = place.offset(lengths[number][name] * 8)
            pool = run["pool"].array(I64)
            entry = model["entries"].record(ENTRY, number)
            with code.loop(data["constant_count"]) as index:
                placed = data["constants"].array(I64)[index]
                pool[entry["constant_base"] + index] = model["constants"].array(I64)[placed]
            pool[entry["error_flag"]] = context.address("error_flag").to(I64)

    def api_context_destroy(self, code: Function) -> None:
        with code.if_(code["context"].equals(0)):
            code.return_()
        context = self.host.enter(code)
        pool = context.inner("pool")
        with code.if_(pool["parallel_for"].to(I64).equals(0)):
            code.call(self.threads.stop, pool.word)
        self.runner.arena.forget(code, context)
        for memory in (pool["workers"], context["block"], context.word):
            code.call(self.host.library["free"], memory)
        code.return_()

    def api_set_arena(self, code: Function) -> None:
        context = self.host.enter(code)
        self.host.hold(code, context)
        with code.if_((code["arena"].to(I64) & (ALIGNMENT - 1)).differs(0)):
            context["busy"] = 0
            self.host.fail(
                context, "NL_ERROR_ARGUMENT", f"The arena must be aligned to {ALIGNMENT} bytes."
            )
        self.runner.arena.forget(code, context)
        context["arena"] = code["arena"]
        context["arena_bytes"] = code.select(code["arena"].equals(0), 0, code["bytes"])
        context["busy"] = 0
        code.return_(0)

    def api_last_error(self, code: Function) -> None:
        with code.if_(code["context"].equals(0)):
            code.return_(code.address_of(self.host.text("The context is null.")))
        code.return_(self.host.enter(code).address("error"))
