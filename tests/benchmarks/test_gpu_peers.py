"""What PyTorch does to the process or to the device leaves our own figures as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from netloom.benchmarks import gpu, gpu_kernels, gpu_measure
from netloom.benchmarks.gpu_results import BEGUN, read_results
from netloom.errors import DeviceError
from tests.benchmarks.test_gpu import QUICK, built, case_named, needs_compiler
from tests.ptx_emulator.device import EmulatedDevice


@needs_compiler
def test_what_is_known_when_pytorch_takes_the_process_along_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row, as one of a job that has only begun."""

    def ending(*_: Any) -> None:
        raise KeyboardInterrupt

    ptx, _ = built(tmp_path, [case_named("relu")], [])
    monkeypatch.setattr(gpu_kernels, "torch_on_device", object)
    monkeypatch.setattr(gpu_kernels, "check_all", ending)
    with pytest.raises(KeyboardInterrupt):
        gpu.main(["measure", str(tmp_path), *QUICK], lambda: EmulatedDevice(ptx))
    results = read_results(tmp_path / "results.json")
    (row,) = results.kernels
    assert row.microseconds > 0 and row.ratio is None and "before PyTorch" in row.note
    assert results.failures == {"relu": BEGUN}


@needs_compiler
def test_a_peer_that_breaks_the_device_ends_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before another case fails in its place; our own row stays."""

    class Broken(EmulatedDevice):
        is_broken = False

        def synchronize(self) -> None:
            if self.is_broken:
                raise DeviceError("the CUDA driver reports CUDA_ERROR_ILLEGAL_ADDRESS.")

    def breaking(*_: Any) -> None:
        device.is_broken = True
        raise RuntimeError("illegal address")

    ptx, _ = built(tmp_path, [case_named("relu"), case_named("add")], [])
    device = Broken(ptx)
    monkeypatch.setattr(gpu_kernels, "torch_on_device", object)
    monkeypatch.setattr(gpu_kernels, "check_all", breaking)
    assert gpu.main(["measure", str(tmp_path), *QUICK], lambda: device) == gpu_measure.LOST
    results = read_results(tmp_path / "results.json")
    assert not results.failures and "illegal address" in results.notes["relu"]
    assert [row.case.name for row in results.kernels] == ["relu"]
