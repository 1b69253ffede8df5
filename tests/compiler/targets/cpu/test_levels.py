"""CPU levels: several in one file, one of them picked at open; and code for machines without an
instruction for everything.
"""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import netloom as nl
from netloom.compiler.constant import Constant
from netloom.compiler.dim import Dim
from netloom.compiler.driver import Compiled, Options, compile_graph
from netloom.compiler.graph import Graph
from netloom.compiler.loops.ir import LANE, LANES, Buffer, Kernel, Kind, Load, Store, loop, variable
from netloom.compiler.scalar import SCALAR_FUNCTIONS, Expr, call, cast
from netloom.compiler.targets.cpu.features import FEATURES, Feature
from netloom.compiler.targets.cpu.jit import load_in_process
from netloom.compiler.targets.cpu.llvm import compile_kernels
from netloom.compiler.targets.cpu.machine import CPUS, Cpu, cpus_named, host_cpus
from netloom.compiler.targets.cpu.relocatable import _read
from netloom.compiler.targets.cpu.shared_object import write_shared_object
from netloom.compiler.targets.cpu.variant import Variant
from netloom.compiler.targets.cpu.vector_math import ULP_BOUNDS
from netloom.compiler.tensor_type import FLOAT32, FLOAT64, DType
from netloom.errors import CpuFeatureError, UsageError, VerificationError
from netloom.frontends.dsl.network import TracedGraph
from netloom.runtime.session import Session, load
from tests.cli.calling import call as netloom
from tests.compiler.targets.cpu import small_programs as small
from tests.compiler.targets.cpu.test_vector_math import _compiled

Array = npt.NDArray[Any]
# v3 and v4 tile for more registers than the lowest; the others are like one of these
ALIKE = ("x86-64-v2", "x86-64-v4-vnni", "sapphirerapids")
HERE = tuple(cpu.name for cpu in host_cpus() if cpu.name not in ALIKE)
STRATEGY = "winograd_f4"  # else it is chosen at the rates of the highest level
several = pytest.mark.skipif(len(HERE) < 2, reason="this machine has one CPU level only")


def network() -> TracedGraph:
    """Convolutions of several kinds, a matrix product, exp and tanh, with a free batch."""

    @nl.network
    def small(x: Any) -> Any:
        x = nl.relu(nl.conv2d(x, filters=24, kernel=3, padding="same"))
        x = nl.tanh(nl.conv2d(x, filters=40, kernel=3, padding="same"))
        return nl.softmax(nl.dense(nl.flatten(nl.max_pool2d(x, 2)), units=10))

    return small.graph(x=nl.tensor("N", 3, 10, 10))


def inference() -> Graph:
    return network().inference_form()


@pytest.fixture(scope="module")
def compiled() -> Compiled:
    return compile_graph(inference(), Options(",".join(HERE), override=STRATEGY))


