"""What a complete read costs, against a server that does nothing but build the same answer.

    python -m tests.benchmarks.bench_reads [--rounds 5] [--seconds 3] [--small] [--build-only] [--output FILE] [--plot FILE]

Real processes, mTLS, PostgreSQL with fsync, asked by its Unix socket as where it shares the machine (one variant asks by TCP). The
server that is measured has a core of its own; PostgreSQL, Valkey, the grants
service and the client share the others, and gateways that are not asked stand still. Rounds alternate between all variants, so
that whatever else the machine does falls on each of them; calls per second suffer from it all the same, processor time per call
less so, and both are said. Databases are built once, beside the output, and kept.

It exits 1 when the list is slower than spec and issue allow; --small judges nothing, it is for machines that are busy otherwise.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvloop
from mosaic_cli.dev.embedded import EmbeddedPostgres, EmbeddedValkey
from mosaic_cli.dev.ports import choose_free_ports
from mosaic_common.clock import SystemClock
from mosaic_common.identity import EDGE_INBOUND, EDGE_OUTBOUND

from tests.benchmarks.reads.callers import Caller, make_callers
from tests.benchmarks.reads.cores import Cores, pin
from tests.benchmarks.reads.dataset import Dataset, DiskTooSmall, build, tuned
from tests.benchmarks.reads.load import LoadFailed, LoadMissing, Round, find_binary
from tests.benchmarks.reads.plot import draw
from tests.benchmarks.reads.report import growth, ratios, shortfalls, spread, summary, table
from tests.benchmarks.reads.sites import Home, Site, bare_server, querying_home, serving_site
from tests.benchmarks.reads.standstill import Standstill
from tests.benchmarks.reads.variants import (
    GET,
    LIST,
    SEARCH,
    Variant,
    bare_variant,
    inbound_variants,
    list_by_tcp,
    on_one_connection,
    outbound_variant,
)
from tests.support.authorities import LyingAuthority
from tests.support.gateway import VALKEY_PASSWORDS, Gateway
from tests.support.postgres import Database

IN_FLIGHT: Final = (1, 16, 64)
PEERS: Final = tuple(Dataset(10_000, 10, label=name) for name in ("anna", "ben", "cleo"))
HOME: Final = Dataset(10_000, 10, label="home")
POSTGRES: Final = "postgres"
VALKEY: Final = "valkey"
# What is read of every size; embeddings are on the base only.
SIZED: Final = frozenset({LIST, GET, SEARCH})
GROWTH_IN_TASKS: Final = "from the fewest to the most tasks"
GROWTH_IN_GRANTS: Final = "from the fewest to the most grants"


@dataclass(frozen=True, slots=True)
class Plan:
    """Which databases are read, and how long.

    Attributes:
        base: what everything but the growth is measured on; part of both others.
        by_tasks, by_grants: ascending.
    """

    base: Dataset
    by_tasks: Sequence[Dataset]
    by_grants: Sequence[Dataset]
    peers: Sequence[Dataset]
    home: Dataset
    rounds: int
    seconds: float
    warm_up_seconds: float

    @property
    def sizes(self) -> list[Dataset]:
        """Every database that is read inbound, once."""
        return list(dict.fromkeys([*self.by_tasks, *self.by_grants]))


def full_plan(rounds: int, seconds: float) -> Plan:
    base = Dataset(100_000, 1000, memories=100_000)
    return Plan(
        base=base,
        by_tasks=(base, Dataset(1_000_000, 1000), Dataset(10_000_000, 1000)),
        by_grants=(Dataset(100_000, 10), base, Dataset(100_000, 100_000)),
        peers=PEERS,
        home=HOME,
        rounds=rounds,
        seconds=seconds,
        warm_up_seconds=0.7,
    )


def small_plan(rounds: int, seconds: float) -> Plan:
    """Everything, in a minute."""
    base = Dataset(10_000, 100, memories=1000)
    more = Dataset(20_000, 1000)
    return Plan(base, (base, more), (base, more), PEERS, HOME, rounds, seconds, warm_up_seconds=0.2)


@dataclass(frozen=True, slots=True)
class Bed:
    """What runs.

    Attributes:
        variants: by name, on the base.
        sized: dataset → variants on it.
        standstill: of the gateways.
    """

    variants: Mapping[str, Variant]
    sized: Mapping[Dataset, Mapping[str, Variant]]
    standstill: Standstill
    cores: Cores


def build_all(postgres: EmbeddedPostgres, plan: Plan, kept: Path) -> dict[Dataset, Database]:
    """Return every database of the plan, built where it is not there yet."""
    tuned(postgres)
    return {dataset: build(postgres, kept, dataset) for dataset in [*plan.sizes, *plan.peers, plan.home]}


async def measure(plan: Plan, kept: Path, folder: Path) -> dict[str, Any]:
    """Return the document that is written.

    Args:
        kept: where the databases are, or will be.
        folder: empty, for everything else.
    """
    load_average = os.getloadavg()[0]
    async with _bed(plan, kept, folder) as bed:
        measured: dict[str, dict[int, list[Round]]] = defaultdict(lambda: defaultdict(list))
        sized: dict[Dataset, dict[str, list[Round]]] = defaultdict(lambda: defaultdict(list))
        for number in range(plan.rounds):
            for in_flight in IN_FLIGHT:
                for name, variant in bed.variants.items():
                    bed.standstill.but_for(variant.processes.values())
                    done = variant.measure(in_flight, plan.seconds, plan.warm_up_seconds)
                    measured[name][in_flight].append(done)
                    _tell(number, f"{name}, {in_flight} in flight", done)
            for dataset, variants in bed.sized.items():
                for name, variant in variants.items():
                    bed.standstill.but_for(variant.processes.values())
                    done = variant.measure(1, plan.seconds, plan.warm_up_seconds)
                    sized[dataset][name].append(done)
                    _tell(number, f"{name}, {dataset.tasks:,} tasks, {dataset.grants:,} grants", done)
    return {
        "processors": os.cpu_count(),
        "server_cores": sorted(bed.cores.server),
        "other_cores": sorted(bed.cores.rest),
        "python": sys.version,
        "load_average_before": load_average,
        "list": ratios(measured),
        "variants": summary(measured, {name: each.server for name, each in bed.variants.items()}, len(bed.cores.rest)),
        "sizes": {name: _by_size(sized, name) for name in sized[plan.base]},
        "growth": {
            GROWTH_IN_TASKS: growth(sized, plan.by_tasks[0], plan.by_tasks[-1]),
            GROWTH_IN_GRANTS: growth(sized, plan.by_grants[0], plan.by_grants[-1]),
        },
    }


def _by_size(sized: Mapping[Dataset, Mapping[str, Sequence[Round]]], name: str) -> list[dict[str, Any]]:
    return [
        {
            "tasks": dataset.tasks,
            "grants": dataset.grants,
            "p50_us": spread([each.p50_us for each in rounds[name]]),
            "p99_us": spread([each.p99_us for each in rounds[name]]),
        }
        for dataset, rounds in sized.items()
        if name in rounds
    ]


def _tell(number: int, what: str, done: Round) -> None:
    sys.stderr.write(f"round {number + 1}: {what}: {done.per_second:.0f}/s, p50 {done.p50_us / 1000:.2f} ms\n")


@asynccontextmanager
async def _bed(plan: Plan, kept: Path, folder: Path) -> AsyncIterator[Bed]:
    """Every gateway at once; those that are not asked stand still."""
    async with AsyncExitStack() as stack:
        # A folder with a short name, since the kernel takes no long one.
        sockets = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        postgres = stack.enter_context(EmbeddedPostgres(kept / POSTGRES, durable=True, socket_folder=sockets))
        by_tcp = build_all(postgres, plan, kept)
        databases = {each: Database(each.name, postgres.socket_url_of(each.name)) for each in by_tcp}

        # From here on: what is built uses every core, what is measured does not.
        cores = Cores.divided()
        pin(os.getpid(), cores.rest)
        assert postgres.pid is not None
        pin(postgres.pid, cores.rest)
        valkey = stack.enter_context(EmbeddedValkey(folder / VALKEY, passwords=VALKEY_PASSWORDS))
        assert valkey.pid is not None
        shared = {POSTGRES: postgres.pid, VALKEY: valkey.pid}
        authority = LyingAuthority.make(SystemClock().now())
        callers = make_callers(authority)

        def gateway(name: str, database: Database) -> Gateway:
            own = Path(tempfile.mkdtemp(prefix=f"{database.name}-", dir=folder))
            return Gateway(name, own, database, valkey)

        async def site(name: str, database: Database, own_callers: Sequence[Caller]) -> Site:
            return await stack.enter_async_context(serving_site(gateway(name, database), authority, own_callers, cores))

        sites = {dataset: await site("work", databases[dataset], callers) for dataset in plan.sizes}
        inbound = {dataset: await inbound_variants(each, EDGE_INBOUND, {**shared, **each.pids}) for dataset, each in sites.items()}
        sized = {dataset: {name: each for name, each in found.items() if name in SIZED} for dataset, found in inbound.items()}
        base = sites[plan.base]
        variants = inbound[plan.base]
        answer = await base.client(callers[0]).list("tasks", page_size=50)
        address = f"127.0.0.1:{choose_free_ports(1)[0]}"
        bare = bare_variant(variants[LIST], address, stack.enter_context(bare_server(base, answer, address, cores)))
        one = on_one_connection(variants[LIST])
        distant = await site("work", by_tcp[plan.base], callers)
        tcp = await list_by_tcp(distant, EDGE_INBOUND, {**shared, **distant.pids})
        asked = [await site(dataset.label, databases[dataset], ()) for dataset in plan.peers]
        at_home = gateway("home", databases[plan.home])
        home: Home = await stack.enter_async_context(querying_home(at_home, authority, asked, cores))
        theirs = {f"{each.gateway.name} {name}": pid for each in asked for name, pid in each.pids.items()}
        out = outbound_variant(home, EDGE_OUTBOUND, {**shared, **home.pids, **theirs})
        gateways = [pid for each in (*sites.values(), distant, *asked) for pid in each.pids.values()]
        standstill = stack.enter_context(Standstill([*gateways, *home.pids.values()]))
        yield Bed({each.name: each for each in (bare, *variants.values(), one, tcp, out)}, sized, standstill, cores)


def main() -> None:
    parser = argparse.ArgumentParser(description="complete reads against a bare server that builds the same answer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each variant is measured in each round")
    parser.add_argument("--small", action="store_true", help="ten thousand rows, nothing judged")
    parser.add_argument("--build-only", action="store_true", help="the databases, and nothing measured")
    parser.add_argument("--plot", type=Path, help="where to draw it (PNG)")
    parser.add_argument("--output", type=Path, default=Path(".bench", "reads.json"))
    options = parser.parse_args()
    output: Path = options.output.absolute()
    kept = output.parent / output.stem
    kept.mkdir(parents=True, exist_ok=True)
    plan = (small_plan if options.small else full_plan)(options.rounds, options.seconds)
    try:
        if options.build_only:
            with EmbeddedPostgres(kept / POSTGRES, durable=True) as postgres:
                build_all(postgres, plan, kept)
            return
        find_binary()
        with (
            tempfile.TemporaryDirectory(prefix="bed-", dir=output.parent) as folder,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            found = runner.run(measure(plan, kept, Path(folder)))
    except (DiskTooSmall, LoadMissing, LoadFailed) as error:
        sys.exit(str(error))
    output.write_text(json.dumps(found, indent=2) + "\n")
    sys.stdout.write(table(found) + "\n")
    if options.plot:
        draw(found, options.plot)
    if not options.small and (said := shortfalls(found)):
        sys.exit("\n".join(said))


if __name__ == "__main__":
    main()
