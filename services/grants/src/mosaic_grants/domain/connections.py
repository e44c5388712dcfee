"""Outbound peers: one user's connection to one grant of another gateway. The private key never leaves this one."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from urllib.parse import urlsplit
from uuid import UUID, uuid4

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from mosaic_common.errors import Conflict, InvalidInput, Layer, MosaicError, NotFound, Reason, Violation
from mosaic_common.identity import NAME_PATTERN
from mosaic_common.keys import private_pem, spki_sha256
from mosaic_common.sealing import Binding, SealingKeys
from mosaic_common.x509 import Expected, make_csr, verify_csr, verify_received

from mosaic_grants.domain.lifecycle import PeerState
from mosaic_grants.domain.model import ConnectionKey, Peer, Prepared, Received, Refusal, User
from mosaic_grants.domain.ports import Transaction

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


@dataclass(frozen=True, slots=True)
class Order:
    """What an enrollment URL asks this gateway to make a key for.

    Attributes:
        name: of the connection, within its user's.
        enrollment_url: ``https://host:port`` of the other gateway's enrollment.
        token_id: SHA-256 of the token's public key; None from a command that does not say.
        reenroll: a new key for the active connection of this name, whose old one is lost.
        pin: SHA-256 of the root that the URL pins; None when it pins none.
    """

    user: User
    name: str
    remote_gateway: str
    common_name: str
    enrollment_url: str
    token_id: bytes | None
    reenroll: bool
    pin: bytes | None


@dataclass(frozen=True, slots=True)
class Preparation:
    """A key that waits for its certificate, or, when ``already_active``, one that has it."""

    peer: Peer
    csr_der: bytes
    redemption_id: UUID
    already_active: bool = False


async def prepare(tx: Transaction, keys: SealingKeys, order: Order, *, actor: str) -> Preparation:
    """Make a key for an order, or continue with the one that an interrupted run left.

    Raises:
        Conflict: NAME_TAKEN, PEER_STATE_CHANGED.
        NotFound: PEER_NOT_FOUND, nothing to re-enroll.
    """
    existing = await tx.connections.find(order.user.id, order.name)
    if existing is None:
        if order.reenroll:
            raise NotFound(
                Reason.PEER_NOT_FOUND,
                f"{order.user.email} has no connection {order.name!r} to re-enroll.",
                layer=Layer.PEER,
                remedy="Leave out --reenroll to make one, or name the right one with --name.",
            )
        made = _new_key(keys, order)
        peer = await tx.connections.insert(
            name=order.name,
            remote_gateway=order.remote_gateway,
            common_name=order.common_name,
            enrollment_url=order.enrollment_url,
            user=order.user,
            prepared=made,
            actor=actor,
        )
        return Preparation(peer, made.csr_der, made.redemption_id)
    _verify_same_other_side(existing, order)
    active = await tx.connections.find_key(existing.id, "active")
    if active is not None and order.token_id is not None and active.token_id == order.token_id:
        return Preparation(existing, active.csr_der, active.redemption_id, already_active=True)
    _verify_continuable(existing, order)
    pending = await tx.connections.find_key(existing.id, "pending")
    if pending is None:
        made = _new_key(keys, order)
        await tx.connections.insert_key(existing.id, made)
        return Preparation(existing, made.csr_der, made.redemption_id)
    # The same key and redemption id: if the other gateway has recorded a certificate for them, this is how it is had again.
    await tx.connections.continue_with(pending.id, order.token_id)
    return Preparation(existing, pending.csr_der, pending.redemption_id)


def _new_key(keys: SealingKeys, order: Order) -> Prepared:
    key = ec.generate_private_key(ec.SECP256R1())
    key_id = uuid4()
    sealed = keys.seal(private_pem(key), key_binding(key_id, order.user.id, spki_sha256(key.public_key())))
    return Prepared(key_id, sealed, make_csr(key, order.common_name), uuid4(), order.token_id)


def _verify_same_other_side(peer: Peer, order: Order) -> None:
    there = (peer.common_name, peer.remote_gateway, peer.enrollment_url)
    if there == (order.common_name, order.remote_gateway, order.enrollment_url):
        return
    forget = f", or forget the one that was begun: `mosaic federation peer delete {peer.id}`" if peer.activated_at is None else ""
    raise _name_taken(peer, f"Give this one another name with --name{forget}.")


def _verify_continuable(peer: Peer, order: Order) -> None:
    if peer.state is PeerState.SUSPENDED:
        raise Conflict(
            Reason.PEER_STATE_CHANGED,
            f"The connection {peer.name!r} is suspended.",
            layer=Layer.PEER,
            remedy=f"Resume it first: `mosaic federation peer resume {peer.id}`.",
        )
    if peer.state is PeerState.ACTIVE and not order.reenroll:
        raise _name_taken(
            peer,
            "For another grant, give it another name with --name. For a URL made by `grant token --reenroll`, say --reenroll. "
            f"To begin afresh, end it first: `mosaic federation peer revoke {peer.id}`.",
        )
    # Asked before the token is touched: a new key must not be the occasion to trust somebody else.
    if peer.state is PeerState.ACTIVE and order.pin != _pin_of(peer.trust_bundle_pem):
        raise _another_root(peer)


def _pin_of(trust_bundle_pem: bytes | None) -> bytes | None:
    return None if trust_bundle_pem is None else x509.load_pem_x509_certificate(trust_bundle_pem).fingerprint(SHA256())


def _another_root(peer: Peer) -> MosaicError:
    return MosaicError(
        Reason.PEER_NOT_ELIGIBLE,
        f"The URL pins another root than the connection {peer.name!r} trusts.",
        layer=Layer.PEER,
        remedy=f"If the other operator says that this is right, end the connection (`mosaic federation peer revoke {peer.id}`) and "
        "add it afresh.",
    )


def _name_taken(peer: Peer, remedy: str) -> Conflict:
    return Conflict(
        Reason.NAME_TAKEN,
        f"This user has a connection {peer.name!r} already; it is {peer.state}.",
        layer=Layer.PEER,
        remedy=remedy,
    )


def open_key(keys: SealingKeys, row: ConnectionKey, *, local_user_id: UUID, common_name: str) -> bytes:
    """Return the private key, PKCS#8 PEM, for an answer that is never stored.

    Raises:
        SealBroken: the row was altered, moved, or given to another user.
    """
    csr = verify_csr(row.csr_der, common_name=common_name)
    return keys.open(row.client_key_sealed, key_binding(row.id, local_user_id, csr.spki_sha256))


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
    if peer.state is PeerState.ACTIVE and (grant_id, subject_user_id) != (peer.remote_grant_id, peer.remote_subject_user_id):
        raise InvalidInput(
            Reason.REQUEST_INVALID,
            f"The URL was for another grant than the one of the connection {peer.name!r}.",
            layer=Layer.PEER,
            remedy="Ask for a new URL, and add it under another name with --name.",
        )
    trust_bundle = _trust_bundle(pinned_root_der)
    if peer.state is PeerState.ACTIVE and trust_bundle != peer.trust_bundle_pem:
        raise _another_root(peer)
    return Received(issued, gateway, _verified_endpoint(peer, endpoint, endpoint_host_confirmed), trust_bundle)


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


def key_binding(key_id: UUID, local_user_id: UUID, public_key_sha256: bytes) -> Binding:
    """Where a connection's sealed key belongs: moved to another row or user, it does not open."""
    return Binding("federation_peer_keys", "client_key_pem", key_id, local_user_id, public_key_sha256)


