"""``python -m mosaic_federation_edge serve --role inbound|outbound``."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TypeVar

from mosaic_common import log
from mosaic_common.clock import SystemClock
from mosaic_common.config import CommonConfig, effective, load
from mosaic_common.errors import ConfigurationError
from mosaic_common.identity import EDGE_INBOUND, EDGE_OUTBOUND
from mosaic_common.rpc.application import Application, serve

from mosaic_federation_edge.app import build_inbound, build_outbound
from mosaic_federation_edge.config import InboundConfig, OutboundConfig

ConfigT = TypeVar("ConfigT", bound=CommonConfig)


def main(arguments: Sequence[str] | None = None) -> int:
    role = _parser().parse_args(arguments).role
    try:
        serve(_inbound if role == "inbound" else _outbound)
    except ConfigurationError as error:
        sys.stderr.write(f"edge-{role}: {error}\n")
        return 1
    return 0


def _inbound() -> Application:
    return build_inbound(_configured(InboundConfig, EDGE_INBOUND), SystemClock())


def _outbound() -> Application:
    return build_outbound(_configured(OutboundConfig, EDGE_OUTBOUND), SystemClock())


def _configured(model: type[ConfigT], service: str) -> ConfigT:
    config = load(model, os.environ)
    log.configure(service, config.mosaic_gateway, config.mosaic_log_level)
    log.logger("configuration").info("effective", **effective(config))
    return config


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mosaic_federation_edge",
        description="The edge between gateways: inbound answers peers, outbound asks them for local users.",
    )
    serve = parser.add_subparsers(dest="command", required=True).add_parser("serve", help="serve until SIGTERM")
    serve.add_argument("--role", choices=("inbound", "outbound"), required=True)
    return parser


if __name__ == "__main__":
    sys.exit(main())
