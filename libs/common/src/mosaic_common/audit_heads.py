"""What grants countersigns beside the heads of chains: how one grant's record stood, and where a chain stood when a month ended.

A *round* is what grants countersigns at once: every chain that moved, with one common time, later than any round's before. The rows
that a round covers for the first time are appended to their grants' own histories, ordered by chain number and seq:

    hash = SHA-256("mosaic-audit-grant-rows-v1" 0x00 ‖ grant id, 16 ‖ previous hash, 32 (first: zeros) ‖ the rows' hashes, 32 each)

It counts one grant's rows and no others, so that it may be told to that grant's peer. Whoever rewrites what is behind it, with
every key of this gateway in hand, still contradicts what the peer kept.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Final
from uuid import UUID

HASH_BYTES: Final = 32
CHAIN_ID_BYTES: Final = 16
SIGNATURE_BYTES: Final = 64

LATE: Final = timedelta(minutes=10)
"""How long after a month it is closed: a clock may be five minutes behind, and a commit may be repeated. A row that waited out an
outage may be a day late; then the month waits too (grants, retention).

What was countersigned later than that after the last month that was dropped is not of that month: no retention excuses its absence.
"""

_GRANT_ROWS: Final = b"mosaic-audit-grant-rows-v1\0"
_GRANT_HEAD: Final = b"mosaic-audit-grant-head-v1\0"
_MONTH_END: Final = b"mosaic-audit-month-end-v1\0"
_FIRST_YEAR: Final = 1970
_LAST_YEAR: Final = 9999


@dataclass(frozen=True, slots=True)
class GrantHead:
    """How one grant's record stood after a round.

    Attributes:
        rows: of this grant, countersigned so far.
        hash: over them, 32 bytes.
        time_us: of the round.
    """

    grant_id: UUID
    rows: int
    hash: bytes
    time_us: int

    def __post_init__(self) -> None:
        require_length("head hash", self.hash, HASH_BYTES)

    @classmethod
    def beginning(cls, grant_id: UUID) -> "GrantHead":
        """The head of a grant of which nothing is recorded yet; nobody signs it."""
        return cls(grant_id, rows=0, hash=bytes(HASH_BYTES), time_us=0)

    def after(self, row_hashes: Iterable[bytes], time_us: int) -> "GrantHead":
        """The head after a round that covered these further rows, in their order."""
        hashes = tuple(row_hashes)
        digest = sha256(b"".join((_GRANT_ROWS, self.grant_id.bytes, self.hash, *hashes))).digest()
        return GrantHead(self.grant_id, self.rows + len(hashes), digest, time_us)

    @property
    def message(self) -> bytes:
        """The bytes that are signed; every part has a fixed length."""
        return _GRANT_HEAD + self.grant_id.bytes + struct.pack(">q", self.rows) + self.hash + struct.pack(">q", self.time_us)


@dataclass(frozen=True, slots=True)
class SignedGrantHead:
    """A grant's head with its signature; whether that holds, whoever has the key finds out."""

    head: GrantHead
    signature: bytes


@dataclass(frozen=True, slots=True)
class MonthEnd:
    """Where a chain stood when a month had ended. The rows up to it may be dropped, because this vouches for where the rest begins.

    Attributes:
        seq: of the chain's last row in that month.
        hash: of that row, 32 bytes.
        ends_us: the first microsecond after the month.
    """

    chain_id: bytes
    chain_number: int
    seq: int
    hash: bytes
    ends_us: int
    time_us: int

    def __post_init__(self) -> None:
        require_length("chain id", self.chain_id, CHAIN_ID_BYTES)
        require_length("row hash", self.hash, HASH_BYTES)

    @property
    def message(self) -> bytes:
        """The bytes that are signed; every part has a fixed length. Not those of a head: a chain may begin at no other place."""
        numbers = struct.pack(">qq", self.chain_number, self.seq)
        return _MONTH_END + self.chain_id + numbers + self.hash + struct.pack(">qq", self.ends_us, self.time_us)


@dataclass(frozen=True, slots=True)
class SignedMonthEnd:
    """A month's end with its signature."""

    end: MonthEnd
    signature: bytes


def find_contradiction(kept: Iterable[GrantHead], told: GrantHead) -> GrantHead | None:
    """Return a head told before that cannot be of the same history as this one; of the same grant, in any order.

    An older head may come after a newer one: answers overtake each other.
    """
    return next((each for each in kept if _contradict(each, told)), None)


def _contradict(one: GrantHead, other: GrantHead) -> bool:
    if one.rows == other.rows or one.time_us == other.time_us:
        return (one.rows, one.hash, one.time_us) != (other.rows, other.hash, other.time_us)
    return (one.rows < other.rows) != (one.time_us < other.time_us)


def month_start(time_us: int) -> datetime:
    """The first moment of the month that a time lies in; what no calendar holds counts to its first or last."""
    try:
        moment = datetime.fromtimestamp(time_us // 1_000_000, UTC)
    except (OverflowError, ValueError, OSError):
        moment = datetime(_LAST_YEAR if time_us > 0 else _FIRST_YEAR, 1, 1, tzinfo=UTC)
    return datetime(moment.year, moment.month, 1, tzinfo=UTC)


def month_after(month: datetime) -> datetime:
    """The first moment of the next month."""
    return datetime(month.year + month.month // 12, month.month % 12 + 1, 1, tzinfo=UTC)


def require_length(what: str, value: bytes, length: int) -> None:
    if len(value) != length:
        raise ValueError(f"the {what} must be {length} bytes, not {len(value)}")