def not_waiting(peer: Peer) -> Conflict:
    """The refusal when nothing of this connection waits for a certificate (any more)."""
    return Conflict(
        Reason.PEER_STATE_CHANGED,
        f"The connection {peer.name!r} is {peer.state} and waits for no certificate.",
        layer=Layer.PEER,
        remedy="`mosaic federation peer show` says what became of it.",
    )


def refusal_sentence(peer: Peer, refusal: Refusal) -> str:
    """Say in words what the other gateway's last refusal means, and what this side's operator can do."""
    there = peer.remote_gateway or "the other gateway"
    # By its id: a peer that asks us may have the same name, and so may another user's connection.
    afresh = f"ask its operator for a new grant, then `mosaic federation peer revoke {peer.id}` and `peer add` with the new URL"
    anew = f"ask its operator for `mosaic federation grant token {peer.remote_grant_id} --reenroll`, then `peer add --reenroll`"
    if refusal.reason is Reason.GRANT_NOT_ACTIVE:
        ended = {"revoked": "has revoked the grant", "expired": "says that the grant has expired"}
        return f"{there} {ended.get(refusal.grant_status, 'no longer accepts the grant')}: {afresh}."
    sentences = {
        Reason.PEER_NOT_ACTIVE: f"{there} has suspended or revoked this gateway: ask its operator.",
        Reason.CERTIFICATE_REVOKED: f"{there} has revoked this connection's certificate: {anew}.",
        Reason.CERTIFICATE_NOT_PINNED: f"{there} does not know this connection's certificate: {anew}.",
        Reason.CERTIFICATE_NOT_ACCEPTED: f"{there} does not accept this connection's certificate; compare the clocks, or {anew}.",
        Reason.SUBJECT_INACTIVE: f"The user that the grant acts as is not active at {there}: {afresh}.",
        Reason.SUBJECT_MISMATCH: f"The certificate is for another user than the grant at {there}: {anew}.",
    }
    return sentences.get(refusal.reason, f"{there} refuses this connection ({refusal.reason}): ask its operator.")
