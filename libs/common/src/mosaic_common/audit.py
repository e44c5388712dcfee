"""The audit log as hash chains: whoever can write the table still cannot change what it said unseen.

Every writer process has its own chain. A row's hash covers the one before it, so that an edit, a swap, a dropped or an inserted row
breaks the chain there; grants countersigns heads, so that a chain recomputed from there on, or cut short, contradicts a signature.

    hash = SHA-256(previous hash, 32 ‖ version, 1 ‖ columns in table order)

A column is its length (4 bytes, big-endian) and its bytes, a null only the length 0xffffffff. UUIDs are 16 bytes, integers and
times 8 bytes (signed, big-endian), enums and text ASCII.

| column | holds |
|---|---|
| request_id | UUID of the call, made here |
| time | microseconds since 1970 UTC, int64, stored exactly so |
| event | Event |
| actor | who acted: a subject of a bearer token, a service identity, the first 16 digits of a peer's fingerprint |
| source_address | of the connection, as our socket saw it |
| peer_id, grant_id, subject_user_id | UUIDs, null while unknown |
| token_id | SHA-256 of the enrollment token's public key, 32 bytes, or null |
| verb | Verb, null where there is none |
| resource | names, comma separated, empty where there is none |
| outcome | Outcome |
| denied_layer, denied_reason | Layer and Reason, null unless refused |
| status_code | gRPC status by number |
| result_count, bytes_out | rows and bytes of the answer |
| query_hash | HMAC-SHA256, 32 bytes, or null; never a query's text |
| latency_us | microseconds until the answer was ready |
| repeated | how many like refusals this row stands for, 1 for itself |
| chain_id | 16 random bytes, one chain per writer process |
| seq | 1, 2, 3 … in its chain |
| prev_hash, hash | the chain |
"""

import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum, unique
from hashlib import sha256
from typing import Any, Final
from uuid import UUID

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from mosaic_common.audit_heads import (
    CHAIN_ID_BYTES,
    HASH_BYTES,
    GrantHead,
    MonthEnd,
    SignedGrantHead,
    SignedMonthEnd,
    require_length,
)
from mosaic_common.decision import Verb
from mosaic_common.errors import Layer, Reason

MAX_TEXT: Final = 64

_VERSION: Final = b"\x01"
_INTEGER_LENGTH: Final = b"\x00\x00\x00\x08"
_UUID_LENGTH: Final = b"\x00\x00\x00\x10"
_NULL: Final = b"\xff\xff\xff\xff"
_OPENING: Final = b"mosaic-audit-open-v1\0"
_HEAD: Final = b"mosaic-audit-head-v1\0"
_EARLIEST: Final = -(2**63)
_SAFE: Final = re.compile(r"[\x20-\x7e]{0,64}")
_UNSAFE: Final = re.compile(r"[^\x20-\x7e]")


@unique
class Event(StrEnum):
    """What happened. The outcome says how it ended."""

    READ = "read"
    QUERY = "query"
    GRANT_CREATED = "grant.created"
    GRANT_APPROVED = "grant.approved"
    GRANT_REVOKED = "grant.revoked"
    GRANT_EXPIRED = "grant.expired"
    GRANT_DELETED = "grant.deleted"
    GRANT_LIMITED = "grant.limited"
    TOKEN_CREATED = "token.created"  # noqa: S105 — an event, not a password
    PEER_CREATED = "peer.created"
    PEER_SUSPENDED = "peer.suspended"
    PEER_RESUMED = "peer.resumed"
    PEER_REVOKED = "peer.revoked"
    PEER_DELETED = "peer.deleted"
    CONNECTION_PREPARED = "connection.prepared"
    CONNECTION_ACTIVATED = "connection.activated"
    ENROLLMENT_CLAIMED = "enrollment.claimed"
    ENROLLMENT_REPEATED = "enrollment.repeated"
    ENROLLMENT_RELEASED = "enrollment.released"
    ENROLLMENT_COMPLETED = "enrollment.completed"
    ENROLLMENT_REFUSED = "enrollment.refused"
    ENROLLMENT_UNFINISHED = "enrollment.unfinished"
    CERTIFICATE_RENEWED = "certificate.renewed"
    CERTIFICATE_REVOKED = "certificate.revoked"
    REVOCATION_NOT_ORDERED = "revocation.not_ordered"
    CREDENTIAL_RELEASED = "credential.released"
    CONNECTION_REFUSED = "connection.refused"
    CONNECTION_CONTRADICTED = "connection.contradicted"
    KEYS_RESEALED = "keys.resealed"
    CALL_REFUSED = "call.refused"


