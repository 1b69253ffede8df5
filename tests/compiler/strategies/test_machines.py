"""The machine table: an entry for each CPU level, and the rates made of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from netloom.compiler.driver import Options
from netloom.compiler.strategies.machines import MACHINES, machine_entry, rates_of
from netloom.compiler.strategies.strategy import Cost, Rates
from netloom.compiler.targets.cpu.machine import CPUS
from netloom.errors import UsageError


@pytest.mark.parametrize("cpu", CPUS)
def test_every_level_has_an_entry(cpu: str) -> None:
    entry = machine_entry(cpu)
    assert (
        entry.cpu == cpu
        and entry.l1 < entry.l2 <= entry.l3
        and 0 < entry.barrier < 1e-4
        and entry.cached > entry.copy
    )
    # vectors of 16 lanes that tiles may hold
    assert 4 * entry.lanes * entry.registers <= 64 * CPUS[cpu].machine.vectors
    assert entry.l3 == CPUS[cpu].machine.last_level_cache
    assert entry.products <= 2 * entry.lanes and entry.copy < 2 * entry.read


def test_wider_levels_multiply_faster() -> None:
    rates = [rates_of(f"x86-64{level}").products for level in ("", "-v2", "-v3", "-v4")]
    assert rates == sorted(rates)
    assert rates_of("x86-64-v4").products == pytest.approx(55.9e9, rel=1e-3)


def test_a_workspace_that_caches_hold_is_passed_on_faster() -> None:
    rates = Rates(1e9, 4e9, cache=1e6, near=8e9, far=1e9)
    assert Cost(1e6, 4e6, 0.0).seconds(rates) == pytest.approx(2e-3)
    assert Cost(1e6, 4e6 + 2e6, 1e6).seconds(rates) == pytest.approx(2e-3 + 1e6 / 8e9)
    assert Cost(1e6, 4e6 + 4e6, 2e6).seconds(rates) == pytest.approx(2e-3 + 2e6 / 1e9)
    # a band at a time it stays in a cache, if the machine has kernels for that
    banded = Cost(1e6, 4e6 + 4e6, 2e6, band=8.0)
    assert banded.seconds(rates) == pytest.approx(2e-3 + 2e6 / 1e9)
    assert banded.seconds(replace(rates, has_bands=True)) == pytest.approx(2e-3 + 2e6 / 8e9)
    # unless the weights, 4 bytes for each row of a band, come slower than it multiplies
    slow = replace(rates, has_bands=True, products=17e9)
    assert banded.seconds(slow) == pytest.approx(1e6 / 17e9 + 1e-3 + 2e6 / 1e9)
    # a write and a read like others
    assert Cost(1e6, 4e6 + 4e6, 2e6).seconds(Rates(1e9, 4e9)) == pytest.approx(3e-3)


def test_options_take_the_rates_of_their_level() -> None:
    for cpu in CPUS:
        assert Options(cpu).rates == MACHINES[cpu].rates


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(UsageError, match="no entry for 'z80'.*x86-64-v4"):
        machine_entry("z80")
