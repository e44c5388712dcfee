"""Request fields to typed values, each with one precise refusal."""

import base64
import binascii
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final, TypeVar
from uuid import UUID

from mosaic.audit.v1 import audit_pb2
from mosaic.errors.v1 import errors_pb2
from mosaic.grants.v1 import types_pb2
from mosaic_common.audit_heads import SIGNATURE_BYTES, GrantHead, SignedGrantHead
from mosaic_common.decision import RateLimit
from mosaic_common.errors import InvalidInput, Layer, NotFound, Reason, Violation

DEFAULT_PAGE: Final = 50
MAX_PAGE: Final = 500
MAX_PER_SECOND: Final = 100_000
MAX_BURST: Final = 1_000_000

State = TypeVar("State", bound=StrEnum)


def parse_uuid(value: str, *, field: str) -> UUID:
    """Read a UUID in its one canonical spelling."""
    try:
        parsed = UUID(value)
    except ValueError:
        parsed = None
    if parsed is None or str(parsed) != value:
        raise InvalidInput(
            Reason.REQUEST_INVALID,
            f"{field} is not a UUID.",
            layer=Layer.REQUEST,
            violations=[Violation(field, "must be a UUID of 36 lower-case characters")],
        )
    return parsed


def parse_grant_id(value: str) -> UUID:
    """Read a grant's id; what is none names no grant."""
    try:
        return UUID(value)
    except ValueError:
        raise NotFound(
            Reason.GRANT_NOT_FOUND,
            f"There is no grant {value[:64]!r}.",
            layer=Layer.GRANT,
            remedy="Name it by its whole id (`mosaic federation grant list`).",
        ) from None


def parse_token_id(value: bytes) -> bytes:
    """Read an enrollment token's name: the SHA-256 of its public key."""
    if len(value) != 32:
        raise InvalidInput(Reason.REQUEST_INVALID, "token_id is no SHA-256.", layer=Layer.REQUEST)
    return value


def parse_page_size(value: int, *, default: int = DEFAULT_PAGE, longest: int = MAX_PAGE) -> int:
    if value < 0:
        raise InvalidInput(
            Reason.PAGE_SIZE_INVALID,
            "A page has no negative size.",
            layer=Layer.REQUEST,
            violations=[Violation("page_size", f"must be 0 (for {default}) or more")],
        )
    return min(value or default, longest)


def parse_int64(value: object) -> int:
    """Read a number that a column can hold. Raises ValueError."""
    number = int(str(value))
    if not -(2**63) <= number < 2**63:
        raise ValueError("no 64-bit integer")
    return number


def parse_duration(seconds: int) -> timedelta:
    """Read a number of seconds that a timedelta, and a calendar, can hold."""
    if abs(seconds) > 100 * 366 * 86400:
        raise InvalidInput(Reason.REQUEST_INVALID, "That duration is longer than a century.", layer=Layer.REQUEST)
    return timedelta(seconds=seconds)


def parse_limit(unverified_limit: types_pb2.RateLimit) -> RateLimit:
    """Read how much a grant may ask: both numbers, or the whole message is left out."""
    per_second, burst = unverified_limit.per_second, unverified_limit.burst
    violations = []
    if not (1 <= per_second <= MAX_PER_SECOND and per_second.is_integer()):  # NaN is neither
        violations.append(Violation("limit.per_second", f"must be a whole number from 1 to {MAX_PER_SECOND}"))
    if not 1 <= burst <= MAX_BURST:
        violations.append(Violation("limit.burst", f"must be from 1 to {MAX_BURST}"))
    if violations:
        raise InvalidInput(Reason.REQUEST_INVALID, "That is no limit.", layer=Layer.REQUEST, violations=violations)
    return RateLimit(per_second, burst)


def page_token(created_at: datetime, row_id: UUID) -> str:
    """Where an operator's list goes on. Not sealed: operators may see every row of it anyway."""
    return base64.urlsafe_b64encode(f"{micros(created_at)}:{row_id}".encode()).decode()


def parse_page_token(value: str) -> tuple[datetime, UUID] | None:
    if not value:
        return None
    try:
        time_us, _, row_id = base64.b64decode(value, altchars=b"-_", validate=True).decode("ascii").partition(":")
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=int(time_us)), UUID(row_id)
    except (binascii.Error, ValueError, OverflowError):
        raise InvalidInput(
            Reason.PAGE_TOKEN_INVALID,
            "The page token is none of this list's.",
            layer=Layer.REQUEST,
            remedy="Begin again without one.",
        ) from None


def micros(moment: datetime) -> int:
    """Microseconds since 1970 UTC, exactly."""
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def parse_filter(value: int, messages: Iterable[tuple[str, int]], kind: type[State], *, field: str) -> State | None:
    """Read a state by which a list is narrowed; 0 is none.

    Args:
        messages: names and numbers of the message's enum, ``KIND_STATE``.
    """
    if not value:
        return None
    name = next((name.rpartition("_")[2] for name, number in messages if number == value), "")
    if name not in kind.__members__:
        raise InvalidInput(
            Reason.REQUEST_INVALID,
            f"{field} is none that this version knows.",
            layer=Layer.REQUEST,
            violations=[Violation(field, f"must be one of {', '.join(kind)}")],
        )
    return kind[name]


def parse_reason(value: errors_pb2.Reason.ValueType) -> Reason:
    """Read a reason that another service names."""
    name = errors_pb2.Reason.Name(value).removeprefix("REASON_") if value in errors_pb2.Reason.values() else ""
    if name not in Reason.__members__:
        raise InvalidInput(Reason.REQUEST_INVALID, "reason is none that this version knows.", layer=Layer.REQUEST)
    return Reason[name]


def parse_grant_head(unverified_head: audit_pb2.GrantAuditHead) -> SignedGrantHead | None:
    """Read what another gateway says of its record; None when it has not the form of a head."""
    try:
        head = GrantHead(UUID(unverified_head.grant_id), unverified_head.rows, unverified_head.hash, unverified_head.time_us)
    except ValueError:
        return None
    if head.rows < 1 or len(unverified_head.signature) != SIGNATURE_BYTES:
        return None
    return SignedGrantHead(head, unverified_head.signature)


def parse_text(value: str, *, field: str, longest: int = 200) -> str:
    """Read free text that is stored, looked for and shown in terminals: one line of printable characters."""
    if len(value) > longest or not value.isprintable():
        raise InvalidInput(
            Reason.REQUEST_INVALID,
            f"{field} cannot be used.",
            layer=Layer.REQUEST,
            violations=[Violation(field, f"must be one line of at most {longest} printable characters")],
        )
    return value
