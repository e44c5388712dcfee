"""``python -m mosaic_enrollment serve``."""

import argparse
import os
import sys
from collections.abc import Sequence

from mosaic_common import log
from mosaic_common.clock import SystemClock
from mosaic_common.config import effective, load
from mosaic_common.errors import ConfigurationError
from mosaic_common.rpc.application import serve

from mosaic_enrollment.app import build
from mosaic_enrollment.config import Config


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m mosaic_enrollment", description="The public door: a token becomes a certificate, once."
    )
    parser.add_subparsers(dest="command", required=True).add_parser("serve", help="serve until SIGTERM")
    parser.parse_args(arguments)
    try:
        config = load(Config, os.environ)
        log.configure("enrollment", config.mosaic_gateway, config.mosaic_log_level)
        log.logger("configuration").info("effective", **effective(config))
        serve(lambda: build(config, SystemClock()))
    except ConfigurationError as error:
        sys.stderr.write(f"enrollment: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
