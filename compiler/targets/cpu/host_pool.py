"""The threads of a context, written in the host layer: a pool on pthread that runs a list of
launches.

All threads share the items of a launch (``host_shares.py``), then meet at a barrier. A thread that
waits spins for at most SPIN_NS, then sleeps. A worker that wakes on the caller's processor leaves
it: the system puts it there often, and two threads that wait for each other in turns would stay.
Workers take over the caller's floating-point control register and block all signals. A child process
after a fork, whose workers are gone, runs everything on the calling thread.
"""

from __future__ import annotations

from collections.abc import Mapping

from llvmlite import ir

from .architecture import X86_64, Architecture
from .host import I8, I32, I64, PTR, VOID, Function, Record, Struct, Word
from .host_shares import WORKER, Shares, atomic_add, atomic_load
from .host_tables import LAUNCH

# longer than threads of one launch usually differ: who sleeps may wake on a busy processor
SPIN_NS = 2_000_000
MAX_THREADS = 1024
BODY = ir.FunctionType(VOID, [PTR, I64])
PARALLEL_FOR = ir.FunctionType(VOID, [PTR, BODY.as_pointer(), PTR, I64])
START = ir.FunctionType(PTR, [PTR])

POOL = Struct({
    "threads": I64, "pid": I32, "stop": I32, "spin": I64,
    "launches": PTR, "launch_count": I64, "words": PTR, "pool": PTR, "float_control": I32,
    "launch": PTR,  # the one that the caller's parallel_for is at
    "done": I64,  # how many launches all runs before had
    "processor": I64,  # of thread 0
    "user": PTR, "parallel_for": PARALLEL_FOR.as_pointer(),
    "line0": ir.ArrayType(I8, 64), "generation": I64, "line1": ir.ArrayType(I8, 64), "arrived": I64,
    "line2": ir.ArrayType(I8, 64), "sleepers": I64,
    # all zeros is the initial state of both
    "mutex": ir.ArrayType(I64, 8), "condition": ir.ArrayType(I64, 8),
    "workers": PTR,
})  # fmt: skip
_TIME = Struct({"seconds": I64, "nanoseconds": I64})
_SIGNALS = ir.ArrayType(I64, 16)

LIBRARY = {
    "pthread_create": ir.FunctionType(I32, [PTR, PTR, START.as_pointer(), PTR]),
    "pthread_join": ir.FunctionType(I32, [I64, PTR]),
    "pthread_sigmask": ir.FunctionType(I32, [I32, PTR, PTR]),
    "pthread_mutex_lock": ir.FunctionType(I32, [PTR]),
    "pthread_mutex_unlock": ir.FunctionType(I32, [PTR]),
    "pthread_cond_wait": ir.FunctionType(I32, [PTR, PTR]),
    "pthread_cond_broadcast": ir.FunctionType(I32, [PTR]),
    "clock_gettime": ir.FunctionType(I32, [I32, PTR]),
    "getpid": ir.FunctionType(I32, []),
    "sched_getaffinity": ir.FunctionType(I32, [I32, I64, PTR]),
    "sched_setaffinity": ir.FunctionType(I32, [I32, I64, PTR]),
    "sched_getcpu": ir.FunctionType(I32, []),
}


