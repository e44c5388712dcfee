"""The picture: calls per second, how long one takes, and what the size of the data changes. Needs requirements-bench.txt."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Write a PNG.

    Raises:
        ImportError: matplotlib is not installed.
    """
    # Not at the top: what only writes numbers needs none of it.
    matplotlib: Any = import_module("matplotlib")
    matplotlib.use("agg")
    plt: Any = import_module("matplotlib.pyplot")
    figure, (rates, latencies, sizes) = plt.subplots(1, 3, figsize=(18, 5.5), layout="constrained")
    for name, by_load in found["variants"].items():
        loads = [int(each) for each in by_load]
        points = list(by_load.values())
        rate = [each["per_second"] for each in points]
        errors = [[r["median"] - r["min"] for r in rate], [r["max"] - r["median"] for r in rate]]
        rates.errorbar(loads, [r["median"] for r in rate], yerr=errors, marker="o", capsize=3, label=name)
        middle = [each["p50_us"]["median"] / 1000 for each in points]
        (line,) = latencies.plot(loads, middle, marker="o", label=name)
        latencies.plot(loads, [each["p99_us"]["median"] / 1000 for each in points], linestyle=":", color=line.get_color())
    for axes, title, unit in ((rates, "Calls a second, one server core", "calls/s"), (latencies, "p50 (p99 dotted)", "ms")):
        axes.set(title=title, xlabel="calls in flight", ylabel=unit, xscale="log")
        axes.set_xticks([1, 16, 64], ["1", "16", "64"])
        axes.legend(fontsize="small")
        axes.grid(alpha=0.3)
    latencies.set_yscale("log")
    labels: list[str] = []
    for name, each_size in found["sizes"].items():
        labels = [f"{each['tasks']:.0e} tasks\n{each['grants']:,} grants" for each in each_size]
        p50 = [each["p50_us"] for each in each_size]
        errors = [[p["median"] - p["min"] for p in p50], [p["max"] - p["median"] for p in p50]]
        scaled = [[value / 1000 for value in side] for side in errors]
        sizes.errorbar(range(len(p50)), [p["median"] / 1000 for p in p50], yerr=scaled, marker="o", capsize=3, label=name)
    sizes.set(title="p50 alone, by the size of the data", ylabel="ms")
    sizes.set_yscale("log")
    sizes.set_xticks(range(len(labels)), labels, fontsize="small")
    sizes.legend(fontsize="small")
    sizes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
