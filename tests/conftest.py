"""What every run shares: the checkout's own tools first on PATH, and an account of what could not run here, and why."""

import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]

pytest_plugins = ["tests.support.postgres", "tests.support.fixtures"]

BINARIES: Final = {"stepca": ("step-ca", "step"), "grpcurl": ("grpcurl",), "openssl": ("openssl",)}

os.environ["PATH"] = f"{ROOT / '.tools' / 'bin'}{os.pathsep}{os.environ['PATH']}"
# grpc reads it once, when it is imported: with an EC server key it leaves TLS 1.2 without a usable suite.
os.environ["GRPC_SSL_CIPHER_SUITES"] = "ECDHE-RSA-AES128-GCM-SHA256"
os.environ.setdefault("GRPC_VERBOSITY", "NONE")


def in_ci() -> bool:
    return os.environ.get("CI") == "true"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before any fixture of the test: a missing binary skips it, and in CI fails it."""
    for marker, binaries in BINARIES.items():
        if item.get_closest_marker(marker) is None:
            continue
        for binary in binaries:
            if shutil.which(binary) is None:
                reason = f"{binary} is not here ({'apt install openssl' if binary == 'openssl' else 'make tools'})"
                if in_ci():
                    pytest.fail(reason, pytrace=False)
                pytest.skip(reason)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI nothing may be missing, so a skip for whatever reason fails the run."""
    reporter: pytest.TerminalReporter | None = session.config.pluginmanager.get_plugin("terminalreporter")
    if in_ci() and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reasons = Counter(_reason(report) for report in terminalreporter.stats.get("skipped", []))
    if not reasons:
        return
    terminalreporter.section("could not run here" + (", and in CI nothing may be missing" if in_ci() else ""))
    for reason, count in sorted(reasons.items()):
        terminalreporter.write_line(f"{count:>4} {'test' if count == 1 else 'tests'}: {reason}")


def _reason(report: pytest.TestReport) -> str:
    _, _, reason = report.longrepr if isinstance(report.longrepr, tuple) else ("", 0, str(report.longrepr))
    return reason.removeprefix("Skipped: ")
