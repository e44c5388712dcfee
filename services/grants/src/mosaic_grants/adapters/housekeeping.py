"""What grants does by itself, every second: countersign heads, and owe the CA what nobody will finish."""

import asyncio
from typing import Final

from mosaic_common.db.version import SCHEMA_VERSION
from mosaic_common.errors import ConfigurationError, MosaicError
from mosaic_common.log import logger

from mosaic_grants.adapters.store import PostgresLedger

INTERVAL_SECONDS: Final = 1.0


class Housekeeping:
    """Runs as long as the process; a database that does not answer is asked again."""

    def __init__(self, ledger: PostgresLedger) -> None:
        self._ledger: Final = ledger
        self._checked = False
        self._log: Final = logger("housekeeping")

    async def run(self) -> None:
        """Work, for ever.

        Raises:
            ConfigurationError: the schema is another release's; ends the process.
        """
        while True:
            try:
                if not self._checked:
                    await self._verify_schema()
                    self._checked = True
                await self._countersign()
                async with self._ledger.transaction() as tx:
                    await tx.owe_unfinished()
            except MosaicError as error:
                self._log.warning("not_done", cause=error.message)
            await asyncio.sleep(INTERVAL_SECONDS)

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
