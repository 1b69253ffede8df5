"""Single kernels for benchmarks/gpu.py: built without a device, measured without the compiler.

``measure_kernel`` holds some results against float64, all of them against a second run, whose bits
must be the same, and against PyTorch, if that is there; then it times replays in rounds with PyTorch
(cuBLAS, cuDNN with benchmark mode) in the same precision.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from netloom.benchmarks.gpu_cases import Case, error_of, graph_of, inputs_of
from netloom.benchmarks.gpu_results import KernelRow
from netloom.benchmarks.gpu_torch import (
    Clock,
    Pace,
    Times,
    in_float32,
    in_rounds,
    placed,
    seconds_in_torch,
    torch_on_device,
)
from netloom.errors import ComparisonError
from netloom.runtime.cuda.device import Device
from netloom.runtime.cuda.device_array import DeviceArray
from netloom.runtime.cuda.session import CudaSession, load

if TYPE_CHECKING:
    from netloom.compiler.targets.cuda.driver import CudaProgram

Array = npt.NDArray[Any]
# relative L2 of sampled results
TOLERANCE = {"f32": 1e-5, "3xtf32": 1e-5, "tf32": 2e-3, "bf16": 2e-2}
PEER_TOLERANCE = 1e-4  # besides, of all results: PyTorch's are float32's with whatever algorithm


def build_kernel(folder: Path, case: Case, architectures: Sequence[str]) -> CudaProgram:
    """Writes the case's program. DeviceError if a buffer is larger than sessions take."""
    from netloom.compiler.targets.cuda.driver import CudaOptions, compile_for_cuda
    from netloom.runtime.cuda.plan import buffer_sizes
    from netloom.runtime.cuda.program import parse_program

    options = CudaOptions(case.precision, accuracy="fast", override=case.strategy)
    program = compile_for_cuda(graph_of(case), options, architectures=architectures)
    read = parse_program(program.as_bytes(), case.name)
    buffer_sizes(read, read.entries["run"], {})
    program.save(folder / case.file)
    return program


def measure_kernel(
    case: Case,
    folder: Path,
    device: Device,
    pace: Pace,
    keep: Callable[[KernelRow], None] = lambda _: None,
) -> KernelRow:
    """ComparisonError if the results are wrong; else the times, both contenders in every round.
    ``keep`` has what is known before PyTorch begins."""
    torch = torch_on_device()
    session = load(folder / case.file, open_device=lambda: device)
    try:
        inputs = inputs_of(case)
        there = {name: on_device(session, array) for name, array in inputs.items()}
        y, error = _checked(case, session, inputs, there)

        def checked_contender() -> Clock:
            check_all(torch, case, inputs, y)
            return contender(torch, case)

        peers = {} if torch is None else {"torch": checked_contender}
        own = partial(session.seconds, there)
        times = in_rounds(own, peers, pace, lambda found: keep(_row(case, error, found)))
    finally:
        session.close()
    return _row(case, error, times)


def _row(case: Case, error: float, times: Times) -> KernelRow:
    peer = times.peers.get("torch")
    return KernelRow(case, error, times.own * 1e6, case.flops / times.own * 1e-12,
                     case.bytes / times.own * 1e-9, peer * 1e6 if peer else None,
                     peer / times.own if peer else None, times.note)  # fmt: skip


def _checked(
    case: Case, session: CudaSession, inputs: Mapping[str, Array], there: Mapping[str, DeviceArray]
) -> tuple[Array, float]:
    """The results, and the error of those that are sampled; ComparisonError if it, or any result,
    is wrong."""
    on_device(session, np.full(case.output, np.nan, np.float32))  # the memory that is taken next
    y = session.run_on_device(**there).numpy()
    error = error_of(case, inputs, y)
    if not error <= TOLERANCE[case.precision]:
        raise ComparisonError(
            f"the relative error {error:.1e} is above {TOLERANCE[case.precision]:.0e}."
        )
    if np.isnan(y).any():
        raise ComparisonError("some results are no numbers, or were not written.")
    if not np.array_equal(y, session.run_on_device(**there).numpy()):
        raise ComparisonError("a second run gives other results.")
    return y, error


def on_device(session: CudaSession, array: Array) -> DeviceArray:
    """A copy there; without a reader, its memory is that of the next result of its size."""
    device = session.resident.device
    found = DeviceArray(session.resident.pool, array.shape, str(array.dtype))
    device.upload(found.address, array)
    return found


def check_all(torch: Any, case: Case, inputs: Mapping[str, Array], y: Array) -> None:
    """ComparisonError if all results together, of which few were compared with float64, are not
    PyTorch's in float32."""
    wanted = in_float32(
        torch, torch_function(torch, case), [placed(torch, inputs[n]) for n in inputs]
    )
    found = placed(torch, y)
    distance = float(torch.linalg.vector_norm(found - wanted) / torch.linalg.vector_norm(wanted))
    if not distance <= TOLERANCE[case.precision] + PEER_TOLERANCE:
        raise ComparisonError(f"all results together differ from PyTorch's by {distance:.1e}.")


def contender(torch: Any, case: Case) -> Clock:
    """Seconds of one call at the case's precision (3xtf32 stands against strict float32)."""
    tensors = [placed(torch, array) for array in inputs_of(case).values()]
    if case.precision == "bf16":
        tensors = [tensor.bfloat16() for tensor in tensors]
    function = torch_function(torch, case)
    is_rounded = case.precision == "tf32"
    return partial(seconds_in_torch, torch, lambda: function(*tensors), allows_tf32=is_rounded)


def torch_function(torch: Any, case: Case) -> Callable[..., Any]:
    """What computes the case."""
    functions: dict[str, Callable[..., Any]] = {
        "relu": torch.relu, "add": torch.add, "matmul": torch.matmul,
        "transpose": lambda x: x.t().contiguous(), "softmax": lambda x: torch.softmax(x, 1),
        "attention": torch.nn.functional.scaled_dot_product_attention,
        "conv": lambda x, w: torch.nn.functional.conv2d(x, w, stride=case.stride, padding=case.pad),
    }  # fmt: skip
    return functions[case.kind]
