"""``python -m mosaic_ca_broker serve`` and ``… embedded-ca init --dir D``."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mosaic_common import log
from mosaic_common.clock import SystemClock
from mosaic_common.config import effective
from mosaic_common.errors import ConfigurationError
from mosaic_common.rpc.application import serve

from mosaic_ca_broker.adapters import embedded_ca_folder
from mosaic_ca_broker.app import build
from mosaic_ca_broker.config import parse_config


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = _parser().parse_args(arguments)
    try:
        if chosen.command == "serve":
            _serve()
        else:
            embedded_ca_folder.init(chosen.dir, now=SystemClock().now())
    except ConfigurationError as error:
        sys.stderr.write(f"ca-broker: {error}\n")
        return 1
    return 0


def _serve() -> None:
    config = parse_config(os.environ)
    log.configure("ca-broker", config.mosaic_gateway, config.mosaic_log_level)
    log.logger("configuration").info("effective", **effective(config))
    serve(lambda: build(config, SystemClock()))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mosaic_ca_broker", description="The only way to the certificate authority.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve", help="serve until SIGTERM")
    embedded = commands.add_parser("embedded-ca", help="the authority of demos and tests").add_subparsers(
        dest="action", required=True
    )
    init = embedded.add_parser("init", help="make one in an absent or empty folder; an existing one stays as it is")
    init.add_argument("--dir", type=Path, required=True, metavar="D")
    return parser


if __name__ == "__main__":
    sys.exit(main())
