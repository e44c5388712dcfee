"""How many enrollments a second, against how many certificates the same step-ca signs when it is asked directly.

    python -m tests.benchmarks.bench_enroll [--rounds 7] [--seconds 5] [--in-flight 8] [--output .bench/enroll.json]

Real processes: step-ca, broker, grants, enrollment, Valkey, PostgreSQL with fsync. Rounds of both kinds alternate, so that whatever
else the machine does falls on both. What is not measured is made before its round: grants, tokens, keys, CSRs and proofs for the
one, CSRs and one-time tokens for the other. Both clients keep as many connections open as they have calls in flight, and what they
cost themselves is said beside the result, since they share the machine.

It exits 1 when an enrollment is slower than RATIO_MIN allows.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import uvloop
from mosaic_cli.dev.embedded import EmbeddedPostgres, EmbeddedValkey
from mosaic_common.identity import CA_BROKER, ENROLLMENT, GRANTS

from tests.benchmarks.loads import Enrollments, Load, Signings
from tests.benchmarks.processor_time import OTHERS, ProcessorTime
from tests.support.gateway import VALKEY_PASSWORDS, Gateway
from tests.support.postgres import PostgresServer
from tests.support.replicas import StepCaAuthority, replicated
from tests.support.stepca import StepCaServer, running_step_ca

RATIO_MIN: Final = 0.5
WARM_UP_OPERATIONS: Final = 200
# A process with one event loop that is busy for this share of the time has no more to give; so has a machine.
BUSY: Final = 0.85
DISTURBED: Final = 0.2
EVENT_LOOPS: Final = (ENROLLMENT, GRANTS, CA_BROKER)


@dataclass(frozen=True, slots=True)
class Round:
    """What one kind of work took.

    Attributes:
        processor_ms: process → milliseconds of processor time per operation.
        cores: process → how many cores it kept busy on average.
    """

    operations: int
    per_second: float
    processor_ms: Mapping[str, float]
    cores: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Bed:
    """What runs."""

    gateway: Gateway
    step_ca: StepCaServer
    processor: ProcessorTime


async def measure(folder: Path, *, rounds: int, seconds: float, in_flight: int) -> dict[str, Any]:
    """Return the document that is written.

    Args:
        folder: empty, on the disk whose fsync counts.
        seconds: about how long one round of one kind takes.
    """
    load_average = os.getloadavg()[0]
    async with _bed(folder) as bed:
        signing, enrolling = await _pair(bed, (WARM_UP_OPERATIONS, WARM_UP_OPERATIONS), in_flight)
        pairs = []
        for _ in range(rounds):
            operations = round(signing.per_second * seconds), round(enrolling.per_second * seconds)
            signing, enrolling = await _pair(bed, operations, in_flight)
            pairs.append((signing, enrolling))
            sys.stderr.write(f"{signing.per_second:.0f} signatures/s, {enrolling.per_second:.0f} enrollments/s\n")
    return {"in_flight": in_flight, "processors": os.cpu_count(), "load_average_before": load_average, **summary(pairs)}


def summary(pairs: Sequence[tuple[Round, Round]]) -> dict[str, Any]:
    """Return medians and spread of (signing, enrolling) rounds."""
    signing, enrolling = zip(*pairs, strict=True)
    ratio = _spread([enrolled.per_second / signed.per_second for signed, enrolled in pairs])
    return {
        "ratio": ratio["median"],
        "ratio_min": RATIO_MIN,
        "ratio_spread": ratio,
        "enrollments_per_second": _spread([each.per_second for each in enrolling]),
        "signatures_per_second": _spread([each.per_second for each in signing]),
        "bounded_by": bounded_by(enrolling),
        "processor_ms_per_enrollment": _medians([each.processor_ms for each in enrolling]),
        "processor_ms_per_signature": _medians([each.processor_ms for each in signing]),
        "rounds": [{"signing": asdict(signed), "enrolling": asdict(enrolled)} for signed, enrolled in pairs],
    }


def bounded_by(rounds: Sequence[Round]) -> str:
    """Return what has to become cheaper for more enrollments, in sentences with their numbers."""
    cores = _medians([each.cores for each in rounds])
    busiest = max(EVENT_LOOPS, key=lambda name: cores[name])
    machine, elsewhere, processors = sum(cores.values()), cores[OTHERS], os.cpu_count() or 1
    busy = f"{machine:.2f} of {processors} processors are busy"
    if cores[busiest] >= BUSY:
        bound = f"{busiest}: its one event loop is busy {cores[busiest]:.0%} of the time."
    elif machine >= BUSY * processors:
        bound = f"the machine: {busy}."
    else:
        bound = f"waiting, for disks and locks: {busy}, {cores[busiest]:.2f} of them with {busiest}."
    costs = sorted(_medians([each.processor_ms for each in rounds]).items(), key=lambda each: -each[1])
    spent = ", ".join(f"{name} {milliseconds:.2f} ms" for name, milliseconds in costs if name != OTHERS)
    disturbed = f" {elsewhere:.2f} processors did other work: measure again without it." if elsewhere >= DISTURBED else ""
    return f"{bound} Processor time per enrollment: {spent}.{disturbed}"


async def _pair(bed: Bed, operations: tuple[int, int], in_flight: int) -> tuple[Round, Round]:
    signings, enrollments = operations
    signing = await _round(bed.processor, Signings(bed.step_ca, signings, in_flight))
    return signing, await _round(bed.processor, Enrollments(bed.gateway, enrollments, in_flight))


async def _round(processor: ProcessorTime, load: Load) -> Round:
    before = processor.read()
    seconds = await load.run()
    spent = processor.since(before)
    return Round(
        operations=load.operations,
        per_second=load.operations / seconds,
        processor_ms={name: each * 1000 / load.operations for name, each in spent.items()},
        cores={name: each / seconds for name, each in spent.items()},
    )


@asynccontextmanager
async def _bed(folder: Path) -> AsyncIterator[Bed]:
    """One gateway, as a deployment runs it."""
    async with AsyncExitStack() as stack:
        postgres = stack.enter_context(EmbeddedPostgres(folder / "postgres", durable=True))
        valkey = stack.enter_context(EmbeddedValkey(folder / "valkey", passwords=VALKEY_PASSWORDS))
        step_ca = stack.enter_context(running_step_ca(folder / "step-ca"))
        database = stack.enter_context(PostgresServer(postgres).fresh())
        gateway = Gateway("work", folder, database, valkey)
        gateway.prepare()
        services = await stack.enter_async_context(replicated(gateway, replicas=1, authority=StepCaAuthority(step_ca)))
        pids = {each.identity: each.popen.pid for each in services}
        servers = {"postgres": postgres.pid, "valkey": valkey.pid, "step-ca": step_ca.pid}
        yield Bed(gateway, step_ca, ProcessorTime(pids | {name: pid for name, pid in servers.items() if pid is not None}))


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": round(statistics.median(values), 3), "min": round(min(values), 3), "max": round(max(values), 3)}


def _medians(measured: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: round(statistics.median(each[name] for each in measured), 3) for name in measured[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description="enrollments per second against the raw /sign rate of the same step-ca")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=5.0, help="about how long one round of one kind takes")
    parser.add_argument("--in-flight", type=int, default=8)
    parser.add_argument("--output", type=Path, default=Path(".bench", "enroll.json"))
    options = parser.parse_args()
    output: Path = options.output.absolute()
    output.parent.mkdir(parents=True, exist_ok=True)
    # Beside the result and not in /tmp, which may be memory: there an fsync costs nothing.
    with (
        tempfile.TemporaryDirectory(prefix="bed-", dir=output.parent) as folder,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        measuring = measure(Path(folder), rounds=options.rounds, seconds=options.seconds, in_flight=options.in_flight)
        found = runner.run(measuring)
    output.write_text(json.dumps(found, indent=2) + "\n")
    told = {name: value for name, value in found.items() if name != "rounds"}
    sys.stdout.write(json.dumps(told, indent=2) + "\n")
    if found["ratio"] < RATIO_MIN:
        sys.exit(1)


if __name__ == "__main__":
    main()
