"""Running an entry, in the host layer: sizes (host_sizes.py), the caller's tensors and state, the
launches (host_launches.py); and the API functions that do so.
"""

from __future__ import annotations

from netloom import abi

from .host import I32, I64, PTR, Array, Function, Operand, Record, Word
from .host_arena import Arena
from .host_checks import Checks
from .host_launches import Launches
from .host_module import HostModule
from .host_pool import Pool
from .host_sizes import Sizes
from .host_tables import (
    ENTRY,
    EXTENT,
    PORT,
    STATE_PORT,
)
from .host_types import MODEL, RUN, STATE, TENSOR


class Runner:
    """Writes everything that happens in a call of run, train_step, evaluate and output_shapes."""

    def __init__(self, host: HostModule, checks: Checks, threads: Pool) -> None:
        self.host, self.checks = host, checks
        self.sizes = Sizes(host, checks)
        self.arena = Arena(host)
        self.launches = Launches(host, self.sizes, threads)
        self.execute = self._execute()

    def _execute(self) -> Function:
        """Checks everything, fills the pool and the words, and runs the launches."""
        code = self.host.function(
            "execute",
            context=PTR,
            position=I64,
            state=PTR,
            inputs=PTR,
            input_count=I32,
            outputs=PTR,
            output_count=I32,
        )
        context = self.host.enter(code)
        entry = context["model"].record(MODEL)["entries"].record(ENTRY, code["position"])
        run = context.address("runs").record(RUN, code["position"])
        pool = run["pool"].array(I64)
        self.host.passes(
            code,
            self.sizes.prepare,
            context.word,
            entry.word,
            run.word,
            code["inputs"],
            code["input_count"],
        )
        self.sizes.expect(
            code, context, entry, "output", "The program gives %lld outputs%s; %d were asked for."
        )
        self._take_tensors(code, context, entry, run)
        self.host.passes(code, self.checks.check_overlap, context.word, entry.word, run.word)
        values = pool.address(entry["value_base"]).array(I64)
        self.host.passes(code, self.arena.reserve, context.word, values[entry["arena_bytes"]])
        with code.if_(run["prepared"].equals(1)):
            self.launches.place(code, context, entry, pool)
            run["prepared"] = 2
        with code.if_(code["state"].differs(0)):
            self._take_state(code, entry, pool)
        self.launches.run(code, context, entry, run, values)
        code.return_(0)
        return code

    def _take_tensors(self, code: Function, context: Record, entry: Record, run: Record) -> None:
        """Checks the caller's tensors; their addresses go into the pool, their bytes into ``sizes``."""
        pool, sizes = run["pool"].array(I64), run["sizes"].array(I64)
        values = pool.address(entry["value_base"])
        output = code.address_of(self.host.text("output"))
        no_symbols = code.null()  # the extents of outputs bind none
        with code.loop(entry["input_count"] + entry["output_count"]) as index:
            given = index < entry["input_count"]
            port = entry["ports"].record(PORT, index)
            tensor = code.select(
                given,
                code["inputs"].record(TENSOR, index).word,
                code["outputs"].record(TENSOR, index - entry["input_count"]).word,
                PTR,
            )
            with code.if_(index >= entry["input_count"]):
                self.host.passes(
                    code,
                    self.checks.check_type,
                    context.word,
                    port.word,
                    tensor,
                    output,
                    no_symbols,
                )
                self.host.passes(
                    code, self.checks.check_extents, context.word, port.word, tensor, output, values
                )
            kind = code.select(given, code.address_of(self.host.text("input")), output, PTR)
            self.host.passes(
                code,
                self.checks.check_memory,
                context.word,
                port.word,
                tensor,
                kind,
                pool.address(index),
                sizes.address(index),
            )

    def _take_state(self, code: Function, entry: Record, pool: Array) -> None:
        """The addresses of all tensors of the state."""
        memory, data = code["state"].record(STATE)["memory"], self.host.data(code)
        with code.loop(data["state_count"]) as index:
            state_port = data["states"].record(STATE_PORT, index)
            pool[entry["state_base"] + index] = memory.to(I64) + state_port["offset"]

    def _not_built(self, code: Function, text: str) -> None:
        """The whole of an API function that this program does not have."""
        with code.if_(code["context"].equals(0)):
            code.return_(abi.CODE["NL_ERROR_ARGUMENT"])
        self.host.fail(self.host.enter(code), "NL_ERROR_UNSUPPORTED", text)

    def _run_with_state(self, code: Function, name: str) -> None:
        if name not in self.host.shape.entries or not self.host.shape.is_training:
            return self._not_built(
                code, f"This program has no {name}: it was built for inference only."
            )
        context, state = self.host.enter(code), code["state"]
        with code.if_(context.word.equals(0) | state.equals(0)):
            code.return_(abi.CODE["NL_ERROR_ARGUMENT"])
        with code.if_(state.record(STATE)["model"].differs(context["model"])):
            self.host.fail(context, "NL_ERROR_ARGUMENT", "The state belongs to another model.")
        return self._run_entry(code, name, state)

    def api_run(self, code: Function) -> None:
        if "run" not in self.host.shape.entries:
            return self._not_built(code, "This program has no run: it was built for training only.")
        if self.host.shape.run_needs_state:
            return self._not_built(
                code, "This program was built for training: call evaluate with a state."
            )
        return self._run_entry(code, "run", 0)

    def api_train_step(self, code: Function) -> None:
        self._run_with_state(code, "train_step")

    def api_evaluate(self, code: Function) -> None:
        self._run_with_state(code, "run")

    def api_output_shapes(self, code: Function) -> None:
        context, position = self.host.enter(code), code["entry"].to(I64)
        self.host.hold(code, context)
        result = code.variable(I32, abi.CODE["NL_ERROR_ARGUMENT"])
        with code.if_((position >= 0) & (position < len(self.host.shape.entries))):
            entry = context["model"].record(MODEL)["entries"].record(ENTRY, position)
            run = context.address("runs").record(RUN, position)
            arguments = (context.word, entry.word, run.word, code["inputs"], code["input_count"])
            result[0] = code.call(self.sizes.prepare, *arguments)
            with code.if_(result[0].equals(0)):
                values = run["pool"].array(I64).address(entry["value_base"]).array(I64)
                known = code.select(
                    code["output_count"].to(I64) < entry["output_count"],
                    code["output_count"].to(I64),
                    entry["output_count"],
                )
                with code.loop(known) as index:
                    self._write_type(
                        entry["ports"].record(PORT, entry["input_count"] + index),
                        code["outputs"].record(TENSOR, index),
                        values,
                    )
        context["busy"] = 0
        code.return_(result[0])

    def _write_type(self, port: Record, tensor: Record, values: Array) -> None:
        tensor["ndim"] = port["rank"]
        tensor.address("dtype").array(I32)[0] = port["dtype"]
        with port.code.loop(port["rank"].to(I64)) as axis:
            tensor["shape"].array(I64)[axis] = values[port["extents"].record(EXTENT, axis)["value"]]

    def _run_entry(self, code: Function, name: str, state: Operand) -> None:
        """Runs an entry on behalf of an API function, with the context held."""
        context, position = self.host.enter(code), self.host.shape.entries.index(name)
        arguments = [code[part] for part in ("inputs", "input_count", "outputs", "output_count")]
        result = code.variable(I32)
        self.host.hold(code, context)
        result[0] = code.call(self.execute, context.word, position, state, *arguments)
        if isinstance(state, Word) and name == "train_step":
            with code.if_(result[0].equals(0)):
                record = state.record(STATE)
                record["step"] = record["step"] + 1
        context["busy"] = 0
        code.return_(result[0])
