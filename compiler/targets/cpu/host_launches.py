"""The launches of an entry, in the host layer: the words that each is called with, and the dims that the
run itself binds between them (data dims, and the numbers of turns).
"""

from __future__ import annotations

from .host import I1, I8, I32, I64, PTR, Array, Function, Record, Word
from .host_module import HostModule
from .host_pool import Pool
from .host_sizes import Sizes
from .host_tables import BOUND_DIM, DATA, EXTENT, FIRST_TURN, LAUNCH, PORT
from .host_types import TENSOR


class Launches:
    """Writes how the launches of a call run, one after another."""

    def __init__(self, host: HostModule, sizes: Sizes, threads: Pool) -> None:
        self.host, self.sizes, self.threads = host, sizes, threads

    def run(
        self, code: Function, context: Record, entry: Record, run: Record, values: Array
    ) -> None:
        """Runs all launches of an entry. ``values``: its sizes; the shapes of the caller's ``outputs``
        get the extents that data have decided.
        """
        _gather_words(code, entry, run)
        context["error_flag"] = 0
        threads = context.inner("pool")
        threads["words"], threads["pool"] = run["words"], run["pool"]
        done = code.variable(I64)
        has_own_dims = self.host.data(code)["own_dims"] > 0
        with code.if_(has_own_dims):
            self._bind_dims(code, context, entry, run, done)
            self.sizes.check_outputs_possible(code, context, entry, values.address(0), "actual")
        self._launch(code, context, entry, done, entry["launch_count"])
        with code.if_(has_own_dims):
            self._write_actual_shapes(code, entry, values)

    def _bind_dims(
        self, code: Function, context: Record, entry: Record, run: Record, done: Array
    ) -> None:
        """Runs the launches up to the last dim that the run binds, and binds each in its turn."""
        following = code.variable(I64)
        with code.while_(lambda: following[0] < entry["dim_count"]):
            bound = entry["dims"].record(BOUND_DIM, following[0])
            self._launch(code, context, entry, done, bound["launches"])
            following[0] = following[0] + 1
            with code.if_(bound["kind"].equals(DATA)):
                self._bind(code, context, entry, run, bound)
            with code.if_(bound["kind"].differs(DATA)):
                self._turn(code, context, entry, run, bound, done, following)

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
        self.sizes.compute_values(code, context, entry, symbols.address(0), values)
        self.place(code, context, entry, pool)
        _gather_words(code, entry, run)

    def _own_symbol(self, code: Function, run: Record, bound: Record) -> Array:
        """Where a symbol's value lies: behind those of the program's."""
        number = self.host.data(code)["symbol_count"] + bound["symbol"]
        return run["symbols"].array(I64).address(number).array(I64)

    def place(self, code: Function, context: Record, entry: Record, pool: Array) -> None:
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


def _gather_words(code: Function, entry: Record, run: Record) -> None:
    """Fills the words of all launches from the pool."""
    words, wiring = run["words"].array(I64), entry["wiring"].array(I32)
    pool = run["pool"].array(I64)
    with code.loop(entry["word_count"]) as word:
        words[word] = pool[wiring[word].to(I64)]
