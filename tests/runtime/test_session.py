"""Sessions: loading, inputs of every kind, errors, many threads, pickling, and that loading
needs NumPy alone.
"""

from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from netloom.compiler.dim import Dim
from netloom.compiler.program import Entry, Launch, Port, Space
from netloom.compiler.targets.cpu.jit import load_in_process
from netloom.compiler.targets.cpu.shared_object import write_shared_object
from netloom.compiler.targets.cpu.variant import Variant
from netloom.errors import InputError, ProgramError, UsageError
from netloom.runtime.cpu import default_threads
from netloom.runtime.program import parse_manifest
from netloom.runtime.session import Session, load
from tests.compiler.targets.cpu import small_programs as small

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program y = 8x for float32[N, 4]."""
    place = tmp_path_factory.mktemp("programs") / "chain.so"
    write_shared_object([Variant(small.chain(3), small.kernels())], place)
    return place


@pytest.fixture(scope="module")
def session(path: Path) -> Session:
    return load(path, threads=1)


X = np.arange(12, dtype=np.float32).reshape(3, 4)


def test_ways_to_call(session: Session) -> None:
    for y in (
        session(X),
        session(x=X),
        session.run(None, {"x": X})[0],
        session.run(["y"], {"x": X})[0],
    ):
        np.testing.assert_array_equal(y, 8 * X)
    assert session.run([], {"x": X}) == []


def test_large_results_begin_a_cache_line(session: Session) -> None:
    for _ in range(8):  # memory from elsewhere begins 16 bytes behind one
        y = session(np.ones((64, 4), np.float32))
        assert y.ctypes.data % 64 == 0 and y.flags.writeable and (y == 8).all()


def test_description(session: Session) -> None:
    (port,) = session.inputs
    assert (port.name, port.dtype, port.shape, str(port)) == (
        "x",
        "float32",
        ("N", 4),
        "float32[N, 4]",
    )
    assert session.outputs[0].name == "y"
    assert session.metadata["training"] is False


class Dlpack:
    """Something that is no NumPy array."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()


def _misaligned(array: np.ndarray) -> np.ndarray:
    room = np.zeros(array.nbytes + 1, np.uint8)
    result = room[1:].view(array.dtype).reshape(array.shape)
    result[...] = array
    assert not result.flags.aligned
    return result


@pytest.mark.parametrize(
    "value",
    [
        X.copy(order="F"),
        np.repeat(X, 2, axis=0)[::2],
        X[::-1].copy()[::-1],
        X.astype(">f4"),
        _misaligned(X),
        Dlpack(X),
        X.tolist(),
        X.astype(int).tolist(),
        np.broadcast_to(X[:1], (3, 4)),
        memoryview(X.data),
    ],
    ids=[
        "fortran",
        "strided",
        "negative",
        "swapped",
        "misaligned",
        "dlpack",
        "list",
        "ints",
        "broadcast",
        "memoryview",
    ],
)
def test_inputs_of_every_kind(session: Session, value: Any) -> None:
    expected = np.broadcast_to(X[:1], X.shape) if getattr(value, "strides", (1,))[0] == 0 else X
    np.testing.assert_array_equal(session(value), 8 * expected)


@pytest.mark.parametrize(
    ("arguments", "named", "text"),
    [
        ((), {}, 'The input "x" is missing.'),
        ((None,), {}, 'The input "x" must be float32[N, 4], but None was given.'),
        ((X, X), {}, 'The program takes 1 inputs ("x"); 2 were given.'),
        ((X,), {"x": X}, 'The input "x" was given twice.'),
        ((X,), {"z": X}, 'There is no input "z"; the program has "x".'),
        (
            (X.astype(np.float64),),
            {},
            'The input "x" must be float32[N, 4], but float64[3, 4] was given.',
        ),
        (
            (np.array([["a"] * 4]),),
            {},
            'The input "x" must be float32[N, 4], but <U1[1, 4] was given.',
        ),
        (
            (np.array([[None] * 4]),),
            {},
            'The input "x" must be float32[N, 4], but object[1, 4] was given.',
        ),
        ((X[0],), {}, 'The input "x" must be float32[N, 4], but float32[4] was given.'),
        (
            (X[:, :3],),
            {},
            'The input "x" must be float32[N, 4] (here float32[3, 4]), but float32[3, 3] was given.',
        ),
        (
            (np.zeros((65, 4), np.float32),),
            {},
            'The input "x" must be float32[N, 4] with N from 1 to 64, but float32[65, 4] was given.',
        ),
    ],
)
def test_bad_inputs(
    session: Session, arguments: tuple[Any, ...], named: dict[str, Any], text: str
) -> None:
    with pytest.raises(InputError) as error:
        session(*arguments, **named)
    assert str(error.value) == text
    np.testing.assert_array_equal(session(X), 8 * X)


