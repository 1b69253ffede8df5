"""``netloom machine``, with made-up measurements."""

from __future__ import annotations

import json

import pytest

from netloom.benchmarks import machine
from netloom.compiler.strategies.machines import MachineEntry, machine_entry

from .calling import call


def test_an_entry_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = machine_entry("x86-64-v3")
    monkeypatch.setattr(machine, "measure_entry", lambda: entry)
    text = call("machine").stdout.splitlines()[-1]
    # ready to be pasted: it ends with a comma
    assert eval(text, {"MachineEntry": MachineEntry}) == (entry,)
    assert json.loads(call("machine", "--json").stdout)["cpu"] == "x86-64-v3"
