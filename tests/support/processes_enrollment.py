"""One `peer add` at home for a grant of work, on the bed of tests/support/processes.py, and what holds whatever happens to it.

async with Enrollment.offered(bed) as enrollment:
    run = enrollment.start()
    …
    await enrollment.run_until_finished(run)
    await enrollment.verify()
"""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import uuid4

import grpc
from mosaic_common.tokens import EnrollmentUrl

from tests.support.gateway import Gateway
from tests.support.offers import Offer
from tests.support.processes import Bed, CommandRun

MAX_RUNS: Final = 3
LISTED_SECONDS: Final = 60.0
# The command's own pause between two tries is 2 s; what is longer is a lease.
LONGEST_PAUSE_SECONDS: Final = 5.0
LEASE_SECONDS: Final = 120.0
# What the command says of somebody who does not answer, or does not answer in time.
AWAY: Final = frozenset({"UNREACHABLE", "DEPENDENCY_UNAVAILABLE", "DEADLINE_EXCEEDED", "CA_UNREACHABLE"})

_SAID: Final = re.compile(r"^✗ (?P<reason>[A-Z_]+)  (?P<sentence>.+)$", re.MULTILINE)
_REMEDY: Final = re.compile(r"^  → (?P<remedy>.+)$", re.MULTILINE)


