"""Single kernels for benchmarks/gpu.py: built without a device, measured without the compiler.

``measure_kernel`` holds some results against float64, then times replays in rounds with PyTorch
(cuBLAS, cuDNN with benchmark mode) in the same precision, if that is there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from netloom.benchmarks.gpu_cases import Case, error_of, graph_of, inputs_of
from netloom.benchmarks.gpu_results import KernelRow
from netloom.benchmarks.gpu_torch import seconds_in_torch, torch_on_device
from netloom.errors import ComparisonError
from netloom.runtime.cuda.device import Device
from netloom.runtime.cuda.session import load

if TYPE_CHECKING:
    from netloom.compiler.targets.cuda.driver import CudaProgram

# relative L2 of sampled results
TOLERANCE = {"f32": 1e-5, "3xtf32": 1e-5, "tf32": 2e-3, "bf16": 2e-2}


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
    case: Case, folder: Path, device: Device, rounds: int, replays: int
) -> KernelRow:
    """ComparisonError if the results are wrong; else the times, both contenders in every round."""
    session = load(folder / case.file, open_device=lambda: device)
    try:
        inputs = inputs_of(case)
        error = error_of(case, inputs, session(**inputs))
        if not error <= TOLERANCE[case.precision]:
            raise ComparisonError(
                f"the relative error {error:.1e} is above {TOLERANCE[case.precision]:.0e}."
            )
        torch = _torch_contender(case, replays)
        own, others = [], []
        for _ in range(rounds):
            own.append(session.seconds(inputs, replays))
            others += [torch()] if torch else []
    finally:
        session.close()
    seconds, peer = float(np.median(own)), float(np.median(others)) if others else None
    return KernelRow(case, error, seconds * 1e6, case.flops / seconds * 1e-12,
                     case.bytes / seconds * 1e-9, peer * 1e6 if peer else None,
                     peer / seconds if peer else None)  # fmt: skip


def _torch_contender(case: Case, replays: int) -> Callable[[], float] | None:
    """Seconds of one call in PyTorch at the case's precision (3xtf32 stands against strict
    float32); None without it.
    """
    torch = torch_on_device()
    if torch is None:
        return None
    tensors = [torch.from_numpy(array).cuda() for array in inputs_of(case).values()]
    if case.precision == "bf16":
        tensors = [tensor.bfloat16() for tensor in tensors]
    functions: dict[str, Callable[..., Any]] = {
        "relu": torch.relu, "add": torch.add, "matmul": torch.matmul,
        "transpose": lambda x: x.t().contiguous(), "softmax": lambda x: torch.softmax(x, 1),
        "conv": lambda x, w: torch.nn.functional.conv2d(x, w, stride=case.stride, padding=case.pad),
    }  # fmt: skip
    function = functions[case.kind]
    is_rounded = case.precision == "tf32"
    return lambda: seconds_in_torch(
        torch, lambda: function(*tensors), replays, allows_tf32=is_rounded
    )
