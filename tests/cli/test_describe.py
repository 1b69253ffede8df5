"""``netloom inspect`` of programs whose manifest lacks what it shows."""

from __future__ import annotations

from typing import Any

import pytest

from netloom.cli.describe import program_facts
from netloom.errors import ProgramError


def manifest() -> dict[str, Any]:
    port = {"name": "x", "dtype": "float32", "shape": ["kept"]}
    entry = {"name": "run", "inputs": [port], "outputs": [port], "launches": 1, "arena_bytes": 64,
             "data_dims": [{"name": "kept", "most": 12}]}  # fmt: skip
    return {"name": "m", "target": "cpu", "options": {"cpu": "x86-64-v3"}, "level": "x86-64-v3",
            "levels": [{"name": "x86-64-v3", "features": ["avx2"]}], "dims": [], "entries": [entry],
            "constant_bytes": 0, "weight_bytes": 0, "states": [], "source_hash": "0", "abi": 1,
            }  # fmt: skip


def test_a_whole_manifest() -> None:
    facts = program_facts(manifest())
    assert (facts["run"]["arena bytes"], facts["run"]["decided by data"]) == (64, "kept ≤ 12")


@pytest.mark.parametrize("missing", ["arena_bytes", "most", "levels"])
def test_what_a_manifest_lacks_is_named(missing: str) -> None:
    data = manifest()
    (entry,) = data["entries"]
    (row,) = entry["data_dims"]
    for part in (data, entry, row):
        part.pop(missing, None)
    with pytest.raises(ProgramError, match=f"manifest has no '{missing}'.*Compile the model again"):
        program_facts(data)