@dataclass(slots=True)
class Enrollment:
    """One user of home who is to be connected to a grant of work.

    Attributes:
        name: of the connection.
        drawn: every serial that an attempt wanted, as far as anybody but grants has seen it, or its row shows it.
        leases: the seconds that the command was told to wait, each time, for the lease of an attempt that died.
    """

    bed: Bed
    client: Gateway
    offer: Offer
    name: str
    drawn: set[int] = field(default_factory=set)
    leases: list[float] = field(default_factory=list)
    runs: int = 0
    restored: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    @asynccontextmanager
    async def offered(cls, bed: Bed) -> AsyncIterator["Enrollment"]:
        await bed.be_healthy()
        client = bed.new_client()
        try:
            enrollment = cls(bed, client, await Offer.make(client), f"to-{uuid4().hex}")
            bed.steps.wait = enrollment.wait
            yield enrollment
        finally:
            await client.close()

    def start(self, url: EnrollmentUrl | None = None) -> CommandRun:
        """Run the command, the same each time."""
        self.runs += 1
        arguments = ["federation", "peer", "add", "--user", str(self.bed.home_user), "--name", self.name]
        return self.bed.run(f"{self.name}.{self.runs}", arguments, typed=(url or self.offer.url).format())

    async def run_until_finished(self, run: CommandRun) -> int:
        """Repeat the command until it succeeds; return how often. Each failure names who is away, and a remedy."""
        repeated = 0
        while not await run.succeeded():
            if not run.killed:
                reason, remedy = self.refused(run)
                assert reason in AWAY, run.said
                assert remedy, run.said
            repeated += 1
            assert repeated < MAX_RUNS, run.said
            self.verify_whole()
            run = self.start()
        return repeated

    def refused(self, run: CommandRun) -> tuple[str, str]:
        """Reason and remedy that a failed run gave."""
        said, remedy = _SAID.search(run.said), _REMEDY.search(run.said)
        assert said, run.said
        return said["reason"], remedy["remedy"] if remedy else ""

    async def wait(self, seconds: float) -> None:
        """Whatever the command waits for comes: who was killed is back, or the lease of the attempt that died runs out."""
        await self.restored.wait()
        if seconds > LONGEST_PAUSE_SECONDS:
            self.leases.append(seconds)
            self.let_the_lease_run_out()

    def let_the_lease_run_out(self) -> None:
        self.note_drawn()
        self.client.execute(
            """UPDATE federation.federation_enrollment_tokens SET lease_until = now()
               WHERE token_id = %s AND lease_until > now()""",
            self.offer.token_id,
        )

    def let_the_token_run_out(self) -> None:
        self.note_drawn()
        self.client.execute(
            """UPDATE federation.federation_enrollment_tokens
               SET expires_at = now(), lease_until = least(lease_until, now()) WHERE token_id = %s""",
            self.offer.token_id,
        )

    def note_drawn(self) -> None:
        rows = self.client.rows(
            "SELECT serial FROM federation.federation_enrollment_tokens WHERE grant_id = %s AND serial IS NOT NULL",
            self.offer.grant_id,
        )
        self.drawn |= self.bed.steps.ordered[self.offer.grant_id] | {int(serial) for (serial,) in rows}

    def certificates(self) -> dict[str, list[tuple[int, bytes]]]:
        """State → serial and fingerprint of what is pinned for the grant."""
        pinned: dict[str, list[tuple[int, bytes]]] = {}
        for state, serial, fingerprint in self.client.rows(
            "SELECT state, serial, fingerprint_sha256 FROM federation.federation_certificates WHERE grant_id = %s",
            self.offer.grant_id,
        ):
            pinned.setdefault(state, []).append((int(serial), bytes(fingerprint)))
        return pinned

    def connected(self) -> list[tuple[Any, ...]]:
        """State of home's connection, and fingerprints of its keys that have a certificate."""
        return self.bed.home.rows(
            """SELECT p.state, k.state, k.fingerprint_sha256 FROM federation.federation_peers p
               JOIN federation.federation_peer_keys k ON k.peer_id = p.id WHERE p.name = %s""",
            self.name,
        )

    def verify_whole(self) -> None:
        """What holds at every moment: a grant is active exactly when a certificate of it is, and no token has got two."""
        [(active, live, recorded, completed)] = self.client.rows(
            """SELECT g.status = 'active',
                      (SELECT count(*) FROM federation.federation_certificates c WHERE c.grant_id = g.id AND c.state = 'active'),
                      (SELECT count(*) FROM federation.federation_certificates c WHERE c.grant_id = g.id),
                      (SELECT count(*) FROM federation.federation_enrollment_tokens t
                       WHERE t.grant_id = g.id AND t.fingerprint_sha256 IS NOT NULL)
               FROM federation.federation_grants g WHERE g.id = %s""",
            self.offer.grant_id,
        )
        assert live == (1 if active else 0)
        assert recorded == completed

    async def verify(self, *, replaced: int = 0) -> None:
        """Both sides hold the same one certificate, and the authority lists every other serial that was drawn.

        Args:
            replaced: certificates of earlier tokens that were recorded and are revoked.
        """
        await self.bed.be_healthy()
        self.verify_whole()
        assert self.offer.standing()[:2] == ("active", "active")
        pinned = self.certificates()
        [(serial, fingerprint)] = pinned.pop("active")
        assert [(state, len(each)) for state, each in pinned.items()] == ([("revoked", replaced)] if replaced else [])
        assert self.connected() == [("active", "active", fingerprint)]
        assert self.events().count("enrollment.completed") == 1 + replaced
        assert all(seconds <= LEASE_SECONDS for seconds in self.leases)
        self.note_drawn()
        assert len(self.drawn) > len(self.leases)
        await self.all_listed(but=frozenset({serial}))

    def events(self) -> list[str]:
        """What was recorded of the grant, oldest first."""
        rows = self.client.rows(
            "SELECT event FROM federation.federation_audit_log WHERE grant_id = %s ORDER BY time_us", self.offer.grant_id
        )
        return [event for (event,) in rows]

    async def all_listed(self, *, but: frozenset[int] = frozenset()) -> None:
        """Return once the authority's list shows every serial that was drawn, and nothing is owed any more."""
        async with asyncio.timeout(LISTED_SECONDS):
            while not await self._is_all_listed(but):
                await asyncio.sleep(0.1)

    async def _is_all_listed(self, but: frozenset[int]) -> bool:
        try:
            published = (await self.bed.revocation_list()).serials
        except grpc.aio.AioRpcError:
            return False  # whoever was killed has only just come back
        assert not but & published
        owed = self.client.rows(
            "SELECT serial FROM federation.federation_ca_outbox WHERE grant_id = %s AND done_at IS NULL", self.offer.grant_id
        )
        return self.drawn - but <= published and not owed