@pytest.mark.parametrize("inputs", [[X], X, None])
def test_inputs_without_names(session: Session, inputs: Any) -> None:
    with pytest.raises(InputError, match="must be a mapping of names to arrays, not a "):
        session.run(None, inputs)


def test_values_that_do_not_convert(session: Session) -> None:
    for value in ("text", [["a"]], [[1j] * 4], [[1, 2], [3]], object()):
        with pytest.raises(
            InputError, match=r'The input "x" must be float32\[N, 4\], but a \w+ was given'
        ):
            session(value)
    with pytest.raises(InputError, match='There is no output "q"; the program has "y"'):
        session.run(["q"], {"x": X})


def test_bound_buffers(session: Session) -> None:
    x, y = X.copy(), np.zeros_like(X)
    run = session.bind(x=x, y=y)
    run()
    np.testing.assert_array_equal(y, 8 * X)
    x += 1
    run()
    np.testing.assert_array_equal(y, 8 * X + 8)
    made = session.bind(x=x)
    made()
    np.testing.assert_array_equal(made.outputs["y"], y)


def test_buffers_that_cannot_be_bound(session: Session) -> None:
    read_only = np.zeros_like(X)
    read_only.flags.writeable = False
    for buffers, text in (
        ({}, 'The input "x" is missing'),
        ({"x": X, "z": X}, 'There is no input or output "z"'),
        (
            {"x": X.astype(np.float64)},
            r'The buffer for "x" must be a NumPy array float32\[N, 4\], but float64\[3, 4\] was given',
        ),
        ({"x": X.tolist()}, "but a list was given"),
        ({"x": X.copy(order="F")}, 'The buffer for "x" must be row-major'),
        ({"x": X, "y": read_only}, 'The buffer for "y" is read-only'),
    ):
        with pytest.raises(InputError, match=text):
            session.bind(**buffers)
    for buffers, text in (
        ({"x": X, "y": X}, 'The memory of the output "y" overlaps'),
        ({"x": X, "y": X[:2].copy()}, '"y" must be'),
    ):
        with pytest.raises(InputError, match=text):
            session.bind(**buffers)()


def test_results_do_not_depend_on_threads(path: Path) -> None:
    x = np.random.default_rng(3).standard_normal((37, 4)).astype(np.float32)
    results = {threads: load(path, threads=threads)(x).tobytes() for threads in (1, 2, 3, 8)}
    assert set(results.values()) == {(8 * x).tobytes()}


@pytest.mark.parametrize("shared", [False, True], ids=["eight sessions", "one session"])
def test_eight_python_threads(path: Path, session: Session, shared: bool) -> None:
    wrong: list[int] = []
    barrier = threading.Barrier(8)

    def work(number: int) -> None:
        mine = session if shared else load(path, threads=2)
        x = np.full((1 + number, 4), number, np.float32)
        barrier.wait()
        for _ in range(200):
            if not np.array_equal(mine(x), 8 * x):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_pickle(session: Session) -> None:
    copy = pickle.loads(pickle.dumps(session))
    assert copy.threads == session.threads
    np.testing.assert_array_equal(copy(X), 8 * X)
    inner = Session.in_process(load_in_process([Variant(small.doubling(), small.kernels())]))
    with pytest.raises(TypeError, match="save the program and load it"):
        pickle.dumps(inner)


def test_loading_needs_numpy_alone(path: Path) -> None:
    code = f"""
import sys
from netloom.runtime.session import load
import numpy as np
print(load({str(path)!r})(np.ones((2, 4), np.float32)).sum())
print(sorted({{name.split(".")[0] for name in sys.modules}} & {{"llvmlite", "networkx", "onnx", "ml_dtypes", "numba"}}))
print([name for name in sys.modules if name.startswith(("netloom.compiler", "netloom.frontends"))])
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert result.stdout.splitlines() == ["64.0", "[]", "[]"]


def test_opening_and_closing_leaves_nothing(path: Path) -> None:
    def cycle() -> None:
        load(path, threads=2)(X)

    for _ in range(20):
        cycle()
    gc.collect()
    before = _usage()
    for _ in range(200):
        cycle()
    gc.collect()
    files, maps, resident = (after - start for after, start in zip(_usage(), before, strict=True))
    assert files == 0
    assert maps <= 4
    assert resident < 2 << 20


def _usage() -> tuple[int, int, int]:
    """Open files, memory maps, and bytes in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return (
        len(os.listdir("/proc/self/fd")),
        len(Path("/proc/self/maps").read_text().splitlines()),
        pages * 4096,
    )


