"""Running an entry, in the host layer: sizes from shapes, the words of all launches, and the
launches.
"""

from __future__ import annotations

from netloom import abi

from .host import I1, I8, I32, I64, PTR, Array, Function, Operand, Record, Word
from .host_arena import Arena
from .host_checks import Checks
from .host_module import HostModule
from .host_pool import Pool
from .host_tables import (
    BOUND_DIM,
    DATA,
    ENTRY,
    EXTENT,
    FIRST_TURN,
    LAUNCH,
    PORT,
    STATE_PORT,
)
from .host_types import MODEL, RUN, STATE, TENSOR, UNBOUND


class Runner:
    """Writes everything that happens in a call of run, train_step, evaluate and output_shapes."""

    def __init__(self, host: HostModule, checks: Checks, threads: Pool) -> None:
        self.host, self.checks, self.threads = host, checks, threads
        self.prepare = self._prepare()
        self.arena = Arena(host)
        self.execute = self._execute()

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
        self._expect(
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
            self._compute_values(code, context, entry, symbols.address(0), values)
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

    def _compute_values(
        self, code: Function, context: Record, entry: Record, symbols: Word, values: Word
    ) -> None:
        with code.if_(code.call(entry["compute_values"], symbols, values)):
            self.host.fail(
                context, "NL_ERROR_MEMORY", "These shapes need more memory than 64 bits can count."
            )
        self._check_outputs_possible(code, context, entry, values, "value")

    def _expect(
        self, code: Function, context: Record, entry: Record, what: str, message: str
    ) -> None:
        """As many arrays of inputs or outputs as the entry has."""
        count, given = entry[f"{what}_count"], code[f"{what}_count"]
        with code.if_(count.differs(given.to(I64))):
            self.host.fail(context, "NL_ERROR_INPUT", message, count, entry[f"{what}_names"], given)
        with code.if_(code[f"{what}s"].equals(0) & (count > 0)):
            self.host.fail(context, "NL_ERROR_ARGUMENT", f"The array of {what}s is null.")

    def _check_outputs_possible(
        self, code: Function, context: Record, entry: Record, values: Word, kind: str
    ) -> None:
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
            self.prepare,
            context.word,
            entry.word,
            run.word,
            code["inputs"],
            code["input_count"],
        )
        self._expect(
            code, context, entry, "output", "The program gives %lld outputs%s; %d were asked for."
        )
        self._take_tensors(code, context, entry, run)
        self.host.passes(code, self.checks.check_overlap, context.word, entry.word, run.word)
        values = pool.address(entry["value_base"]).array(I64)
        self.host.passes(code, self.arena.reserve, context.word, values[entry["arena_bytes"]])
        with code.if_(run["prepared"].equals(1)):
            self._place(code, context, entry, pool)
            run["prepared"] = 2
        with code.if_(code["state"].differs(0)):
            self._take_state(code, entry, pool)
        _gather_words(code, entry, run)
        context["error_flag"] = 0
        threads = context.inner("pool")
        threads["words"], threads["pool"] = run["words"], run["pool"]
        done = code.variable(I64)
        has_own_dims = self.host.data(code)["own_dims"] > 0
        with code.if_(has_own_dims):
            following = code.variable(I64)
            with code.while_(lambda: following[0] < entry["dim_count"]):
                bound = entry["dims"].record(BOUND_DIM, following[0])
                self._launch(code, context, entry, done, bound["launches"])
                following[0] = following[0] + 1
                with code.if_(bound["kind"].equals(DATA)):
                    self._bind(code, context, entry, run, bound)
                with code.if_(bound["kind"].differs(DATA)):
                    self._turn(code, context, entry, run, bound, done, following)
            self._check_outputs_possible(code, context, entry, values.address(0), "actual")
        self._launch(code, context, entry, done, entry["launch_count"])
        with code.if_(has_own_dims):
            self._write_actual_shapes(code, entry, values)
        code.return_(0)
        return code

    def _launch(
        self, code: Function, context: Record, entry: Record, done: Array, last: Word
    ) -> None:
        """Runs the launches from number ``done`` to ``last``."""
        threads = context.inner("pool")
        threads["launches"] = entry["launches"].record(LAUNCH, done[0]).word
        threads["launch_count"] = last - done[0]
        code.call(self.threads.run, threads.word)
        done[0] = last
        with code.if_(context["error_flag"].differs(0)):
            self.host.fail(
                context,
                "NL_ERROR_INDEX",
                "A run-time index was out of range (check %lld), so the outputs, and the state of a "
                "training step, are of no use.",
                context["error_flag"],
            )

    def _bind(
        self, code: Function, context: Record, entry: Record, run: Record, bound: Record
    ) -> None:
        """Binds a dim to the count that launches have computed."""
        pool = run["pool"].array(I64)
        values = pool.address(entry["value_base"])
        count = code.variable(I64, pool[bound["count"]].to(PTR).array(I64)[0])
        most = values.array(I64)[bound["limit"]]
        with code.if_((count[0] < 0) | (count[0] > most)):
            self.host.fail(
                context,
                "NL_ERROR_INDEX",
                "The dim %s would be %lld; data may decide it from 0 to %lld.",
                bound["name"],
                count[0],
                most,
            )
        self._follow(code, context, entry, run, bound, count[0])

    def _turn(
        self, code: Function, context: Record, entry: Record, run: Record, bound: Record,
        done: Array, following: Array,
    ) -> None:  # fmt: skip
        """Binds the number of a turn and goes on inside if the turn follows; else behind all."""
        pool = run["pool"].array(I64)
        former = self._own_symbol(code, run, bound)[0]
        turn = code.select(bound["kind"].equals(FIRST_TURN), 0, former + 1)
        follows = code.variable(I1, turn < pool[entry["value_base"] + bound["limit"]])
        with code.if_(bound["count"] >= 0):
            byte = pool[bound["count"]].to(PTR).array(I8)[0]
            follows[0] = follows[0] & byte.differs(0)
        done[0] = code.select(follows[0], bound["first"], bound["last"])
        following[0] = code.select(follows[0], bound["inside"], bound["behind"])
        with code.if_(follows[0]):
            self._follow(code, context, entry, run, bound, turn)

    def _follow(
        self, code: Function, context: Record, entry: Record, run: Record, bound: Record, number: Word
    ) -> None:  # fmt: skip
        """Binds a symbol, and computes anew what follows from it: sizes, places, words."""
        pool, symbols = run["pool"].array(I64), run["symbols"].array(I64)
        values = pool.address(entry["value_base"])
        self._own_symbol(code, run, bound)[0] = number
        self._compute_values(code, context, entry, symbols.address(0), values)
        self._place(code, context, entry, pool)
        _gather_words(code, entry, run)

    def _own_symbol(self, code: Function, run: Record, bound: Record) -> Array:
        """Where a symbol's value lies: behind those of the program's."""
        number = self.host.data(code)["symbol_count"] + bound["symbol"]
        return run["symbols"].array(I64).address(number).array(I64)

    def _place(self, code: Function, context: Record, entry: Record, pool: Array) -> None:
        """The addresses of all places in the arena."""
        values = pool.address(entry["value_base"]).array(I64)
        with code.loop(entry["place_count"]) as place:
            offset = values[entry["place_offsets"].array(I32)[place].to(I64)]
            pool[entry["place_base"] + place] = context["arena"].to(I64) + offset

    def _write_actual_shapes(self, code: Function, entry: Record, values: Array) -> None:
        """Tells the caller the extents that data have decided."""
        with code.loop(entry["output_count"]) as index:
            port = entry["ports"].record(PORT, entry["input_count"] + index)
            shape = code["outputs"].record(TENSOR, index)["shape"].array(I64)
            with code.loop(port["rank"].to(I64)) as axis:
                actual = values[port["extents"].record(EXTENT, axis)["actual"]]
                with code.if_(actual.differs(shape[axis])):
                    shape[axis] = actual

    def _take_tensors(self, code: Function, context: Record, entry: Record, run: Record) -> None:
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
        memory, data = code["state"].record(STATE)["memory"], self.host.data(code)
        with code.loop(data["state_count"]) as index:
            state_port = data["states"].record(STATE_PORT, index)
            pool[entry["state_base"] + index] = memory.to(I64) + state_port["offset"]

    def _not_built(self, code: Function, text: str) -> None:
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
            result[0] = code.call(self.prepare, *arguments)
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


def _gather_words(code: Function, entry: Record, run: Record) -> None:
    """Fills the words of all launches from the pool."""
    words, wiring = run["words"].array(I64), entry["wiring"].array(I32)
    pool = run["pool"].array(I64)
    with code.loop(entry["word_count"]) as word:
        words[word] = pool[wiring[word].to(I64)]
