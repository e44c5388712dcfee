"""``python -m tests.benchmarks.reads.unlimited inbound|outbound``: an edge as its own main starts it, but for the limits.

A benchmark is the flood that the limits are there to refuse. They are still counted, bucket by bucket; they only allow more.
"""

import os
import sys
from dataclasses import fields
from typing import Final

from mosaic_common import log
from mosaic_common.clock import SystemClock
from mosaic_common.config import load
from mosaic_common.identity import EDGE_INBOUND, EDGE_OUTBOUND
from mosaic_common.rpc.application import Application, serve
from mosaic_federation_edge.app import build_inbound, build_outbound
from mosaic_federation_edge.config import InboundConfig, OutboundConfig
from mosaic_federation_edge.domain.limits import Limits
from mosaic_federation_edge.domain.rate_limit import Rate

PLENTY: Final = Rate(per_second=1_000_000, burst=1_000_000)
LIMITS: Final = Limits(**{field.name: PLENTY for field in fields(Limits)})


def _inbound() -> Application:
    config = load(InboundConfig, os.environ)
    log.configure(EDGE_INBOUND, config.mosaic_gateway, config.mosaic_log_level)
    return build_inbound(config, SystemClock(), limits=LIMITS)


def _outbound() -> Application:
    config = load(OutboundConfig, os.environ)
    log.configure(EDGE_OUTBOUND, config.mosaic_gateway, config.mosaic_log_level)
    return build_outbound(config, SystemClock(), limits=LIMITS)


if __name__ == "__main__":
    serve(_inbound if sys.argv[1] == "inbound" else _outbound)
