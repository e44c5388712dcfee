"""The federation authority of a development gateway: embedded in its broker, or a real step-ca."""

import os
import shutil
import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol

from mosaic_cli.contexts import write_private
from mosaic_cli.dev.gateway import STEP_CA, Gateway
from mosaic_cli.dev.processes import Command, Lifeline, ProcessFailed, run
from mosaic_cli.dev.units import Service, Unit

INIT_SECONDS: Final = 60.0
STEP_CA_INIT: Final = Path(__file__).parent / "step-ca" / "init.sh"
# Where `make tools` puts what it builds; in an installed package there is no such folder, and PATH alone counts.
CHECKOUT_TOOLS: Final = Path(__file__).resolve().parents[4] / ".tools" / "bin"


class AuthorityKind(StrEnum):
    """Which authority signs for peers."""

    EMBEDDED = "embedded"
    STEP_CA = "step-ca"


class Authority(Protocol):
    """What a gateway needs of its authority."""

    @property
    def federation_root(self) -> Path:
        """PEM; there after `initialise`."""

    @property
    def unit(self) -> Unit | None:
        """The authority's own process, if it has one; started after `initialise`."""

    def initialise(self) -> None:
        """Make keys and configuration, or take up those that are there. Raises: ProcessFailed."""

    def broker_environment(self) -> Mapping[str, str]: ...


class EmbeddedAuthority:
    """Keys in a folder of the broker; development only, and its root says so."""

    unit: Final[Unit | None] = None

    def __init__(self, gateway: Gateway, lifeline: Lifeline) -> None:
        self._gateway = gateway
        self._lifeline = lifeline
        self._folder = gateway.folder / "ca"

    @property
    def federation_root(self) -> Path:
        return self._folder / "root.pem"

    def initialise(self) -> None:
        argv = [sys.executable, "-P", "-m", "mosaic_ca_broker", "embedded-ca", "init", "--dir", str(self._folder)]
        command = Command(
            name=f"{self._gateway.name}: embedded CA",
            argv=argv,
            log=self._gateway.log("embedded-ca-init"),
            cwd=self._gateway.folder,
            environment={"MOSAIC_ENV": "dev"},
        )
        run(command, self._lifeline, timeout_seconds=INIT_SECONDS)

    def broker_environment(self) -> Mapping[str, str]:
        return {"MOSAIC_EMBEDDED_CA_DIR": str(self._folder)}


class StepCaAuthority:
    """A step-ca of the gateway's own, set up by infra/step-ca/init.sh as in a deployment."""

    def __init__(self, gateway: Gateway, lifeline: Lifeline) -> None:
        self._gateway = gateway
        self._lifeline = lifeline
        self._folder = gateway.folder / "step-ca"
        self._password_file = gateway.folder / "step-ca.password"
        # It opens its port last, with its configuration and keys loaded.
        self.unit: Final[Unit | None] = Service(self._serve, gateway.kept.ports[STEP_CA], lambda: True, lifeline)

    @property
    def federation_root(self) -> Path:
        return self._folder / "certs" / "root_ca.crt"

    def initialise(self) -> None:
        step = Path(find_program("step"))
        write_private(self._password_file, self._gateway.kept.authority_password)
        environment = {
            "MOSAIC_ENV": "dev",
            "PATH": os.pathsep.join([str(step.parent), os.environ.get("PATH", os.defpath)]),
            "STEPPATH": str(self._folder),
            "STEP_CA_PASSWORD_FILE": str(self._password_file),
            "STEP_CA_ADDRESS": self._gateway.address(STEP_CA, "https"),
        }
        command = Command(
            name=f"{self._gateway.name}: infra/step-ca/init.sh",
            argv=["/bin/sh", str(STEP_CA_INIT.resolve())],
            log=self._gateway.log("step-ca-init"),
            cwd=self._gateway.folder,
            environment=environment,
        )
        run(command, self._lifeline, timeout_seconds=INIT_SECONDS)

    def broker_environment(self) -> Mapping[str, str]:
        certificates, keys = self._folder / "certs", self._folder / "secrets"
        return {
            "STEP_CA_URL": f"https://{self._gateway.address(STEP_CA, 'https')}",
            "STEP_CA_PROVISIONER_KEY_JSON_FILE": str(keys / "mosaic-fed.json"),
            "STEP_CA_ROOT_CERT_PATH": str(certificates / "root_ca.crt"),
            "STEP_CA_ROOT_FINGERPRINT": (certificates / "root_ca.sha256").read_text().strip(),
        }

    def _serve(self) -> Command:
        configuration = self._folder / "config" / "ca.json"
        return Command(
            name=f"{self._gateway.name}/{STEP_CA}",
            argv=[find_program("step-ca"), str(configuration), "--password-file", str(self._password_file)],
            log=self._gateway.log(STEP_CA),
            cwd=self._gateway.folder,
            environment={"STEPPATH": str(self._folder)},
        )


def authority_of(gateway: Gateway, kind: AuthorityKind, lifeline: Lifeline) -> Authority:
    if kind is AuthorityKind.STEP_CA:
        return StepCaAuthority(gateway, lifeline)
    return EmbeddedAuthority(gateway, lifeline)


def find_program(name: str) -> str:
    """Raises: ProcessFailed when it is neither on PATH nor among the checkout's tools."""
    found = shutil.which(name) or shutil.which(name, path=CHECKOUT_TOOLS)
    if found is None:
        raise ProcessFailed(f"{name} is not on PATH: run `make tools`, which needs Go, or use --ca embedded.")
    return found