@pytest.fixture(scope="module")
def path(compiled: Compiled, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("levels") / "all.so"
    compiled.save(path)
    return path


def images(rows: int) -> Array:
    return np.random.default_rng(rows).standard_normal((rows, 3, 10, 10)).astype(np.float32)


# -- several levels in one file --------------------------------------------------------------------


@several
@pytest.mark.parametrize("level", HERE)
def test_each_level_is_that_of_a_file_of_its_own(
    level: str, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nl.compile(network(), cpu=level, conv_strategy=STRATEGY).save(tmp_path / "one.so")
    monkeypatch.setenv("NETLOOM_CPU", level)
    one, of_several = load(tmp_path / "one.so", threads=2), load(path, threads=2)
    assert one.metadata["level"] == of_several.metadata["level"] == level
    assert of_several.metadata["features"] == sorted(CPUS[level].required)
    for rows in (1, 2, 19):
        assert of_several(images(rows)).tobytes() == one(images(rows)).tobytes()


@several
def test_the_highest_level_is_used(path: Path) -> None:
    session = load(path)
    assert session.metadata["level"] == HERE[-1]
    assert [level["name"] for level in session.metadata["levels"]] == list(HERE)
    assert session.metadata["options"]["cpu"] == ",".join(HERE)


@several
def test_levels_differ_in_code(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file whose levels were all one would pass the test above by itself: without fma a sum
    has other bits.
    """
    found = set()
    for level in (HERE[0], HERE[-1]):
        monkeypatch.setenv("NETLOOM_CPU", level)
        found.add(load(path)(images(5)).tobytes())
    assert len(found) == 2


@several
def test_order_and_repetition_of_the_names_change_nothing(path: Path, tmp_path: Path) -> None:
    nl.compile(network(), cpu=(HERE[-1], *HERE), conv_strategy=STRATEGY).save(tmp_path / "again.so")
    assert (tmp_path / "again.so").read_bytes() == path.read_bytes()
    assert (tmp_path / "again.h").read_bytes() == path.with_suffix(".h").read_bytes()


@several
def test_weights_are_stored_once(path: Path, compiled: Compiled, tmp_path: Path) -> None:
    """A level more costs its code and tables: less than a page beside what its kernels have."""
    nl.compile(network(), cpu=HERE[0], conv_strategy=STRATEGY).save(tmp_path / "one.so")
    code = sum(len(data) for variant in compiled.variants[1:] for data in variant.objects)
    manifest = len(str(load(path).metadata))
    assert path.stat().st_size <= (tmp_path / "one.so").stat().st_size + code + len(HERE) * (
        manifest + 4096
    )
    assert load(path).metadata["weight_bytes"] == load(tmp_path / "one.so").metadata["weight_bytes"]


@several
@pytest.mark.skipif(shutil.which("nm") is None, reason="nm is not installed")
def test_one_symbol(path: Path) -> None:
    listed = subprocess.run(
        ["nm", "-D", "--defined-only", path], capture_output=True, text=True, check=True
    ).stdout
    assert [line.split()[-1] for line in listed.splitlines()] == ["nl_get_api"]


@several
def test_a_training_step_of_every_level(monkeypatch: pytest.MonkeyPatch) -> None:
    @nl.network
    def perceptron(x: Any) -> Any:
        return nl.dense(nl.tanh(nl.dense(nl.flatten(x), units=17)), units=10)

    def trained(cpu: Any) -> tuple[Any, bytes]:
        graph = perceptron.graph(x=nl.tensor("N", 3, 10, 10))
        trainer = nl.compile_training(
            graph,
            loss=nl.losses.cross_entropy,
            optimizer=nl.optimizers.SGD(0.1),
            cpu=cpu,
            threads=1,
        )
        trainer.step(images(4), np.arange(4))
        level = trainer.session.metadata["level"]
        return level, b"".join(
            np.asarray(trainer.state[name]).tobytes() for name in trainer.state.names
        )

    for level in (HERE[0], HERE[-1]):
        alone = trained(level)
        monkeypatch.setenv("NETLOOM_CPU", level)
        assert trained(HERE) == alone
        monkeypatch.delenv("NETLOOM_CPU")


@several
def test_inspect_lists_the_levels(path: Path, tmp_path: Path) -> None:
    text = netloom("inspect", path).output
    assert f"target: cpu, {','.join(HERE)}\nCPU level in use: {HERE[-1]}\nCPU features:\n" in text
    assert all(f"\n  {level} " in text for level in HERE)


@several
def test_text_of_code_is_of_one_level(compiled: Compiled) -> None:
    assert compiled.as_text("kernels")
    for form in ("loops", "llvm", "asm"):
        with pytest.raises(
            UsageError, match=f"the text of {form} is for one CPU level, not for {','.join(HERE)}"
        ):
            compiled.as_text(form)
    with pytest.raises(UsageError, match="there is no form 'wasm'. Choose graph, kernels, loops"):
        compiled.as_text("wasm")


# -- what a machine lacks --------------------------------------------------------------------------


def renamed(program: Any, suffix: str) -> Any:
    """The program with a kernel of another name, as each level has its own."""
    entry = program.entries[0]
    launches = tuple(
        dataclasses.replace(launch, kernel=launch.kernel + suffix) for launch in entry.launches
    )
    return dataclasses.replace(program, entries=(dataclasses.replace(entry, launches=launches),))


def levels_needing(*features: list[str]) -> list[Variant]:
    """Level number n computes y = (2 + n) x and needs the features; the lowest first."""

    def times(factor: int) -> Any:
        def emit(body: small.Body) -> None:
            with body.loop(body.begin, body.end) as item:
                value = body.load(body.pointer(0), item)
                body.store(
                    body.pointer(1), item, body.builder.fmul(value, small.F32(float(factor)))
                )

        return emit

    return [
        Variant(
            renamed(small.doubling(), f"_{n}"),
            [small.kernel_object(**{f"double_{n}": times(n + 2)})],
            needed,
            f"level-{n}",
        )
        for n, needed in enumerate(features)
    ]


@pytest.fixture
def imagined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FEATURES, "imagined", Feature(0x70000000, 0, 0, 0))
    monkeypatch.setitem(FEATURES, "dreamt", Feature(0x70000000, 0, 0, 1))


@pytest.mark.parametrize(("needed", "factor"), [
    ([[], [], []], 4), ([[], [], ["imagined"]], 3), ([[], ["imagined"], ["imagined"]], 2),
    ([["sse3"], ["dreamt"], []], 4),
])  # fmt: skip
@pytest.mark.usefixtures("imagined")
def test_the_highest_level_that_the_machine_has(needed: list[list[str]], factor: int) -> None:
    session = Session.in_process(load_in_process(levels_needing(*needed)), threads=1)
    assert session(np.ones((5, 4), np.float32))[0, 0] == factor
    assert session.metadata["level"] == f"level-{factor - 2}"


@pytest.mark.usefixtures("imagined")
def test_a_machine_that_has_none_of_the_levels(tmp_path: Path) -> None:
    """The error is about the lowest level, which needs the least."""
    path = tmp_path / "m.so"
    write_shared_object(levels_needing(["imagined"], ["imagined", "dreamt"]), path)
    with pytest.raises(
        CpuFeatureError,
        match="This program needs the CPU feature imagined, which this machine lacks",
    ) as error:
        load(path)
    assert error.value.exit_code == 4


@pytest.mark.usefixtures("imagined")
def test_a_level_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    program = load_in_process(levels_needing([], [], ["imagined"]))
    monkeypatch.setenv("NETLOOM_CPU", "level-0")
    assert Session.in_process(program, threads=1).metadata["level"] == "level-0"
    monkeypatch.setenv("NETLOOM_CPU", "level-2")
    with pytest.raises(CpuFeatureError, match="needs the CPU feature imagined"):
        Session.in_process(program)
    monkeypatch.setenv("NETLOOM_CPU", "")
    assert Session.in_process(program, threads=1).metadata["level"] == "level-1"
    for wrong in ("level-3", "x" * 5000, "%s%n"):
        monkeypatch.setenv("NETLOOM_CPU", wrong)
        with pytest.raises(
            UsageError,
            match=f"^NETLOOM_CPU asks for {wrong[:80]}, but .* compiled for level-0, level-1, "
            "level-2",
        ):
            Session.in_process(program)
    # alone it is not asked
    assert Session.in_process(load_in_process(levels_needing([]))).metadata["level"] == "level-0"


def test_variants_that_are_no_program() -> None:
    one, other = levels_needing([], [])
    with pytest.raises(VerificationError, match="Two levels have a kernel of one name: 'double_0'"):
        load_in_process([one, one])
    constants = (Constant(np.ones(3), FLOAT32),)
    for changed in ({"name": "b"}, {"constants": constants}, {"symbols": (small.N,)}):
        program = dataclasses.replace(other.program, **changed)
        with pytest.raises(
            VerificationError, match="code for level-1 does not fit that for level-0"
        ):
            load_in_process([one, dataclasses.replace(other, program=program)])


def test_names_of_levels() -> None:
    assert [cpu.name for cpu in cpus_named("x86-64-v4,x86-64,x86-64-v4")] == ["x86-64", "x86-64-v4"]
    assert cpus_named("host") == (host_cpus()[-1],)
    for wrong in ("", "x86-64,", "z80", "x86-64 x86-64-v3"):
        with pytest.raises(UsageError, match="there is no CPU level"):
            cpus_named(wrong)


# -- code for every level --------------------------------------------------------------------------


def kernel(number: int, value: Expr, buffers: list[Buffer]) -> Kernel:
    """out = value for one vector."""
    item = variable("item", 1)
    out = Buffer("out", value.dtype, (1, LANES))
    body = loop(LANE, LANES, Store(out, (Dim.of(item), Dim.of(LANE)), value), Kind.VECTOR)
    return Kernel(f"k{number}", (*buffers, out), (), 1, item, body)


def kernels_of_everything() -> dict[str, Kernel]:
    """Every scalar function of every kind of dtype that it takes (formulas have tests of their
    own), and every conversion.
    """
    found = {}

    def add(make: Any, *dtypes: DType) -> None:
        buffers = [Buffer(f"x{n}", dtype, (1, LANES)) for n, dtype in enumerate(dtypes)]
        loads = [Load(buffer, (Dim.of(variable("item", 1)), Dim.of(LANE))) for buffer in buffers]
        found[f"k{len(found)}"] = kernel(len(found), make(*loads), buffers)

    formulas = {name for name, _ in ULP_BOUNDS}
    for function in (
        function for function in SCALAR_FUNCTIONS.values() if function.name not in formulas
    ):
        for dtype in (
            DType.BOOL,
            DType.INT8,
            DType.INT64,
            DType.UINT32,
            DType.FLOAT16,
            DType.BFLOAT16,
            FLOAT32,
            FLOAT64,
        ):
            kind = "f" if dtype.is_float else "b" if dtype is DType.BOOL else "i"
            if kind in function.kinds:
                first = DType.BOOL if function.name == "select" else dtype
                add(
                    lambda *x, name=function.name: call(name, *x),
                    first,
                    *[dtype] * (function.arity - 1),
                )
    for source in DType:
        for target in DType:
            add(lambda x, target=target: cast(x, target), source)
    return found


@pytest.mark.parametrize("cpu", [CPUS["x86-64"], CPUS["aarch64"]], ids=lambda cpu: cpu.name)
def test_nothing_but_fmod_is_called(cpu: Cpu) -> None:
    """What a level has no instruction for is a formula, not a function that a library has or has
    not.
    """
    _, symbols = _read(compile_kernels(kernels_of_everything(), cpu))
    assert {symbol.name for symbol in symbols if symbol.section == 0} <= {"", "fmod", "fmodf"}


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=lambda dtype: dtype.value)
@pytest.mark.parametrize(
    ("function", "meaning"),
    [("floor", np.floor), ("ceil", np.ceil), ("round", np.rint), ("trunc", np.trunc)],
)
def test_rounding_without_an_instruction(function: str, meaning: Any, dtype: DType) -> None:
    digits = 23 if dtype is FLOAT32 else 52
    numbers = [0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.5, 3.5, 1e-40, 1e30, np.inf, np.nan]
    numbers += [
        2.0 ** (digits + e) + d
        for e in (-2, -1, 0, 1)
        for d in (-1.5, -1, -0.5, -0.25, 0, 0.5, 1, 1.5)
    ]
    rng = np.random.default_rng(0)
    x = np.concatenate(
        [
            numbers,
            rng.standard_normal(2000) * 4,
            np.ldexp(rng.standard_normal(2000), rng.integers(-3, digits + 2, 2000)),
        ]
    )
    x = np.concatenate([x, -x]).astype(dtype.numpy)
    x = np.resize(x, -(-x.size // LANES) * LANES)
    found = _compiled(function, dtype, CPUS["x86-64"], [x])
    assert np.array_equal(found, meaning(x), equal_nan=True)
    assert np.array_equal(np.signbit(found), np.signbit(x))
