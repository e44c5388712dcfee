"""What operators ask of the record, and what of it is told beside its rows."""

from dataclasses import dataclass
from uuid import UUID

from mosaic_common.audit import Outcome
from mosaic_common.audit_heads import SignedGrantHead


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFilter:
    """Which rows are asked for; None asks for all.

    Attributes:
        event: one, or with a full stop at its end all that begin so.
        since_us: from this moment on.
        until_us: before this moment.
    """

    peer_id: UUID | None = None
    grant_id: UUID | None = None
    subject_user_id: UUID | None = None
    event: str | None = None
    outcome: Outcome | None = None
    denied_reason: str | None = None
    request_id: UUID | None = None
    actor: str | None = None
    since_us: int | None = None
    until_us: int | None = None


@dataclass(frozen=True, slots=True)
class RowPlace:
    """Where a row stands among all, by time; rows of one moment by chain and seq."""

    time_us: int
    chain_id: bytes
    seq: int


@dataclass(frozen=True, slots=True)
class Bounds:
    """How far an export goes, whatever is written meanwhile.

    Attributes:
        last_chain: by number.
        last_round_us: what was countersigned later is left out.
        rows_until_us: rows that are dated later are left out.
    """

    last_chain: int
    last_round_us: int
    rows_until_us: int


@dataclass(frozen=True, slots=True)
class Opening:
    """The countersigned beginning of a chain, as it is stored."""

    chain_id: bytes
    chain_number: int
    writer: str
    opened_at_us: int
    opening_hash: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class ReceivedHead:
    """What the other gateway of a connection said of its own record."""

    peer_id: UUID
    connection: str
    received_at_us: int
    signed: SignedGrantHead
