"""What grants does by itself: countersign heads, end what is over, keep the authority in step."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from mosaic_common.db.version import SCHEMA_VERSION
from mosaic_common.errors import ConfigurationError, MosaicError
from mosaic_common.log import logger

from mosaic_grants.adapters.ledger.database import PostgresLedger
from mosaic_grants.domain.revocations import Revocations
from mosaic_grants.domain.sealing import Presence
from mosaic_grants.domain.sweeps import Sweeps


@dataclass(frozen=True, slots=True)
class Intervals:
    """Seconds between two runs. Tests make them shorter."""

    countersign: float = 1.0
    close_months: float = 3600.0
    sweep: float = 5.0
    tell: float = 1.0
    compare: float = 30.0
    announce: float = 5.0


class Housekeeping:
    """Runs as long as the process; what does not answer is asked again."""

    def __init__(
        self,
        ledger: PostgresLedger,
        presence: Presence,
        sweeps: Sweeps,
        revocations: Revocations,
        intervals: Intervals = Intervals(),
    ) -> None:
        self._ledger: Final = ledger
        self._presence: Final = presence
        self._sweeps: Final = sweeps
        self._revocations: Final = revocations
        self._intervals: Final = intervals
        self._compare_now: Final = asyncio.Event()
        self._log: Final = logger("housekeeping")

    async def run(self) -> None:
        """Work, for ever.

        Raises:
            ConfigurationError: the schema is another release's, or the sealing secret another gateway's; ends the process.
        """
        while not await self._done("schema", self._verify_schema):
            await asyncio.sleep(self._intervals.countersign)
        while not await self._done("announce", self._presence.begin):
            await asyncio.sleep(self._intervals.countersign)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._every(self._intervals.countersign, "countersign", self._countersign))
            tasks.create_task(self._every(self._intervals.close_months, "close_months", self._close_months))
            tasks.create_task(self._every(self._intervals.sweep, "sweep", self._sweeps.run_once))
            tasks.create_task(self._every(self._intervals.tell, "tell", self._tell))
            tasks.create_task(self._every(self._intervals.announce, "announce", self._presence.announce))
            tasks.create_task(self._compare_for_ever())

    async def _every(self, seconds: float, what: str, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await self._done(what, work)
            await asyncio.sleep(seconds)

    async def _compare_for_ever(self) -> None:
        while True:
            await self._done("compare", self._revocations.compare)
            # What was just told is on the list now: it is settled at once, not half a minute later.
            with suppress(TimeoutError):
                await asyncio.wait_for(self._compare_now.wait(), self._intervals.compare)
            self._compare_now.clear()

    async def _tell(self) -> None:
        if await self._revocations.tell():
            self._compare_now.set()

    async def _done(self, what: str, work: Callable[[], Awaitable[None]]) -> bool:
        try:
            await work()
        except MosaicError as error:
            self._log.warning("not_done", what=what, reason=error.reason, cause=error.message)
            return False
        return True

    async def _countersign(self) -> None:
        """Sign heads in the database, and write them to the log, where whoever rewrites the database does not reach."""
        for signed in await self._ledger.countersign():
            head = signed.head
            self._log.info(
                "audit_head",
                chain_id=head.chain_id.hex(),
                chain_number=head.chain_number,
                seq=head.seq,
                hash=head.hash.hex(),
                time_us=head.time_us,
                signature=signed.signature.hex(),
            )

    async def _close_months(self) -> None:
        for end in await self._ledger.close_months():
            self._log.info("audit_month_end", chain_number=end.chain_number, seq=end.seq, ends_us=end.ends_us)

    async def _verify_schema(self) -> None:
        """Name what is missing while somebody looks at the start, not at the first read that fails."""
        found = await self._ledger.find_schema_version()
        if found != SCHEMA_VERSION:
            stands = f"stands at {found}" if found else "is none that this role may read"
            raise ConfigurationError(
                f"The database's schema {stands}, this release needs {SCHEMA_VERSION}: run `mosaic db upgrade`."
            )
        for missing in await self._ledger.missing():
            self._log.error("application_tables_not_ready", missing=missing.what, statement=missing.statement)
