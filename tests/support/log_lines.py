"""Lines of the log, which are written a moment after what they tell of."""

import asyncio

from mosaic_common.rpc.call import LINE_SECONDS


async def lines_written() -> None:
    """Return once every call that has ended has its line."""
    await asyncio.sleep(1.5 * LINE_SECONDS)
