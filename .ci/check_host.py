"""Says in one sentence why the virtual environment cannot be made here. Runs on any Python, however old, so it is ASCII."""

import importlib
import platform
import sys


def obstacle():
    if sys.version_info < (3, 11):
        return "Mosaic needs Python 3.11 or newer, this is " + platform.python_version() + " (try make PYTHON=python3.12)."
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        return "Mosaic runs on Linux with glibc: the embedded PostgreSQL and Valkey exist for nothing else."
    try:
        importlib.import_module("venv")
        importlib.import_module("ensurepip")
    except ImportError:
        return "This Python has no venv module: install it first (on Debian and Ubuntu: apt install python3-venv)."
    return None


sys.exit(obstacle())
