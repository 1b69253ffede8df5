"""Straight-line programs of Fourier transforms against numpy.fft: every size, every number of
present inputs, and the way back.
"""

from __future__ import annotations

import numpy as np
import pytest

from netloom.compiler.fourier import Program, complex_, real
from netloom.compiler.op import Array

SIZES = (1, 2, 4, 8, 16, 32)
EXACT = 1e-14  # of float64 sums of at most 32 terms


def waves(n: int) -> Array:
    """e^(-2 pi i j k / n)."""
    return np.fft.fft(np.eye(n))


def halves(n: int) -> Array:
    """The half spectrum's packed numbers of the unit vectors: X[0], X[n/2], then parts of X[1],
    X[2], ..
    """
    full = waves(n)
    ends = [full[0].real] if n == 1 else [full[0].real, full[n // 2].real]
    return np.array(
        [*ends, *(part for k in range(1, n // 2) for part in (full[k].real, full[k].imag))]
    )


def as_reals(matrix: Array) -> Array:
    """A complex matrix as a real one on real and imaginary parts in turn."""
    blocks = np.array([[matrix.real, -matrix.imag], [matrix.imag, matrix.real]])
    return blocks.transpose(2, 0, 3, 1).reshape(2 * matrix.shape[0], 2 * matrix.shape[1])


@pytest.mark.parametrize("n", SIZES)
def test_a_program_is_the_transform_of_what_is_present(n: int) -> None:
    for present in range(1, n + 1):
        assert np.abs(real(n, present).matrix() - halves(n)[:, :present]).max() <= EXACT
        assert (
            np.abs(complex_(n, present).matrix() - as_reals(waves(n)[:, :present])).max() <= EXACT
        )


@pytest.mark.parametrize("n", SIZES)
def test_the_way_back_is_the_transpose(n: int) -> None:
    for present in {1, n // 2 + 1, n}:
        for program in (real(n, present), complex_(n, present)):
            assert np.abs(program.transposed().matrix() - program.matrix().T).max() <= EXACT


@pytest.mark.parametrize("n", SIZES)
def test_there_and_back_gives_the_numbers_again(n: int) -> None:
    x = np.random.default_rng(n).standard_normal(n)
    twice = np.where(np.arange(n) < 2, 1, 2)  # frequencies that also stand for their conjugates
    spectrum = real(n, n).matrix() @ x
    assert np.allclose(
        real(n, n).transposed().matrix() @ (twice * spectrum) / n, x, rtol=0, atol=EXACT
    )
    assert (
        not np.allclose(real(n, n).transposed().matrix() @ spectrum / n, x, rtol=0, atol=1e-3)
        or n <= 2
    )


def split_radix_additions(n: int) -> float:
    """Of a complex transform with rotations of two additions each (Johnson and Frigo, IEEE
    Transactions on Signal Processing 55, 2007, section I, count additions and multiplications
    together)."""
    bits = n.bit_length() - 1
    return 8 * n * bits / 3 - 16 * n / 9 - 2 * (-1) ** bits / 9 + 2


def test_steps_are_as_many_as_split_radix_additions() -> None:
    """Every multiplication is part of a step; a real transform takes about half as many."""
    for n in SIZES[1:]:
        assert len(complex_(n, n).steps) == pytest.approx(split_radix_additions(n))
    assert [len(real(n, n).steps) for n in SIZES] == [0, 2, 6, 20, 58, 156]
    for n in SIZES:
        assert len(real(n, n).transposed().steps) == len(real(n, n).steps)


@pytest.mark.parametrize("n", SIZES)
def test_what_is_not_there_takes_no_steps(n: int) -> None:
    counts = [len(real(n, present).steps) for present in range(1, n + 1)]
    assert counts == sorted(counts) and counts[0] == 0


def factors(program: Program) -> set[float]:
    return {abs(step.ratio) for step in program.steps} | {
        abs(output[0]) for output in program.outputs if output
    }


def test_factors_are_small_and_simple_ones_exact() -> None:
    """No factor enlarges an error; eighths of a turn need 1 and sqrt(1/2) only."""
    for n in SIZES:
        for program in (
            real(n, n),
            complex_(n, n),
            real(n, n).transposed(),
            complex_(n, n).transposed(),
        ):
            assert all(0 < factor <= 1 for factor in factors(program))
    assert factors(real(4, 4)) | factors(complex_(4, 4)) == {1.0}
    assert factors(real(8, 8)) | factors(complex_(8, 8)) == {1.0, np.sqrt(0.5)}


def test_outputs_that_are_not_wanted_leave_no_steps_behind() -> None:
    for program in (complex_(16, 5), real(32, 3).transposed()):
        used = {number for step in program.steps for number in (step.x, step.y)} | {
            output[1] for output in program.outputs if output
        }
        assert used >= set(range(program.inputs, program.inputs + len(program.steps)))
