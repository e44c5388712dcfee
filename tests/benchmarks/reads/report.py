"""From rounds to what is written, shown and judged."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from tests.benchmarks.processor_time import OTHERS
from tests.benchmarks.reads.dataset import Dataset
from tests.benchmarks.reads.load import Round
from tests.benchmarks.reads.variants import BARE, LIST

RATIO_MIN: Final = 0.55
P50_ALONE_MAX_US: Final = 1500.0
GROWTH_MAX: Final = 0.2
FULL_LOAD: Final = 64
# A server on one core that is busy for this share of the time has no more to give.
BUSY: Final = 0.9
DISTURBED: Final = 0.2

Measured = Mapping[str, Mapping[int, Sequence[Round]]]
"""variant → calls in flight → rounds; the n-th rounds of all variants were neighbours."""

Sized = Mapping[Dataset, Mapping[str, Sequence[Round]]]
"""dataset → variant → rounds with one call in flight; the n-th rounds of all datasets were neighbours."""


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": round(statistics.median(values), 3), "min": round(min(values), 3), "max": round(max(values), 3)}


def summary(measured: Measured, servers: Mapping[str, str], rest: int) -> dict[str, Any]:
    """variant → in flight → rates, percentiles, processor time and what bounds it.

    Args:
        servers: variant → process that is measured.
        rest: how many cores all the others share.
    """
    return {
        name: {str(in_flight): _point(rounds, servers[name], rest) for in_flight, rounds in by_load.items()}
        for name, by_load in measured.items()
    }


def ratios(measured: Measured) -> dict[str, Any]:
    """How the complete list compares with the bare server at full load: each round with its neighbour."""
    pairs = list(zip(measured[LIST][FULL_LOAD], measured[BARE][FULL_LOAD], strict=True))
    rates = spread([complete.per_second / bare.per_second for complete, bare in pairs])
    costs = spread([bare.processor_us[BARE] / complete.processor_us["edge-inbound"] for complete, bare in pairs])
    return {
        "ratio": rates["median"],
        "ratio_min": RATIO_MIN,
        "ratio_spread": rates,
        "processor_ratio": costs["median"],
        "processor_ratio_spread": costs,
        "p50_alone_us": spread([each.p50_us for each in measured[LIST][1]]),
    }


def growth(sized: Sized, smallest: Dataset, largest: Dataset) -> dict[str, Any]:
    """variant → by what share p50 grows from the one size to the other: each round with its neighbour."""
    return {
        name: spread([big.p50_us / small.p50_us - 1 for small, big in zip(rounds, sized[largest][name], strict=True)])
        for name, rounds in sized[smallest].items()
        if name in sized[largest]
    }


def shortfalls(found: Mapping[str, Any]) -> list[str]:
    """What the goal asks and this run does not show, a sentence each."""
    said = []
    listed = found["list"]
    if listed["ratio"] < RATIO_MIN:
        said.append(f"At {FULL_LOAD} in flight the complete list reaches {listed['ratio']:.2f} of bare; it must reach {RATIO_MIN}.")
    alone = listed["p50_alone_us"]["median"]
    if alone > P50_ALONE_MAX_US:
        said.append(f"Alone the complete list takes {alone / 1000:.2f} ms (p50); it may take {P50_ALONE_MAX_US / 1000} ms.")
    for what, grows in found["growth"].items():
        if grows[LIST]["median"] >= GROWTH_MAX:
            said.append(f"The list's p50 grows by {grows[LIST]['median']:.0%} {what}; it must grow by less than {GROWTH_MAX:.0%}.")
    return said


def table(found: Mapping[str, Any]) -> str:
    """What a person reads."""
    lines = [f"{'':24}{'in flight':>10}{'calls/s':>16}{'p50 ms':>9}{'p90':>8}{'p99':>8}{'server µs':>11}  bounded by"]
    for name, by_load in found["variants"].items():
        for in_flight, point in by_load.items():
            rate = point["per_second"]
            noise = (rate["max"] - rate["min"]) / 2 / rate["median"]
            lines.append(
                f"{name:24}{in_flight:>10}{rate['median']:>10.0f} ± {noise:<3.0%}"
                + "".join(f"{point[p]['median'] / 1000:>8.2f}" for p in ("p50_us", "p90_us", "p99_us"))
                + f"{point['server_us']['median']:>11.0f}  {point['bounded_by']}"
                + (f"; {again:.1%} of streams refused and sent again" if (again := point["refused_share"]) else "")
            )
    lines.append("")
    for name, sizes in found["sizes"].items():
        for each in sizes:
            p50, p99 = each["p50_us"]["median"] / 1000, each["p99_us"]["median"] / 1000
            lines.append(f"{name:24}{each['tasks']:>12,} tasks {each['grants']:>8,} grants: p50 {p50:.2f} ms, p99 {p99:.2f} ms")
    listed = found["list"]
    lines += [
        "",
        f"list/bare at {FULL_LOAD} in flight: {listed['ratio']:.2f} by calls, {listed['processor_ratio']:.2f} by processor time",
    ]
    for what, grows in found["growth"].items():
        lines.append(f"p50 {what}: " + ", ".join(f"{name} {each['median']:+.0%}" for name, each in grows.items()))
    return "\n".join(lines)


def _point(rounds: Sequence[Round], server: str, rest: int) -> dict[str, Any]:
    cores = _medians([each.cores for each in rounds])
    return {
        "per_second": spread([each.per_second for each in rounds]),
        "p50_us": spread([each.p50_us for each in rounds]),
        "p90_us": spread([each.p90_us for each in rounds]),
        "p99_us": spread([each.p99_us for each in rounds]),
        "answer_bytes": rounds[0].answer_bytes,
        "refused_share": round(sum(each.refused for each in rounds) / sum(each.calls for each in rounds), 4),
        "server_us": spread([each.processor_us[server] for each in rounds]),
        "processor_us": _medians([each.processor_us for each in rounds]),
        "cores": cores,
        "bounded_by": bounded_by(cores, server, rest),
        "rounds": [asdict(each) for each in rounds],
    }


def bounded_by(cores: Mapping[str, float], server: str, rest: int) -> str:
    """What has to become cheaper for more calls, with its numbers."""
    others = sum(share for name, share in cores.items() if name != server)
    elsewhere = cores[OTHERS]
    if cores[server] >= BUSY:
        bound = f"the server, {cores[server]:.0%} of its core"
    elif others >= BUSY * rest:
        busiest = max((name for name in cores if name not in {server, OTHERS}), key=lambda name: cores[name])
        bound = f"the other core{'s' if rest > 1 else ''}, {busiest} most"
    else:
        bound = f"waiting, the server is busy {cores[server]:.0%} of the time"
    return f"{bound} (other work on this machine: {elsewhere:.2f} cores)" if elsewhere >= DISTURBED else bound


def _medians(measured: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: round(statistics.median(each[name] for each in measured), 3) for name in measured[0]}
