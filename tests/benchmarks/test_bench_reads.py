"""The benchmark runs, and what it writes is whole. How fast we are is judged on a machine that does nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from tests.benchmarks.bench_reads import GROWTH_IN_GRANTS, GROWTH_IN_TASKS, IN_FLIGHT
from tests.benchmarks.processor_time import CLIENT, OTHERS
from tests.benchmarks.reads.dataset import Dataset
from tests.benchmarks.reads.load import LOAD, LoadMissing, Round, find_binary
from tests.benchmarks.reads.report import bounded_by, growth, ratios, shortfalls
from tests.benchmarks.reads.variants import ALL, BARE, LIST, LIST_BY_TCP, ONE_CONNECTION

pytestmark = pytest.mark.alone

ROOT: Final = Path(__file__).parents[2]
MINUTE: Final = 60.0
INBOUND: Final = {"postgres", "valkey", "grants", "edge-inbound", LOAD, CLIENT, OTHERS}
PERCENTILES: Final = ("p50_us", "p90_us", "p99_us")


@pytest.fixture
def load() -> None:
    """The compiled client; a skip fails the run in CI."""
    try:
        find_binary()
    except LoadMissing:
        pytest.skip("bench-load is not here (make tools)")


@pytest.mark.usefixtures("load")
def test_the_benchmark_writes_a_whole_document(tmp_path: Path) -> None:
    """A short run measures every variant at every load and size on real processes and says who spent what; it judges nothing."""
    output = tmp_path / "bench" / "reads.json"
    command = [sys.executable, "-m", "tests.benchmarks.bench_reads", "--small", "--rounds", "1", "--seconds", "0.5"]
    done = subprocess.run(
        [*command, "--output", str(output)], cwd=ROOT, capture_output=True, text=True, timeout=3 * MINUTE, check=False
    )

    assert done.returncode == 0, done.stderr
    found = json.loads(output.read_text())
    assert {BARE, LIST, ONE_CONNECTION, LIST_BY_TCP, ALL} <= found["variants"].keys()
    for name, by_load in found["variants"].items():
        assert [int(each) for each in by_load] == list(IN_FLIGHT), name
        for point in by_load.values():
            assert point["per_second"]["median"] > 0
            assert point["p50_us"]["median"] <= point["p90_us"]["median"] <= point["p99_us"]["median"]
            assert point["bounded_by"]
            assert len(point["rounds"]) == 1
    assert found["variants"][LIST]["1"]["processor_us"].keys() == INBOUND
    # The bare server sends what the complete one sends: the same rows, in as many bytes, and does nothing else for it.
    bare, complete = found["variants"][BARE]["64"], found["variants"][ONE_CONNECTION]["64"]
    assert bare["answer_bytes"] == pytest.approx(complete["answer_bytes"], rel=0.05)  # a grant's first answer has no audit head yet
    assert 0 < bare["server_us"]["median"] < complete["server_us"]["median"]
    assert found["list"]["ratio"] == found["list"]["ratio_spread"]["median"] > 0
    sizes = found["sizes"][LIST]
    assert len({(each["tasks"], each["grants"]) for each in sizes}) == len(sizes) > 1
    assert found["growth"].keys() == {GROWTH_IN_TASKS, GROWTH_IN_GRANTS}
    if len(os.sched_getaffinity(0)) > 1:
        assert not set(found["server_cores"]) & set(found["other_cores"])
    assert "list/bare at 64" in done.stdout


def test_a_database_is_built_once(tmp_path: Path) -> None:
    """A second run finds the databases of the first and loads nothing."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_reads", "--small", "--build-only"]
    told = []
    for _ in range(2):
        done = subprocess.run(
            [*command, "--output", str(tmp_path / "reads.json")],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=MINUTE,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        told.append(done.stderr)
    assert "tasks to" in told[0]
    assert told[1] == ""


def a_round(per_second: float = 100, *, p50_us: float = 1000, **spent: float) -> Round:
    """A round in which each process, its hyphens written as underscores, spent so many microseconds per call."""
    microseconds = dict.fromkeys((*INBOUND, BARE), 0.0) | {name.replace("_", "-"): each for name, each in spent.items()}
    cores = {name: each * per_second / 1e6 for name, each in microseconds.items()}
    return Round(100, per_second, p50_us, 2 * p50_us, 3 * p50_us, 10_000.0, microseconds, cores)


def test_the_ratio_is_of_rounds_that_were_neighbours() -> None:
    """All rates fall when the machine is busy elsewhere, so each complete round is compared with the bare one beside it."""
    complete = [a_round(300, edge_inbound=800), a_round(100, edge_inbound=800), a_round(200, edge_inbound=1000)]
    bare = [a_round(600, bare=400), a_round(250, bare=400), a_round(500, bare=400)]
    found = ratios({LIST: {1: [a_round(p50_us=900)], 64: complete}, BARE: {64: bare}})
    assert found["ratio_spread"] == {"median": 0.4, "min": 0.4, "max": 0.5}
    assert found["processor_ratio_spread"] == {"median": 0.5, "min": 0.4, "max": 0.5}
    assert found["p50_alone_us"]["median"] == 900


def test_growth_is_of_rounds_that_were_neighbours() -> None:
    """From one size to the other within each round; a variant that only one of them has is left out."""
    small, large = Dataset(10, 1), Dataset(1000, 1)
    sized = {
        small: {LIST: [a_round(p50_us=1000), a_round(p50_us=2000)], "get": [a_round()]},
        large: {LIST: [a_round(p50_us=1100), a_round(p50_us=2600)]},
    }
    assert growth(sized, small, large) == {LIST: {"median": 0.2, "min": 0.1, "max": 0.3}}


GOOD: Final = {"ratio": 0.55, "p50_alone_us": {"median": 1500.0}}


@pytest.mark.parametrize(
    ("listed", "grows", "sentence"),
    [
        pytest.param({"ratio": 0.54}, 0.0, "reaches 0.54 of bare", id="too slow beside bare"),
        pytest.param({"p50_alone_us": {"median": 1510.0}}, 0.0, "takes 1.51 ms", id="too slow alone"),
        pytest.param({}, 0.2, "grows by 20%", id="slower by a fifth"),
    ],
)
def test_each_goal_that_is_missed_is_named(listed: dict[str, Any], grows: float, sentence: str) -> None:
    """What the run exits 1 for is said in a sentence with its number; a run at the very limits is good."""
    good = {"list": GOOD, "growth": {GROWTH_IN_TASKS: {LIST: {"median": 0.199}}}}
    assert shortfalls(good) == []
    (said,) = shortfalls({"list": GOOD | listed, "growth": {GROWTH_IN_TASKS: {LIST: {"median": grows}}}})
    assert sentence in said


@pytest.mark.parametrize(
    ("cores", "sentence"),
    [
        pytest.param({"edge-inbound": 0.97, "postgres": 0.5}, "the server, 97% of its core", id="the server"),
        pytest.param({"edge-inbound": 0.5, "postgres": 0.6, LOAD: 0.38}, "the other core, postgres most", id="everybody else"),
        pytest.param({"edge-inbound": 0.2, "postgres": 0.2}, "waiting, the server is busy 20%", id="neither"),
        pytest.param({"edge-inbound": 0.97, OTHERS: 0.5}, "other work on this machine: 0.50", id="a disturbed machine"),
    ],
)
def test_what_bounds_it_is_named(cores: dict[str, float], sentence: str) -> None:
    """The words name what has to become cheaper, or that the machine was not ours alone."""
    assert sentence in bounded_by(dict.fromkeys(INBOUND, 0.0) | cores, "edge-inbound", rest=1)
