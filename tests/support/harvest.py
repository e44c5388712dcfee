"""The secrets of a running pair, each with the places where it lies by design: everywhere else it is a leak."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from mosaic_common.sealing import SealingKeys
from mosaic_common.tokens import EnrollmentToken
from mosaic_common.x509 import verify_csr
from mosaic_grants.domain.connections import key_binding

from tests.support.canaries import Canary
from tests.support.gateway import Gateway
from tests.support.talkative_pair import TalkativePair

SIGNATURE_BYTES: Final = 48
"""Of the end of a signing request: its own signature, the one part that is in no certificate."""


def secrets_of(pair: TalkativePair) -> Iterator[Canary]:
    """All that lies on disk or is sealed, when everything has been done."""
    for gateway in (pair.home, pair.work):
        yield from _chosen(pair, gateway)
        yield from _keys_below(pair, gateway.folder)
        yield from _sealed(pair, gateway)
        yield from _requests(gateway)
    yield from _step_ca(pair)
    yield from _keys_below(pair, pair.owner)


def token_canary(name: str, token: EnrollmentToken, *homes: str) -> Canary:
    return Canary(f"enrollment token: {name}", token.seed, homes)


def csr_canary(name: str, csr: bytes, *homes: str) -> Canary:
    """Of DER, or of PEM."""
    csr_der = b"".join(csr.splitlines()[1:-1]) if csr.startswith(b"-----") else csr
    csr_der = base64.b64decode(csr_der) if csr_der is not csr else csr
    return Canary(f"signing request: {name}", csr_der[-SIGNATURE_BYTES:], homes)


def proof_canary(name: str, proof: bytes) -> Canary:
    return Canary(f"proof: {name}", proof)


def jws_canary(name: str, token: str, *homes: str) -> Canary:
    """The signature, without which the rest is worth nothing."""
    signature = token.rpartition(".")[2]
    return Canary(name, base64.urlsafe_b64decode(signature + "=" * (-len(signature) % 4)), homes)


def key_canary(name: str, pem: bytes, *homes: str, password: str | None = None) -> Canary:
    """The private number alone: what stands around it is the same in every key."""
    key = load_pem_private_key(pem, password.encode() if password else None)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return Canary(name, key.private_numbers().private_value.to_bytes(32, "big"), homes)
    assert isinstance(key, ed25519.Ed25519PrivateKey)
    return Canary(name, key.private_bytes_raw(), homes)


def _chosen(pair: TalkativePair, gateway: Gateway) -> Iterator[Canary]:
    name = gateway.name
    dev = pair.supervisor.gateways[name]
    kept, services = f"{name}/gateway.json", f"{name}/services"
    for role, password in dev.kept.database_passwords.items():
        identity = role.removeprefix("mosaic_").replace("_", "-")
        homes = (kept, f"{services}/{identity}/database-url", f"{services}/owner/passwords.json")
        yield Canary(f"password: {name}'s {role}", password.encode(), homes)
    for user, password in dev.kept.valkey_passwords.items():
        yield Canary(f"password: {name}'s {user} at Valkey", password.encode(), (kept, f"{services}/{user}/redis-url"))
    superuser = (gateway.folder / "postgres" / "superuser.password").read_text()
    made = (f"{name}/postgres/superuser.password", f"{services}/owner/bootstrap-url")
    yield Canary(f"password: {name}'s postgres", superuser.encode(), made)
    for variable, secret in pair.chosen.sealing_ever[name].items():
        yield Canary(f"sealing secret: {name}'s {variable}", secret.encode(), (kept, f"{services}/grants/*sealing-key*"))


def _keys_below(pair: TalkativePair, folder: Path) -> Iterator[Canary]:
    """Every key file, of the service PKI, of the embedded authority, of a user; the same key may lie in several folders."""
    for file in sorted((*folder.rglob("*.key"), *folder.rglob("key.pem"))):
        place = str(file.relative_to(pair.folder))
        content = file.read_bytes()
        if b"PRIVATE KEY" in content:
            yield key_canary(f"private key: {place}", content, place)
        else:
            shared = f"{file.parent.parent.relative_to(pair.folder)}/*/{file.name}"
            yield Canary(f"symmetric key: {place}", base64.b64decode(content), (shared,))


def _sealed(pair: TalkativePair, gateway: Gateway) -> Iterator[Canary]:
    """Keys of connections: on no disk, but under the sealing secret."""
    secrets = list(pair.chosen.sealing_ever[gateway.name].values())
    keys = SealingKeys(secrets[0], previous=secrets[1] if len(secrets) > 1 else None)
    statement = """SELECT k.id, p.local_user_id, k.client_key_pem, k.csr_der, p.common_name FROM federation.federation_peer_keys k
                   JOIN federation.federation_peers p ON p.id = k.peer_id"""
    for key_id, user_id, sealed, csr_der, common_name in gateway.rows(statement):
        spki = verify_csr(bytes(csr_der), common_name=common_name).spki_sha256
        yield key_canary(
            f"private key: of {gateway.name}'s connection {key_id}", keys.open(sealed, key_binding(key_id, user_id, spki))
        )


def _requests(gateway: Gateway) -> Iterator[Canary]:
    """Signing requests that a rerun repeats: kept in one column, which contracts.md names, and nowhere else."""
    for key_id, csr_der in gateway.rows("SELECT id, csr_der FROM federation.federation_peer_keys"):
        yield csr_canary(
            f"{gateway.name}: of {key_id}", bytes(csr_der), *bound_values_of(gateway, "federation.federation_peer_keys.csr_der")
        )


def bound_values_of(gateway: Gateway, column: str) -> tuple[str, ...]:
    """Where a value lies that a column holds by design: PostgreSQL's own files, and the log that was told to show what is bound."""
    name = gateway.name
    return (f"{name}: {column}", f"{name}/postgres/data/*", f"{name}/logs/postgres.log")


def _step_ca(pair: TalkativePair) -> Iterator[Canary]:
    folder = pair.folder / "work" / "step-ca"
    password = pair.supervisor.gateways["work"].kept.authority_password
    yield Canary("password: of step-ca's keys", password.encode(), ("work/gateway.json", "work/step-ca.password"))
    yield Canary(
        "password: of the provisioner key",
        pair.chosen.provisioner_password.encode(),
        ("work/services/ca-broker/provisioner-password",),
    )
    for name in ("root_ca_key", "intermediate_ca_key"):
        # On disk under that password only.
        yield key_canary(f"private key: step-ca's {name}", (folder / "secrets" / name).read_bytes(), password=password)
    jwk = json.loads((folder / "secrets" / "mosaic-fed.json").read_text())
    number = base64.urlsafe_b64decode(jwk["d"] + "==")
    yield Canary("private key: provisioner", number, ("work/step-ca/secrets/mosaic-fed.json",))


def connection_of(gateway: Gateway, name: str) -> tuple[bytes, UUID]:
    """Signing request and redemption id of the latest key of a connection."""
    [(csr_der, redemption_id)] = gateway.rows(
        """SELECT k.csr_der, k.redemption_id FROM federation.federation_peers p
           JOIN federation.federation_peer_keys k ON k.peer_id = p.id WHERE p.name = %s ORDER BY k.not_before DESC LIMIT 1""",
        name,
    )
    return bytes(csr_der), redemption_id
