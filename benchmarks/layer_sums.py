"""Measured layers -> sums over the networks' layers, and the goals that they are to reach."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from netloom.benchmarks.goals import Goal, Sense
from netloom.compiler.strategies import strategies_for

from .layer_cases import LAYERS, Layer

NAMES = tuple(strategy.name for strategy in strategies_for("conv"))


@dataclass(frozen=True)
class Row:
    """``percent`` of the multiply-add peak on as many threads at the same moment; ``quiet``: percent
    of the rounds that nobody disturbed, of which both are; ``bytes``: of operands and result, each
    once; MB of workspace.
    """

    layer: str
    strategy: str
    batch: int
    threads: int
    milliseconds: float
    gflops: float
    percent: float
    quiet: float
    error: float
    workspace: float
    flops: float
    bytes: float


@dataclass(frozen=True)
class Sum:
    """A network's layers (those that ``which`` names) by the best of some strategies: effective
    GFLOP/s, and over the peak.
    """

    network: str
    batch: int
    threads: int
    which: str
    strategy: str
    layers: int
    gflop: float
    milliseconds: float
    gflops: float
    times_peak: float


def sums(rows: Sequence[Row]) -> list[Sum]:
    """Each network's layers added up, where all were measured: by the best of each family of
    strategies, and of all.
    """
    families = {
        _family(name): [n for n in NAMES if _family(n) == _family(name)] for name in NAMES
    } | {"best": list(NAMES)}
    settings = dict.fromkeys((row.batch, row.threads) for row in rows)
    bests = {(batch, threads, family): _best(rows, names, batch, threads)
             for batch, threads in settings for family, names in families.items()}  # fmt: skip
    found = [
        _sum(network, which, setting, best)
        for network in LAYERS
        for setting, best in bests.items()
        for which in _WHICH
    ]
    return [item for item in found if item is not None]


def _family(strategy: str) -> str:
    """winograd_f4 -> winograd."""
    return strategy.partition("_")[0]


_WHICH: Mapping[str, Callable[[Layer], bool]] = {
    "all": lambda layer: True,
    "3x3 stride 1, >= 64 channels": lambda layer: (
        layer.channels >= 64 and (layer.kernel, layer.stride) == (3, 1)
    ),
}


def _best(
    rows: Sequence[Row], strategies: Sequence[str], batch: int, threads: int
) -> dict[str, Row]:
    """The fastest row of each layer among these strategies, at equal clocks."""
    found: dict[str, Row] = {}
    for row in rows:
        if row.strategy in strategies and (row.batch, row.threads) == (batch, threads):
            found[row.layer] = max(found.get(row.layer, row), row, key=lambda r: r.percent)
    return found


def _sum(
    network: str, which: str, setting: tuple[int, int, str], best: Mapping[str, Row]
) -> Sum | None:
    """The layers in question, each as often as the network has it; None unless all were
    measured.
    """
    layers = {layer: n for layer, n in LAYERS[network].items() if _WHICH[which](layer)}
    if not layers or any(layer.name not in best for layer in layers):
        return None
    counted = [(n, best[layer.name]) for layer, n in layers.items()]
    flops, milliseconds, at_peak = (
        sum(n * row.flops for n, row in counted),
        sum(n * row.milliseconds for n, row in counted),
        sum(n * row.flops / (row.percent / 100) for n, row in counted),
    )
    batch, threads, family = setting
    return Sum(
        network,
        batch,
        threads,
        which,
        family,
        sum(layers.values()),
        flops / 1e9,
        milliseconds,
        flops / milliseconds / 1e6,
        flops / at_peak,
    )


def goals(rows: Sequence[Row]) -> list[Goal]:
    """What the figures are to reach, as parts of the multiply-add peak; only what was measured."""
    found = [Goal(row.layer, row.percent, 85.0 if row.flops < 2e9 else 90.0, "% of peak",
                  Sense.LEAST)
             for row in rows if row.strategy == "matmul"]  # fmt: skip
    sizes = {layer.name: layer for layers in LAYERS.values() for layer in layers}
    for batch, threads in dict.fromkeys(
        (row.batch, row.threads) for row in rows if row.strategy != "matmul"
    ):
        at = f"batch {batch}, {threads} thread(s)"
        direct, winograd = (_best(rows, [n for n in NAMES if _family(n) == family], batch, threads)
                            for family in ("direct", "winograd"))  # fmt: skip
        found += [
            Goal(f"direct {name}, {at}", row.percent, 90.0, "% of peak", Sense.LEAST)
            for name, row in direct.items()
            if sizes[name].kernel == 3 and sizes[name].channels >= 16
        ]
        for name, row in winograd.items():
            layer = sizes[name]
            if layer.channels >= 128 and (layer.extent >= 28 or layer.extent == 14):
                least = 2.5 if layer.extent >= 28 else 1.7
                found.append(
                    Goal(
                        f"{row.strategy} {name}, {at}",
                        row.percent / 100,
                        least,
                        "x peak",
                        Sense.LEAST,
                    )
                )
    found += [
        Goal(
            f"Winograd, VGG-19's layers with 64 channels or more, batch {item.batch}, "
            f"{item.threads} thread(s)",
            item.times_peak,
            2.5,
            "x peak",
            Sense.LEAST,
        )
        for item in sums(rows)
        if (item.network, item.strategy) == ("vgg19", "winograd") and item.which != "all"
    ]
    return found
