"""Outbound peers: one user's connection to one grant of another gateway. The private key never leaves this one."""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Final
from urllib.parse import urlsplit
from uuid import UUID, uuid4

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from mosaic_common.errors import Conflict, InvalidInput, Layer, MosaicError, Reason, Violation
from mosaic_common.identity import NAME_PATTERN
from mosaic_common.keys import private_pem, spki_sha256
from mosaic_common.sealing import Binding, SealingKeys
from mosaic_common.x509 import Expected, make_csr, verify_csr, verify_received

from mosaic_grants.domain.lifecycle import PeerState
from mosaic_grants.domain.model import ConnectionKey, Peer, Prepared, Received

_ENDPOINT: Final = re.compile(r"(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+):([0-9]{1,5})")


def verify_name(name: str, *, field: str) -> None:
    """Accept a slug: it is shown, typed and part of a server name, but never resolved.

    Raises:
        InvalidInput: REQUEST_INVALID.
    """
    if not NAME_PATTERN.fullmatch(name):
        raise InvalidInput(
            Reason.REQUEST_INVALID,
            f"{name[:64]!r} is no name.",
            violations=[Violation(field, "must be 1 to 63 of a-z, 0-9 and -, neither beginning nor ending with -")],
        )


def prepare(keys: SealingKeys, *, common_name: str, local_user_id: UUID) -> Prepared:
    """Make and seal a P-256 key and its CSR."""
    key = ec.generate_private_key(ec.SECP256R1())
    key_id = uuid4()
    sealed = keys.seal(private_pem(key), _binding(key_id, local_user_id, spki_sha256(key.public_key())))
    return Prepared(key_id, sealed, make_csr(key, common_name), uuid4())


def open_key(keys: SealingKeys, row: ConnectionKey, *, local_user_id: UUID, common_name: str) -> bytes:
    """Return the private key, PKCS#8 PEM, for an answer that is never stored.

    Raises:
        SealBroken: the row was altered, moved, or given to another user.
    """
    csr = verify_csr(row.csr_der, common_name=common_name)
    return keys.open(row.client_key_sealed, _binding(row.id, local_user_id, csr.spki_sha256))


def verify_resumable(peer: Peer, *, common_name: str, remote_gateway: str, enrollment_url: str) -> None:
    """Accept a connection of this name that was begun and not finished, with the same other side.

    Raises:
        Conflict: NAME_TAKEN.
    """
    begun = (peer.common_name, peer.remote_gateway, peer.enrollment_url)
    same = begun == (common_name, remote_gateway, enrollment_url)
    if peer.state is not PeerState.PENDING or not same:
        # Which token it was made with is not known here. A command that missed the last answer is run again, and has succeeded.
        finished = "If it is the one that this URL made, nothing is left to do; otherwise g" if same else "G"
        raise Conflict(
            Reason.NAME_TAKEN,
            f"This user has a connection {peer.name!r} already; it is {peer.state}.",
            layer=Layer.PEER,
            remedy=f"{finished}ive this one another name with --name.",
        )


def verify_answer(
    peer: Peer,
    key: ConnectionKey,
    *,
    unverified_chain: Sequence[bytes],
    grant_id: UUID,
    subject_user_id: UUID,
    gateway: str,
    endpoint: str,
    pinned_root_der: bytes,
    endpoint_host_confirmed: bool,
    now: datetime,
) -> Received:
    """Believe nothing of an enrollment's answer but what can be checked here.

    Raises:
        CaLied: the certificate is not for our key, not for the named grant and subject, or not of the profile.
        InvalidInput: gateway, endpoint or root.
    """
    csr = verify_csr(key.csr_der, common_name=peer.common_name)
    issued = verify_received(unverified_chain, Expected(peer.common_name, grant_id, subject_user_id, csr.spki_sha256), now=now)
    if gateway != peer.remote_gateway:
        raise InvalidInput(
            Reason.REQUEST_INVALID,
            f"The URL was for the gateway {peer.remote_gateway!r}, the answer came from another.",
            layer=Layer.PEER,
            remedy="Check the URL with the other operator.",
        )
    return Received(issued, gateway, _verified_endpoint(peer, endpoint, endpoint_host_confirmed), _trust_bundle(pinned_root_der))


def _verified_endpoint(peer: Peer, endpoint: str, confirmed: bool) -> str:
    match = _ENDPOINT.fullmatch(endpoint)
    if match is None or not 0 < int(match[2]) < 65536:
        raise InvalidInput(
            Reason.REQUEST_INVALID, "The answer names no federation endpoint of the form host:port.", layer=Layer.PEER
        )
    enrolled_at = urlsplit(peer.enrollment_url or "").hostname
    if match[1].strip("[]").lower() != enrolled_at and not confirmed:
        raise MosaicError(
            Reason.PEER_NOT_ELIGIBLE,
            f"The federation endpoint {endpoint} is on another host than the enrollment URL ({enrolled_at}).",
            layer=Layer.PEER,
            remedy="If the other operator says that this is right, confirm it with --accept-endpoint-host.",
        )
    return endpoint


def _trust_bundle(pinned_root_der: bytes) -> bytes | None:
    if not pinned_root_der:
        return None
    try:
        return x509.load_der_x509_certificate(pinned_root_der).public_bytes(Encoding.PEM)
    except ValueError:
        raise InvalidInput(Reason.REQUEST_INVALID, "The pinned root is not a certificate in DER.") from None


def _binding(key_id: UUID, local_user_id: UUID, public_key_sha256: bytes) -> Binding:
    return Binding("federation_peer_keys", "client_key_pem", key_id, local_user_id, public_key_sha256)


def not_pending(peer: Peer) -> Conflict:
    """The refusal when a connection left pending meanwhile."""
    return Conflict(
        Reason.PEER_STATE_CHANGED,
        f"The connection {peer.name!r} is {peer.state}, not pending.",
        layer=Layer.PEER,
        remedy="`mosaic federation peer show` says what became of it.",
    )
