"""The serving side of one gateway, its servers, grants and two inbound edges processes: to be killed while they answer.

    async with reading_side(folder) as side:
        reader = await side.reader(asks="once")
        with running_readers([reader], side.lifeline, side.folder) as [record]:
            await side.kill(Part.POSTGRES)
            await side.restore(Part.POSTGRES)

Made of the parts of tests/support/processes.py. Who signs is there only while somebody enrolls.
"""

import asyncio
import contextlib
import itertools
import json
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from mosaic.grants.v1 import types_pb2
from mosaic_cli.dev.embedded import EmbeddedPostgres, EmbeddedValkey
from mosaic_cli.dev.ports import choose_free_ports
from mosaic_cli.dev.processes import Command, Lifeline, run
from mosaic_common.identity import CA_BROKER, EDGE_INBOUND, ENROLLMENT, GRANTS, OPERATOR, dns_name

from tests.support.gateway import VALKEY_PASSWORDS, Gateway
from tests.support.processes import COMMAND_SECONDS, HEALTHY_SECONDS, Server, Service, Unit, migrated, serves, write_contexts
from tests.support.readers import ABSENT_EVERY, Reader, row_id
from tests.support.rows import Rows

EDGE_DEPENDENCIES: Final = (GRANTS, "postgres", "valkey")


class Part(StrEnum):
    """What can be killed."""

    POSTGRES = "postgres"
    VALKEY = "valkey"
    GRANTS = GRANTS
    EDGE = EDGE_INBOUND
    OTHER_EDGE = f"other-{EDGE_INBOUND}"


EDGES: Final = (Part.EDGE, Part.OTHER_EDGE)


@dataclass(frozen=True, slots=True)
class ReadingSide:
    """Attributes:
    at: each edge → a client of the gateway that finds this replica.
    user: whose rows are read.
    """

    folder: Path
    gateway: Gateway
    at: Mapping[Part, Gateway]
    user: UUID
    lifeline: Lifeline
    _units: Mapping[Part, Unit]
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def doors(self) -> tuple[str, ...]:
        return tuple(self.at[each].addresses[EDGE_INBOUND, "public"] for each in EDGES)

    def log_of(self, part: Part) -> Path:
        """What a service has said in all its lives; of grants, the witness outside the database."""
        return self.gateway.folder / "logs" / f"{part}.log"

    async def kill(self, *parts: Part) -> None:
        for part in parts:
            await asyncio.to_thread(self._units[part].kill)

    async def restore(self, *parts: Part) -> None:
        await asyncio.gather(*(asyncio.to_thread(self._units[part].start) for part in parts))

    async def be_ready(self) -> None:
        """Return once grants serves, and both edges reach all that they need."""
        async with asyncio.timeout(HEALTHY_SECONDS):
            await serves(self.gateway, GRANTS, ("postgres",))
            await asyncio.gather(*(serves(self.at[each], EDGE_INBOUND, EDGE_DEPENDENCIES) for each in EDGES))

    async def reader(self, *, limit: types_pb2.RateLimit | None = None, rows: int = 0, **manner: Any) -> Reader:
        """A client with a grant and a peer of its own, and with rows of its own, under the first so many of its ids."""
        number = next(self._numbers)
        scope = {"resources": ["tasks"], "max_rows_per_query": 500}
        further = {} if limit is None else {"limit": limit}
        grant_id = await self.gateway.create_grant(user=str(self.user), peer=f"peer-{number}", scope=scope, **further)
        peer = self.gateway.peer_client(await self.gateway.redeem(await self.gateway.create_token(grant_id)))
        reader = Reader(
            number=number,
            grant_id=grant_id,
            doors=self.doors,
            server_name=dns_name(EDGE_INBOUND, self.gateway.name),
            root=self.gateway.service_root.decode(),
            key=peer.key.decode(),
            chain=peer.chain.decode(),
            **manner,
        )
        self._write_rows(number, rows)
        return reader

    def another(self, reader: Reader) -> Reader:
        """The same client once more, with a record of its own."""
        return replace(reader, number=next(self._numbers))

    def export(self) -> list[dict[str, Any]]:
        """The record of the gateway, verified by its public key alone and against the witness; its lines.

        Raises:
            ProcessFailed: it does not hold; says where.
        """
        number = next(self._numbers)
        file, said = self.folder / f"export-{number}.ndjson", self.folder / f"verified-{number}.json"
        self._federation("audit", "export", "--out", str(file), said=self.folder / f"exported-{number}.json")
        key = self.gateway.pki / OPERATOR / "audit.pub"
        witness = ("--witness", str(self.log_of(Part.GRANTS)))
        self._federation("audit", "verify", str(file), "--key", str(key), *witness, "--output", "json", said=said)
        verified = json.loads(said.read_text())
        assert verified["unsealed_rows"] == 0, f"nothing was written for a round: {verified['unsealed']}"
        assert verified["witness"]["held"] > 0
        return [json.loads(line) for line in file.read_bytes().splitlines()]

    async def be_countersigned(self) -> None:
        """Return once every row is, when nobody reads any more."""
        ahead = """SELECT count(*) FROM federation.federation_audit_chains c
                   WHERE c.head_seq > (SELECT coalesce(max(seq), 0) FROM federation.federation_audit_heads h
                                       WHERE h.chain_id = c.chain_id)"""
        async with asyncio.timeout(HEALTHY_SECONDS):
            while self.gateway.rows(ahead) != [(0,)]:
                await asyncio.sleep(0.05)

    def _federation(self, *arguments: str, said: Path) -> None:
        environment = {"MOSAIC_CONTEXTS": str(self.gateway.folder / "contexts.json")}
        argv = [sys.executable, "-P", "-m", "mosaic_cli", "federation", *arguments]
        run(Command("mosaic", argv, said, self.folder, environment), self.lifeline, timeout_seconds=COMMAND_SECONDS)

    def _write_rows(self, reader: int, rows: int) -> None:
        self.gateway.execute(
            """INSERT INTO public.tasks (id, owner_id, title, description, status, updated_at)
               SELECT overlay(%s::text PLACING lpad(to_hex(n), 12, '0') FROM 25)::uuid, %s, 'A task', '', 'open', now()
                  FROM generate_series(0, %s - 1) n WHERE mod(n, %s) > 0""",
            str(row_id(reader, 0)),
            self.user,
            rows,
            ABSENT_EVERY,
        )


