"""What one development gateway owns: its folder, its ports, its secrets.

<folder>/                    0700
    gateway.json             ports and secrets, 0600, made once and kept: enrolled peers know the addresses
    pki/                     as `mosaic pki init` lays it out
    ca/ or step-ca/          the federation authority
    postgres/ valkey/        data and log of the embedded servers
    services/<identity>/     working folder, secrets as files
    logs/<identity>.log
"""

import json
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Self

from mosaic_common.identity import CA_BROKER, EDGE_INBOUND, EDGE_OUTBOUND, ENROLLMENT, GRANTS, IDENTITIES, OPERATOR, SERVICES

from mosaic_cli.contexts import Context, write_private
from mosaic_cli.dev.ports import LOOPBACK, choose_free_ports

POSTGRES: Final = "postgres"
VALKEY: Final = "valkey"
STEP_CA: Final = "step-ca"

# Who listens to whom, in the words of contracts.md "Ports".
LISTENERS: Final[Mapping[str, tuple[str, ...]]] = {
    POSTGRES: ("sql",),
    VALKEY: ("resp",),
    STEP_CA: ("https",),
    CA_BROKER: ("internal",),
    GRANTS: ("internal", "operator"),
    ENROLLMENT: ("internal", "public"),
    EDGE_INBOUND: ("internal", "public"),
    EDGE_OUTBOUND: ("internal", "user"),
}
DATABASE: Final = "mosaic"
DATABASE_ROLES: Final[Mapping[str, str]] = {
    "mosaic_owner": "owner",
    "mosaic_grants": GRANTS,
    "mosaic_edge_inbound": EDGE_INBOUND,
    "mosaic_edge_outbound": EDGE_OUTBOUND,
}
VALKEY_USERS: Final = (ENROLLMENT, EDGE_INBOUND, EDGE_OUTBOUND)
SECRET_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Kept:
    """What a gateway chooses once.

    Attributes:
        ports: service → listener → port on 127.0.0.1.
        database_passwords: role → password, URL-safe.
        valkey_passwords: user → password, URL-safe.
        sealing_key: 32 random bytes, base64url.
        authority_password: opens the keys of step-ca.
    """

    ports: Mapping[str, Mapping[str, int]]
    database_passwords: Mapping[str, str]
    valkey_passwords: Mapping[str, str]
    sealing_key: str
    authority_password: str

    @classmethod
    def choose(cls) -> Self:
        free = iter(choose_free_ports(sum(len(listeners) for listeners in LISTENERS.values())))
        return cls(
            ports={service: {listener: next(free) for listener in listeners} for service, listeners in LISTENERS.items()},
            database_passwords={role: secrets.token_urlsafe(SECRET_BYTES) for role in DATABASE_ROLES},
            valkey_passwords={user: secrets.token_urlsafe(SECRET_BYTES) for user in VALKEY_USERS},
            sealing_key=secrets.token_urlsafe(SECRET_BYTES),
            authority_password=secrets.token_urlsafe(SECRET_BYTES),
        )


@dataclass(frozen=True, slots=True)
class Gateway:
    """One gateway on this machine."""

    name: str
    folder: Path
    kept: Kept

    @classmethod
    def open(cls, name: str, folder: Path) -> Self:
        """Make the folder, or take up the one that is there with the ports and secrets that it has."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = folder / "gateway.json"
        try:
            kept = Kept(**json.loads(file.read_text()))
        except FileNotFoundError:
            kept = Kept.choose()
            write_private(file, json.dumps(asdict(kept), indent=2) + "\n")
        return cls(name, folder, kept)

    @property
    def pki(self) -> Path:
        return self.folder / "pki"

    def port(self, service: str, listener: str) -> int:
        return self.kept.ports[service][listener]

    def address(self, service: str, listener: str) -> str:
        """host:port"""
        return f"{LOOPBACK}:{self.port(service, listener)}"

    def log(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"

    def service_folder(self, identity: str) -> Path:
        folder = self.folder / "services" / identity
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder

    def secret_file(self, identity: str, name: str, value: str) -> str:
        """Write a secret where only this service is pointed to; returns the path, for a NAME_FILE variable."""
        file = self.service_folder(identity) / name
        write_private(file, value)
        return str(file)

    def database_url(self, role: str) -> str:
        return f"postgresql://{role}:{self.kept.database_passwords[role]}@{self.address(POSTGRES, 'sql')}/{DATABASE}"

    def redis_url(self, user: str) -> str:
        return f"redis://{user}:{self.kept.valkey_passwords[user]}@{self.address(VALKEY, 'resp')}/0"

    def context(self) -> Context:
        """How the CLI reaches this gateway."""
        return Context(
            gateway=self.name,
            operator_address=self.address(GRANTS, "operator"),
            user_address=self.address(EDGE_OUTBOUND, "user"),
            root=self.pki / OPERATOR / "service-root.pem",
            jwt_key=self.pki / OPERATOR / "jwt.key",
            pki_dir=self.pki / OPERATOR,
            internal={service: self.address(service, "internal") for service in SERVICES},
        )

    def pki_files(self) -> Mapping[str, object]:
        """Root, and each identity's leaf and key, internal and (where it has one) public."""
        leaves = {identity: dict(self._leaves(identity)) for identity in IDENTITIES}
        return {"root": str(self.pki / OPERATOR / "service-root.pem"), **leaves}

    def _leaves(self, identity: str) -> Iterator[tuple[str, Mapping[str, str]]]:
        for kind in ("internal", "public"):
            certificate = self.pki / identity / f"{kind}.pem"
            if certificate.exists():
                yield kind, {"certificate": str(certificate), "key": str(certificate.with_suffix(".key"))}
