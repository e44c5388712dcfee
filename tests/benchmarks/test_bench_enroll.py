"""The benchmark runs, and what it writes is whole. How fast we are is judged on a machine that does nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.benchmarks.bench_enroll import RATIO_MIN, Round, bounded_by, summary
from tests.benchmarks.processor_time import CLIENT, OTHERS

pytestmark = pytest.mark.alone

PROCESSES: Final = {"step-ca", "ca-broker", "grants", "enrollment", "postgres", "valkey", CLIENT, OTHERS}
ROUNDS: Final = 2
MINUTE: Final = 60.0


@pytest.mark.stepca
def test_the_benchmark_writes_a_whole_document(tmp_path: Path) -> None:
    """A short run measures both kinds of work in turns on real processes, says who spent what, and exits by the ratio it wrote."""
    output = tmp_path / "bench" / "enroll.json"
    command = [sys.executable, "-m", "tests.benchmarks.bench_enroll", "--rounds", str(ROUNDS), "--seconds", "1.5"]
    done = subprocess.run([*command, "--output", str(output)], capture_output=True, text=True, timeout=2 * MINUTE, check=False)

    assert output.exists(), done.stderr
    found = json.loads(output.read_text())
    assert done.returncode == (0 if found["ratio"] >= RATIO_MIN else 1), done.stderr
    assert found["ratio_min"] == RATIO_MIN
    for name in ("ratio_spread", "enrollments_per_second", "signatures_per_second"):
        spread = found[name]
        assert 0 < spread["min"] <= spread["median"] <= spread["max"], name
    assert found["ratio"] == found["ratio_spread"]["median"]
    assert any(name in found["bounded_by"] for name in PROCESSES)
    assert len(found["rounds"]) == ROUNDS
    for pair in found["rounds"]:
        for kind in ("signing", "enrolling"):
            assert pair[kind]["operations"] > 0
            assert pair[kind]["processor_ms"].keys() == pair[kind]["cores"].keys() == PROCESSES
        # What does nothing while certificates are signed directly works while they are enrolled for.
        for service in ("ca-broker", "grants", "enrollment"):
            assert pair["enrolling"]["processor_ms"][service] > pair["signing"]["processor_ms"][service], service


def a_round(per_second: float, **cores: float) -> Round:
    busy = dict.fromkeys(sorted(PROCESSES), 0.0) | {name.replace("_", "-"): share for name, share in cores.items()}
    return Round(100, per_second, {name: share * 1000 / per_second for name, share in busy.items()}, busy)


def test_the_ratio_is_of_rounds_that_were_neighbours() -> None:
    """Both rates fall when the machine is busy elsewhere, so each enrolling round is compared with the signing one beside it."""
    found = summary([(a_round(600), a_round(300)), (a_round(200), a_round(120)), (a_round(500), a_round(200))])
    assert found["ratio_spread"] == {"median": 0.5, "min": 0.4, "max": 0.6}
    assert found["enrollments_per_second"]["median"] == 200


@pytest.mark.parametrize(
    ("rounds", "sentence"),
    [
        pytest.param([a_round(200, grants=0.97, step_ca=0.2)], "grants: its one event loop is busy 97%", id="one event loop"),
        pytest.param([a_round(200, grants=0.5, step_ca=float(os.cpu_count() or 1))], "the machine: ", id="every processor"),
        pytest.param([a_round(200, grants=0.1, step_ca=0.1)], "waiting, for disks and locks: ", id="neither"),
    ],
)
def test_what_bounds_it_is_named(rounds: list[Round], sentence: str) -> None:
    """The sentence names what has to become cheaper, with its numbers."""
    assert bounded_by(rounds).startswith(sentence)