@unique
class Outcome(StrEnum):
    ALLOWED = "allowed"
    DENIED = "denied"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRow:
    """One row of federation_audit_log, before its place in a chain is known. The module's table says what each column holds."""

    request_id: UUID
    time_us: int
    event: Event
    actor: str
    source_address: str
    peer_id: UUID | None = None
    grant_id: UUID | None = None
    subject_user_id: UUID | None = None
    token_id: bytes | None = None
    verb: Verb | None = None
    resource: str = ""
    outcome: Outcome
    denied_layer: Layer | None = None
    denied_reason: Reason | None = None
    status_code: int
    result_count: int = 0
    bytes_out: int = 0
    query_hash: bytes | None = None
    latency_us: int = 0
    repeated: int = 1

    def made_safe(self) -> "AuditRow":
        """The row with its free text made printable ASCII of at most 64 characters.

        Text reaches a row from sockets, tokens and requests, and terminals from a row. One value that the database refuses would
        also hold up its whole batch.
        """
        if _SAFE.fullmatch(self.actor) and _SAFE.fullmatch(self.source_address) and _SAFE.fullmatch(self.resource):
            return self
        return replace(
            self,
            actor=_safe(self.actor),
            source_address=_safe(self.source_address),
            resource=_safe(self.resource),
        )


_COLUMNS: Final = tuple(each.name for each in fields(AuditRow))


@dataclass(frozen=True, slots=True)
class SealedRow:
    """A row with its place in a chain."""

    row: AuditRow
    chain_id: bytes
    seq: int
    prev_hash: bytes
    hash: bytes


def stored_row(columns: Mapping[str, Any]) -> SealedRow:
    """A row as it stands somewhere, by column. Nothing of it is checked: a word that nobody knows is part of the evidence."""
    place = {name: columns[name] for name in ("chain_id", "seq", "prev_hash", "hash")}
    return SealedRow(AuditRow(**{name: columns[name] for name in _COLUMNS}), **place)


@dataclass(frozen=True, slots=True)
class Chain:
    """Where a chain stands. A value, so that a batch that could not be written is sealed again from where the chain stood.

    Attributes:
        chain_id: 16 random bytes.
        seq: of the last row, 0 before the first.
        head: hash of the last row, or of the opening.
        time_us: of the last row. Time never goes back within a chain, so that a month's end cuts it at one place.
    """

    chain_id: bytes
    seq: int
    head: bytes
    time_us: int = _EARLIEST

    @classmethod
    def opened(cls, chain_id: bytes, chain_number: int, time_us: int) -> "Chain":
        """An empty chain. Its opening is countersigned like any head; gateway-wide numbers show a chain that went missing."""
        require_length("chain id", chain_id, CHAIN_ID_BYTES)
        opening = _OPENING + chain_id + struct.pack(">qq", chain_number, time_us)
        return cls(chain_id, seq=0, head=sha256(opening).digest())

    def append(self, row: AuditRow) -> SealedRow:
        """The row, made safe, as the next of this chain; dated like the one before it when a clock was set back meanwhile."""
        safe = row.made_safe()
        if safe.time_us < self.time_us:
            safe = replace(safe, time_us=self.time_us)
        seq = self.seq + 1
        return SealedRow(safe, self.chain_id, seq, self.head, row_hash(self.head, safe, self.chain_id, seq))

    def after(self, last: SealedRow) -> "Chain":
        """The chain once this row of it is written."""
        return Chain(self.chain_id, last.seq, last.hash, last.row.time_us)