class Pool:
    """Writes the pool's functions into a module; ``library`` holds the declarations of LIBRARY."""

    def __init__(
        self, module: ir.Module, library: Mapping[str, ir.Function], architecture: Architecture
    ) -> None:
        self.module, self.library, self.architecture = module, library, architecture
        self.shares = Shares(module)
        self.now = self._now()
        self.processors = self._processors()
        self.wait = self._wait()
        self.arrive = self._arrive()
        self.work = self._work()
        self.leave = self._leave()
        self.worker = self._worker()
        self.share = self._share()
        self.start = self._start()
        self.stop = self._stop()
        self.run = self._run()

    def _function(self, name: str, result: ir.Type = VOID, **arguments: ir.Type) -> Function:
        return Function(self.module, f"pool_{name}", result, {"pool": PTR, **arguments})

    def _now(self) -> Function:
        code = Function(self.module, "pool_now", I64, {})
        time = code.allocate(_TIME.type).record(_TIME)
        code.call(self.library["clock_gettime"], 1, time.word)
        code.return_(time["seconds"] * 1_000_000_000 + time["nanoseconds"])
        return code

    def _processors(self) -> Function:
        """How many processors the process may run on."""
        code = Function(self.module, "pool_processors", I64, {})
        mask = code.allocate(_SIGNALS).array(I64)
        total = code.variable(I64)
        with code.loop(16) as index:
            mask[index] = 0
        code.call(self.library["sched_getaffinity"], 0, 128, mask.address(0))
        with code.loop(16) as index:
            total[0] = total[0] + Word(code, code.builder.ctpop(mask[index].value))
        code.return_(code.select(total[0] < 1, 1, total[0]))
        return code

    def _wait(self) -> Function:
        """Returns when the counter has reached the target."""
        code = self._function("wait", counter=PTR, target=I64)
        pool, counter, target = code["pool"].record(POOL), code["counter"], code["target"]
        begin = code.call(self.now)
        with code.while_(lambda: code.call(self.now) - begin < pool["spin"]):
            with code.if_(atomic_load(counter) >= target):
                code.return_()
            self._pause(code)
        code.call(self.library["pthread_mutex_lock"], pool.address("mutex"))
        atomic_add(pool.address("sleepers"), 1)
        with code.while_(lambda: atomic_load(counter) < target):
            code.call(
                self.library["pthread_cond_wait"], pool.address("condition"), pool.address("mutex")
            )
        atomic_add(pool.address("sleepers"), -1)
        code.call(self.library["pthread_mutex_unlock"], pool.address("mutex"))
        code.return_()
        return code

    def _wake(self, code: Function, pool: Record) -> None:
        with code.if_(atomic_load(pool.address("sleepers")) > 0):
            code.call(self.library["pthread_mutex_lock"], pool.address("mutex"))
            code.call(self.library["pthread_cond_broadcast"], pool.address("condition"))
            code.call(self.library["pthread_mutex_unlock"], pool.address("mutex"))

    def _arrive(self) -> Function:
        """Reports at the barrier; the last of ``target`` arrivals wakes the sleepers."""
        code = self._function("arrive", target=I64)
        pool = code["pool"].record(POOL)
        with code.if_(atomic_add(pool.address("arrived"), 1).equals(code["target"])):
            self._wake(code, pool)
        code.return_()
        return code

    def _work(self) -> Function:
        """Thread ``thread`` of ``threads`` does its part of every launch; only thread 0 waits for
        the last barrier.

        A worker reads the pool only before it reports at the last barrier: thread 0 may then set up
        the next run.
        """
        code = self._function("work", thread=I64, threads=I64)
        pool, thread, threads = code["pool"].record(POOL), code["thread"], code["threads"]
        count, target, stamp = pool["launch_count"], code.variable(I64), pool["done"] + 1
        with code.loop(count) as index:
            job = _job(pool, pool["launches"].record(LAUNCH, index))
            code.call(self.shares.run, pool["workers"], *job, thread, threads, stamp + index)
            with code.if_(threads > 1):
                target[0] = target[0] + threads
                code.call(self.arrive, pool.word, target[0])
                with code.if_(thread.equals(0) | (index + 1 < count)):
                    code.call(self.wait, pool.word, pool.address("arrived"), target[0])
        code.return_()
        return code

    def _worker(self) -> Function:
        """The life of a worker thread: wait for a generation, work, again, until ``stop``."""
        code = Function(self.module, "pool_worker", PTR, {"argument": PTR})
        worker = code["argument"].record(WORKER)
        pool = worker["pool"].record(POOL)
        seen = code.variable(I64)
        with code.while_(lambda: seen[0] >= 0):
            seen[0] = seen[0] + 1
            code.call(self.wait, pool.word, pool.address("generation"), seen[0])
            with code.if_(pool["stop"].differs(0)):
                code.return_(0)
            code.call(self.leave, pool.word)
            self._set_float_control(code, pool)
            code.call(self.work, pool.word, worker["index"], pool["threads"])
        code.return_(0)
        return code

    def _leave(self) -> Function:
        """Moves the calling thread off thread 0's processor, if there are processors for all; it
        may return there later.
        """
        code = self._function("leave")
        pool = code["pool"].record(POOL)
        here = code.call(self.library["sched_getcpu"]).to(I64)
        with code.if_((pool["spin"] > 0) & here.equals(pool["processor"])):
            mask = code.allocate(_SIGNALS).array(I64)
            with code.loop(16) as index:
                mask[index] = 0
            code.call(self.library["sched_getaffinity"], 0, 128, mask.address(0))
            bit = Word(code, code.builder.shl(ir.Constant(I64, 1), (here - here // 64 * 64).value))
            allowed = mask[here // 64]
            for kept in (allowed - bit, allowed):  # the second call lets the system choose again
                mask[here // 64] = kept
                code.call(self.library["sched_setaffinity"], 0, 128, mask.address(0))
        code.return_()
        return code

    def _share(self) -> Function:
        """What the caller's parallel_for calls: share ``index`` of the launch at hand, whole, for
        the caller may do one share after another.
        """
        code = Function(self.module, "pool_share", VOID, {"argument": PTR, "index": I64})
        pool = code["argument"].record(POOL)
        job = _job(pool, pool["launch"].record(LAUNCH))
        code.call(self.shares.range, *job, pool["threads"], code["index"], code["index"] + 1)
        code.return_()
        return code

    def _start(self) -> Function:
        """Starts ``threads - 1`` workers (fewer where the system refuses); ``workers`` has room
        for them.
        """
        code = self._function("start", threads=I64)
        pool = code["pool"].record(POOL)
        pool["pid"] = code.call(self.library["getpid"])
        pool["threads"] = 1
        pool["spin"] = code.select(code["threads"] <= code.call(self.processors), SPIN_NS, 0)
        blocked, former = (code.allocate(_SIGNALS).array(I64) for _ in range(2))
        with code.loop(16) as index:
            blocked[index] = -1
        code.call(self.library["pthread_sigmask"], 2, blocked.address(0), former.address(0))
        going = code.variable(I32, 1)
        with code.while_(lambda: (pool["threads"] < code["threads"]) & going[0].differs(0)):
            worker = pool["workers"].record(WORKER, pool["threads"])
            worker["pool"], worker["index"] = pool.word, pool["threads"]
            start = Word(code, self.worker.function)
            failed = code.call(
                self.library["pthread_create"], worker.address("thread"), 0, start, worker.word
            )
            going[0] = code.select(failed.equals(0), 1, 0, I32)
            pool["threads"] = pool["threads"] + going[0].to(I64)
        code.call(self.library["pthread_sigmask"], 2, former.address(0), 0)
        code.return_()
        return code

    def _stop(self) -> Function:
        """Ends and joins the workers (in a forked child there are none)."""
        code = self._function("stop")
        pool = code["pool"].record(POOL)
        with code.if_(
            pool["pid"].equals(code.call(self.library["getpid"])) & (pool["threads"] > 1)
        ):
            pool["stop"] = 1
            atomic_add(pool.address("generation"), 1)
            self._wake(code, pool)
            with code.loop(pool["threads"] - 1) as index:
                worker = pool["workers"].record(WORKER, index + 1)
                code.call(self.library["pthread_join"], worker["thread"], 0)
        code.return_()
        return code

    def _run(self) -> Function:
        """Runs the launches: directly, through the caller's parallel_for, or on the workers."""
        code = self._function("run")
        pool = code["pool"].record(POOL)
        with code.if_(pool["parallel_for"].to(I64).differs(0)):
            with code.loop(pool["launch_count"]) as index:
                pool["launch"] = pool["launches"].record(LAUNCH, index).word
                code.call(
                    pool["parallel_for"],
                    pool["user"],
                    Word(code, self.share.function),
                    pool.word,
                    pool["threads"],
                )
            code.return_()
        with code.if_((pool["threads"].equals(1)) | pool["launch_count"].equals(0)):
            code.call(self.work, pool.word, 0, 1)
            code.return_()
        with code.if_(pool["pid"].equals(code.call(self.library["getpid"]))):
            self._get_float_control(code, pool)
            pool["arrived"] = 0
            pool["processor"] = code.call(self.library["sched_getcpu"]).to(I64)
            atomic_add(pool.address("generation"), 1)
            self._wake(code, pool)
            code.call(self.work, pool.word, 0, pool["threads"])
            pool["done"] = pool["done"] + pool["launch_count"]
            code.return_()
        code.call(self.work, pool.word, 0, 1)
        code.return_()
        return code

    # -- what each architecture has an instruction of its own for ----------------------------------

    def _pause(self, code: Function) -> None:
        if self.architecture is X86_64:
            code.builder.call(
                ir.InlineAsm(ir.FunctionType(VOID, []), "pause", "~{memory}", True), []
            )
        else:
            self._instruction(code, "aarch64.hint", VOID, ir.Constant(I32, 1))  # yield

    def _get_float_control(self, code: Function, pool: Record) -> None:
        """Rounding mode and masks: MXCSR, or FPCR, whose upper half is reserved."""
        if self.architecture is X86_64:
            self._instruction(code, "x86.sse.stmxcsr", VOID, pool.address("float_control").value)
        else:
            pool["float_control"] = self._instruction(code, "aarch64.get.fpcr", I64).to(I32)

    def _set_float_control(self, code: Function, pool: Record) -> None:
        if self.architecture is X86_64:
            self._instruction(code, "x86.sse.ldmxcsr", VOID, pool.address("float_control").value)
        else:
            self._instruction(
                code, "aarch64.set.fpcr", VOID, pool["float_control"].unsigned(I64).value
            )

    def _instruction(self, code: Function, name: str, result: ir.Type, *operands: ir.Value) -> Word:
        function_type = ir.FunctionType(result, [operand.type for operand in operands])
        return Word(
            code,
            code.builder.call(
                self.module.declare_intrinsic(f"llvm.{name}", (), function_type), operands
            ),
        )


def _job(pool: Record, launch: Record) -> tuple[Word, Word, Word]:
    """(a launch, its words, the number of its items)."""
    words = pool["words"].array(I64).address(launch["words"])
    return launch.word, words, pool["pool"].array(I64)[launch["items"]]