@contextlib.asynccontextmanager
async def reading_side(folder: Path) -> AsyncIterator[ReadingSide]:
    """Everything runs and is sure of each other, and whoever enrolls can; nothing is left of it afterwards."""
    with contextlib.ExitStack() as stack:
        lifeline = stack.enter_context(Lifeline())
        (folder / "work").mkdir()
        postgres = stack.enter_context(EmbeddedPostgres(folder / "work" / "postgres", lifeline=lifeline))
        valkey = stack.enter_context(EmbeddedValkey(folder / "work" / "valkey", passwords=VALKEY_PASSWORDS, lifeline=lifeline))
        gateway = Gateway("work", folder / "work", migrated(postgres), valkey)
        gateway.prepare()
        write_contexts(gateway)
        at = {Part.EDGE: gateway, Part.OTHER_EDGE: _another_edge(gateway)}
        units: dict[Part, Unit] = {Part.POSTGRES: Server(postgres), Part.VALKEY: Server(valkey)}
        units[Part.GRANTS] = Service(_service(gateway, Part.GRANTS, "mosaic_grants", "serve"), lifeline)
        edge = ("mosaic_federation_edge", "serve", "--role", "inbound")
        units |= {each: Service(_service(at[each], each, *edge), lifeline) for each in EDGES}
        with gateway.database.connect() as owner:
            user = Rows(owner).user()
        side = ReadingSide(folder, gateway, at, user, lifeline, units)
        await side.restore(Part.GRANTS, *EDGES)
        try:
            await serves(gateway, GRANTS, ("postgres",))
            await gateway.start(CA_BROKER, ENROLLMENT)
            await side.be_ready()
            yield side
        finally:
            await gateway.close()


def _another_edge(gateway: Gateway) -> Gateway:
    public, internal = (f"127.0.0.1:{port}" for port in choose_free_ports(2))
    own = {(EDGE_INBOUND, "public"): public, (EDGE_INBOUND, "internal"): internal}
    return replace(gateway, addresses=gateway.addresses | own, apps={}, _channels=[])


def _service(gateway: Gateway, part: Part, module: str, *arguments: str) -> Callable[[], Command]:
    identity = GRANTS if part is Part.GRANTS else EDGE_INBOUND

    def command() -> Command:
        argv = [sys.executable, "-P", "-m", module, *arguments]
        return Command(part, argv, gateway.folder / "logs" / f"{part}.log", gateway.folder, gateway.environment(identity))

    return command
