r"""Starts that fail, one after the other in one process, told on its output as a service would tell them.

    python -m tests.support.failing_starts <<< \
        '[{"module": "mosaic_grants", "arguments": ["serve"], "environment": {}, "remark": "…"}]'

Ends with 1 when one of them starts, or says something else.
"""

import contextlib
import importlib
import io
import json
import os
import sys
from collections.abc import Mapping
from typing import Any
from unittest.mock import patch


def main() -> int:
    return max(_fail(start) for start in json.load(sys.stdin))


def _fail(start: Mapping[str, Any]) -> int:
    program = importlib.import_module(f"{start['module']}.__main__")
    said = io.StringIO()
    with patch.dict(os.environ, start["environment"], clear=True), contextlib.redirect_stderr(said):
        try:
            code = program.main(start["arguments"])
        except SystemExit as ended:
            code = ended.code
    sys.stdout.write(f"{start['module']}: {code}\n{said.getvalue()}")
    sys.stdout.flush()
    if code == 1 and start["remark"] in said.getvalue():
        return 0
    sys.stdout.write(f"  that is not what was expected: {start['remark']}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
