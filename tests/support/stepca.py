"""A real step-ca on loopback, made by infra/step-ca/init.sh as production makes it."""

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mosaic_ca_broker.adapters.federation_root import FederationRoot
from mosaic_ca_broker.adapters.provisioner_key import ProvisionerKey
from mosaic_ca_broker.adapters.step_ca import StepCa
from mosaic_common.clock import SystemClock

INIT = Path(__file__).parents[2] / "infra" / "step-ca" / "init.sh"
START_SECONDS = 20


@dataclass(slots=True)
class StepCaServer:
    """One authority in one folder; may be stopped and started again on it."""

    directory: Path
    port: int
    password: str = "a-password-for-this-test-run-only"
    provisioner_password: str | None = None
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "it runs"
        return self._process.pid

    @property
    def root_path(self) -> Path:
        return self.directory / "certs" / "root_ca.crt"

    @property
    def root(self) -> FederationRoot:
        return FederationRoot.load(self.root_path, environment="production")

    @property
    def provisioner_key(self) -> ProvisionerKey:
        document = (self.directory / "secrets" / "mosaic-fed.json").read_text()
        return ProvisionerKey.parse(document, password=self.provisioner_password)

    def client(self) -> StepCa:
        return StepCa(self.url, self.root, self.provisioner_key, SystemClock())

    def init(self, **environment: str) -> "subprocess.CompletedProcess[str]":
        """Run init.sh, as every boot of the container does."""
        variables = {"PATH": os.environ["PATH"], "STEPPATH": str(self.directory), "STEP_CA_ADDRESS": f"127.0.0.1:{self.port}"}
        variables["STEP_CA_PASSWORD_FILE"] = self._secret("password", self.password)
        if self.provisioner_password is not None:
            variables["STEP_CA_PROVISIONER_PASSWORD_FILE"] = self._secret("provisioner-password", self.provisioner_password)
        command = ["sh", str(INIT)]
        # A group of its own: a test that kills the script kills nothing else.
        return subprocess.run(
            command, env=variables | environment, capture_output=True, text=True, check=False, start_new_session=True
        )

    def start(self) -> None:
        configuration = str(self.directory / "config" / "ca.json")
        command = ["step-ca", configuration, "--password-file", self._secret("password", self.password)]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(command, env={"PATH": os.environ["PATH"]}, stdout=log, stderr=log)
        self._wait_until_it_listens()

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=START_SECONDS)

    def kill(self) -> None:
        """kill −9: nothing gets to flush."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(timeout=START_SECONDS)

    def _wait_until_it_listens(self) -> None:
        assert self._process is not None
        give_up = time.monotonic() + START_SECONDS
        while time.monotonic() < give_up and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(0.05)
        raise AssertionError(f"step-ca did not start:\n{(self.directory / 'log').read_text()}")

    def _secret(self, name: str, value: str) -> str:
        path = self.directory.with_name(f"{self.directory.name}.{name}")
        path.write_text(value)
        return str(path)


@contextlib.contextmanager
def initialised_step_ca(directory: Path, *, provisioner_password: str | None = None, **environment: str) -> Iterator[StepCaServer]:
    """Yield a fresh authority that has not been started; whatever is started is stopped at the end."""
    server = StepCaServer(directory, free_port(), provisioner_password=provisioner_password)
    done = server.init(**environment)
    assert done.returncode == 0, done.stderr
    try:
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def running_step_ca(directory: Path, *, provisioner_password: str | None = None) -> Iterator[StepCaServer]:
    """Yield a fresh authority that listens."""
    with initialised_step_ca(directory, provisioner_password=provisioner_password) as server:
        server.start()
        yield server


def free_port() -> int:
    """A port of loopback that nobody listens on, for now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