def row_hash(prev_hash: bytes, row: AuditRow, chain_id: bytes, seq: int) -> bytes:
    """SHA-256, 32 bytes, of the previous hash and the canonical row."""
    return sha256(prev_hash + canonical_row(row, chain_id, seq)).digest()


def canonical_row(row: AuditRow, chain_id: bytes, seq: int) -> bytes:
    """The bytes that are hashed: exactly what the row says, nothing repaired."""
    return b"".join(
        (
            _VERSION,
            _uuid(row.request_id),
            _integer(row.time_us),
            _text(row.event),
            _text(row.actor),
            _text(row.source_address),
            _uuid(row.peer_id),
            _uuid(row.grant_id),
            _uuid(row.subject_user_id),
            _bytes(row.token_id),
            _text(row.verb),
            _text(row.resource),
            _text(row.outcome),
            _text(row.denied_layer),
            _text(row.denied_reason),
            _integer(row.status_code),
            _integer(row.result_count),
            _integer(row.bytes_out),
            _bytes(row.query_hash),
            _integer(row.latency_us),
            _integer(row.repeated),
            _bytes(chain_id),
            _integer(seq),
        )
    )


def _integer(value: int) -> bytes:
    return _INTEGER_LENGTH + value.to_bytes(8, "big", signed=True)


def _uuid(value: UUID | None) -> bytes:
    return _NULL if value is None else _UUID_LENGTH + value.bytes


def _text(value: str | None) -> bytes:
    return _NULL if value is None else _bytes(value.encode())


def _bytes(value: bytes | None) -> bytes:
    return _NULL if value is None else len(value).to_bytes(4, "big") + value


def _safe(text: str) -> str:
    return _UNSAFE.sub("?", text[:MAX_TEXT])


@dataclass(frozen=True, slots=True)
class Head:
    """What grants countersigns: where a chain stood, and when. At seq 0 it is the opening.

    Attributes:
        chain_id: 16 bytes.
        chain_number: gateway-wide, without gaps.
        hash: 32 bytes.
    """

    chain_id: bytes
    chain_number: int
    seq: int
    hash: bytes
    time_us: int

    def __post_init__(self) -> None:
        require_length("chain id", self.chain_id, CHAIN_ID_BYTES)
        require_length("head hash", self.hash, HASH_BYTES)

    @property
    def message(self) -> bytes:
        """The bytes that are signed; every part has a fixed length."""
        numbers = struct.pack(">qq", self.chain_number, self.seq)
        return _HEAD + self.chain_id + numbers + self.hash + struct.pack(">q", self.time_us)


@dataclass(frozen=True, slots=True)
class SignedHead:
    """A head whose signature holds; obtained from HeadSigner or HeadVerifier."""

    head: Head
    signature: bytes


class HeadSigner:
    """Countersigns with the gateway's audit key (Ed25519, PKCS#8 PEM)."""

    def __init__(self, private_key_pem: bytes) -> None:
        key = load_pem_private_key(private_key_pem, password=None)
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError("the audit key must be an Ed25519 key")
        self._key: Final = key

    def sign(self, head: Head) -> SignedHead:
        return SignedHead(head, self._key.sign(head.message))

    def sign_grant_head(self, head: GrantHead) -> SignedGrantHead:
        return SignedGrantHead(head, self._key.sign(head.message))

    def sign_month_end(self, end: MonthEnd) -> SignedMonthEnd:
        return SignedMonthEnd(end, self._key.sign(end.message))