# -- files -----------------------------------------------------------------------------------------


def _copy(path: Path, folder: Path) -> Path:
    target = folder / "copy.so"
    target.write_bytes(path.read_bytes())
    return target


def test_files_that_are_refused(path: Path, tmp_path: Path) -> None:
    copy = _copy(path, tmp_path)
    load(copy)
    data = copy.read_bytes()
    damaged = {
        "it is cut off": data[:-1],
        "not a netloom program": b"\x7fELF",
        "was written with": data[:-64] + bytes(64) + data[-64:],
        "interface version 99": data[:-56] + (99).to_bytes(4, "little") + data[-52:],
    }
    for text, content in damaged.items():
        copy.write_bytes(content)
        with pytest.raises(ProgramError, match=text):
            load(copy)
    with pytest.raises(ProgramError, match="cannot be read: No such file"):
        load(tmp_path / "missing.so")
    with pytest.raises(ProgramError, match="is not a regular file"):
        load(tmp_path)
    os.mkfifo(tmp_path / "pipe.so")
    with pytest.raises(ProgramError, match="is not a regular file"):
        load(tmp_path / "pipe.so")


def test_files_that_others_can_write_are_refused(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = _copy(path, tmp_path)
    copy.chmod(0o666)
    with pytest.raises(ProgramError, match=r"can be written by everybody\. Run: chmod o-w"):
        load(copy)
    copy.chmod(0o644)
    os.chown(copy, 65534, -1) if os.geteuid() == 0 else monkeypatch.setattr(
        os, "geteuid", lambda: os.getuid() + 1
    )
    with pytest.raises(ProgramError, match="belongs to another user"):
        load(copy)


def test_damaged_manifests_are_refused() -> None:
    for text in ("", "{}", "[]", '{"abi": 1}', '{"abi": 1, "entries": [{}], "dims": []}', "null"):
        with pytest.raises(ProgramError, match="manifest is damaged"):
            parse_manifest(text)
    with pytest.raises(ProgramError, match="interface version 7"):
        parse_manifest('{"abi": 7}')


# -- threads ---------------------------------------------------------------------------------------


def test_the_number_of_threads(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NETLOOM_THREADS", raising=False)
    manifest = load(path)._model.manifest
    assert 1 <= default_threads(manifest) <= len(os.sched_getaffinity(0))
    monkeypatch.setenv("NETLOOM_THREADS", "1")
    assert load(path).threads == 1
    assert load(path, threads=3).threads == 3
    for text in ("0", "-1", "two", "1.5", "\u0661"):
        monkeypatch.setenv("NETLOOM_THREADS", text)
        with pytest.raises(UsageError, match="must be a positive whole number"):
            load(path)
    with pytest.raises(UsageError, match="must be at least 1, and at most 1024, but is 0"):
        load(path, threads=0)


def test_cgroup_quotas(tmp_path: Path) -> None:
    from netloom.runtime.cpu import _read_quota, _upwards

    for text, expected in (
        ("150000 100000", 2),
        ("max 100000", None),
        ("50000 100000", 1),
        ("", None),
    ):
        (tmp_path / "cpu.max").write_text(text)
        assert _read_quota(tmp_path / "cpu.max") == expected
    assert _read_quota(tmp_path / "missing") is None
    assert _upwards(Path("/sys/fs/cgroup"), "/a/b") == [
        Path("/sys/fs/cgroup/a/b"),
        Path("/sys/fs/cgroup/a"),
        Path("/sys/fs/cgroup"),
    ]


def test_bfloat16(tmp_path: Path) -> None:
    """Half of a bfloat16 tensor's bytes are float32: copied as they are."""
    import ml_dtypes

    from netloom.compiler.tensor_type import BFLOAT16, TensorType

    type = TensorType(BFLOAT16, (Dim.of(small.N), 2))
    buffers = (small.ref(Space.INPUT), small.ref(Space.OUTPUT))
    entry = Entry(
        "run",
        (Port("x", type),),
        (Port("y", type),),
        (Launch("checked", buffers, (), Dim.of(small.N)),),
        (),
    )
    session = Session.in_process(
        load_in_process([Variant(small.program([entry], symbols=[small.N]), small.kernels())])
    )
    x = np.ones((3, 2), ml_dtypes.bfloat16)
    y = session(x)
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(y.view(np.uint16), x.view(np.uint16))
