"""A process whose database has another schema than it was built for ends, and says so."""

import asyncio
from typing import Final

from mosaic_common.errors import MosaicError

from mosaic_federation_edge.adapters.database import Database

WAIT_SECONDS: Final = 0.5
CHECK_SECONDS: Final = 30.0


async def watch_schema(database: Database) -> None:
    """Check as soon as the database answers, and now and then: an upgrade may come while this process runs.

    Raises:
        ConfigurationError: the schema is another one.
    """
    while True:
        try:
            await database.verify_schema()
        except MosaicError:
            await asyncio.sleep(WAIT_SECONDS)
        else:
            await asyncio.sleep(CHECK_SECONDS)
