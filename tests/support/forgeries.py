"""Certificates and impostors of a gateway, made with the keys that only its authority should have.

    key, chain = forge(work, grant_id, subject, double(GRANT_ID_OID))
    client = work.peer_client_with(key, chain, str(grant_id))

What the federation PKI signs is believed by the handshake, so that these reach the checks behind it.
"""

from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from cryptography import x509
from mosaic_common.keys import load_p256_private_key, private_pem

from tests.support.authorities import Lie, LyingAuthority, new_key
from tests.support.gateway import Gateway
from tests.support.orders import SigningOrder
from tests.support.peers import PeerClient


def authority_of(gateway: Gateway) -> LyingAuthority:
    """The gateway's own embedded authority, in the hands of somebody who signs anything."""
    folder = gateway.folder / "ca"
    key = load_p256_private_key((folder / "intermediate.key").read_bytes(), name="intermediate.key")
    # The root's key was forgotten when the folder was made; with an intermediate nothing asks for it.
    return LyingAuthority(
        now=datetime.now(UTC),
        root=_certificate(folder / "root.pem"),
        root_key=key,
        intermediate=_certificate(folder / "intermediate.pem"),
        intermediate_key=key,
    )


def forge(gateway: Gateway, grant_id: UUID, subject_user_id: UUID, *lies: Lie) -> tuple[bytes, bytes]:
    """Return key and chain, PEM, of a client certificate of that gateway's federation PKI that nobody ordered."""
    key = new_key()
    order = SigningOrder.make(grant_id=grant_id, subject_user_id=subject_user_id).warrant
    return private_pem(key), authority_of(gateway).sign_pem(key.public_key(), order, *lies)


def forged_peer(gateway: Gateway, grant_id: UUID, subject_user_id: UUID, *lies: Lie) -> PeerClient:
    """A peer that shows such a certificate."""
    return gateway.peer_client_with(*forge(gateway, grant_id, subject_user_id, *lies), str(grant_id))


def _certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())