class HeadVerifier:
    """Checks countersignatures; needs the public audit key only (SPKI PEM), and where it was replaced, also those before."""

    def __init__(self, *public_keys_pem: bytes) -> None:
        keys = []
        for pem in public_keys_pem:
            key = load_pem_public_key(pem)
            if not isinstance(key, Ed25519PublicKey):
                raise ValueError("the public audit key must be an Ed25519 key")
            keys.append(key)
        self._keys: Final = tuple(keys)

    def verify(self, unverified_head: Head, signature: bytes) -> SignedHead:
        """Return the head as one that this gateway signed.

        Raises:
            HeadForged: anything else.
        """
        self._verify(unverified_head.message, signature, f"the head at seq {unverified_head.seq}")
        return SignedHead(unverified_head, signature)

    def verify_grant_head(self, unverified_head: GrantHead, signature: bytes) -> SignedGrantHead:
        """Return the head of a grant as one that this gateway signed. Raises HeadForged."""
        self._verify(unverified_head.message, signature, f"the head of the grant {unverified_head.grant_id}")
        return SignedGrantHead(unverified_head, signature)

    def verify_month_end(self, unverified_end: MonthEnd, signature: bytes) -> SignedMonthEnd:
        """Return the end of a month as one that this gateway signed. Raises HeadForged."""
        self._verify(unverified_end.message, signature, f"the month's end at seq {unverified_end.seq}")
        return SignedMonthEnd(unverified_end, signature)

    def _verify(self, message: bytes, signature: bytes, what: str) -> None:
        for key in self._keys:
            try:
                key.verify(signature, message)
            except InvalidSignature:
                continue
            return
        raise HeadForged(f"{what} was not signed by this gateway's audit key")


class HeadForged(Exception):
    """A countersignature that does not hold."""


class ChainBroken(Exception):
    """The rows are not what was written.

    Attributes:
        position: index of the first row that does not fit, or the number of rows when what is missing follows them.
        seq: the sequence number that was due there.
        problem: what is wrong there, as a clause.
    """

    def __init__(self, position: int, seq: int, problem: str) -> None:
        super().__init__(f"seq {seq}: {problem}")
        self.position: Final = position
        self.seq: Final = seq
        self.problem: Final = problem


@dataclass(frozen=True, slots=True)
class Verified:
    """Rows that hold together.

    Attributes:
        end: where the chain stands after them.
        sealed_through: seq of the last countersigned row; rows after it are consistent, but whoever can write could have made them.
    """

    end: Chain
    sealed_through: int


def verify_chain(rows: Sequence[SealedRow], start: Chain, heads: Sequence[SignedHead]) -> Verified:
    """Verify consecutive rows of one chain against its countersigned heads.

    Args:
        rows: in the order of their seq.
        start: where the chain stood before the first of them.
        heads: those of other chains, and those before the start, are left aside.

    Raises:
        ChainBroken: at the first row that was edited, moved, dropped or inserted. When the hashes behind it were recomputed too, at
            the first countersigned row that contradicts them.
    """
    signed = {head.head.seq: head.head.hash for head in heads if head.head.chain_id == start.chain_id}
    sealed_through = start.seq
    chain = start
    _verify_head(signed, chain, position=0)
    for position, row in enumerate(rows):
        _verify_link(row, chain, position)
        chain = chain.after(row)
        _verify_head(signed, chain, position)
        sealed_through = chain.seq if chain.seq in signed else sealed_through
    if any(seq > chain.seq for seq in signed):
        raise ChainBroken(len(rows), chain.seq + 1, "rows are missing: a later head was countersigned")
    return Verified(chain, sealed_through)


def _verify_link(row: SealedRow, chain: Chain, position: int) -> None:
    due = chain.seq + 1
    if row.chain_id != chain.chain_id:
        raise ChainBroken(position, due, "the row belongs to another chain")
    if row.seq != due:
        raise ChainBroken(position, due, f"row {row.seq} stands here: rows were dropped, inserted or moved")
    if row.prev_hash != chain.head:
        raise ChainBroken(position, due, "the row does not continue the one before it")
    try:
        intact = row.hash == row_hash(chain.head, row.row, row.chain_id, row.seq)
    except (OverflowError, UnicodeEncodeError, AttributeError, TypeError):
        intact = False  # a value that no row can be written with
    if not intact:
        raise ChainBroken(position, due, "the row was altered")


def _verify_head(signed: dict[int, bytes], chain: Chain, position: int) -> None:
    if signed.get(chain.seq, chain.head) != chain.head:
        raise ChainBroken(position, chain.seq, "the chain was rewritten: another head was countersigned here")
