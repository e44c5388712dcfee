"""One tree of errors, one table from reason to status.

    MosaicError                  a typed answer: reason, sentence, remedy
    ├── InvalidInput             what the caller sent, every violation at once
    │   ├── CsrRefused           PKCS#10 syntax, signature, curve, common name
    │   ├── ScopeRefused         a scope that the schema or this gateway does not accept
    │   └── PageTokenRefused     altered, foreign or expired
    ├── AccessDenied             who asks may not; carries the layer that said so
    │   └── CertificateRefused   what the client certificate is or says
    ├── AuthRefused              an operator's or user's bearer token
    ├── TokenRefused             an enrollment token: unknown, used, expired, voided
    ├── WarrantRefused           a signing order
    ├── NotFound                 absent or invisible, never told apart
    ├── Conflict                 a guarded transition that another one won
    ├── RateLimited              carries when to come back
    ├── CaError
    │   ├── CaRefused            it answered, and has not signed
    │   ├── CaUnreachable        nobody knows whether it signed
    │   ├── CaLied               it signed something else than was ordered
    │   └── RevocationListRefused its list is not one, not its own, or older than one seen before
    ├── Unavailable              a dependency or a deadline
    └── Unimplemented            has its row and its shape, not yet its code

    ConfigurationError           stops the start; no client ever sees one

mosaic_common.rpc.status is the only place that turns these into gRPC.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, StrEnum, unique
from typing import Final


class Code(Enum):
    """gRPC status codes by number, so that pure modules need no grpc."""

    CANCELLED = 1
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


@unique
class Layer(StrEnum):
    """Which lock of a read said no; recorded as ``denied_layer``."""

    SOURCE = "source"
    CERTIFICATE = "certificate"
    GRANT = "grant"
    PEER = "peer"
    SUBJECT = "subject"
    SCOPE = "scope"
    REQUEST = "request"
    RATE = "rate"
    ROW = "row"
    CALLER = "caller"
    TOKEN = "token"
    CSR = "csr"
    CA = "ca"
    DEPENDENCY = "dependency"


@unique
class Reason(StrEnum):
    """Every reason an answer or its audit row can carry. proto/mosaic/errors/v1 holds the same names."""

    CERTIFICATE_NOT_ACCEPTED = "CERTIFICATE_NOT_ACCEPTED"
    CERTIFICATE_OID_MISSING = "CERTIFICATE_OID_MISSING"
    CERTIFICATE_OID_MALFORMED = "CERTIFICATE_OID_MALFORMED"
    CERTIFICATE_NOT_PINNED = "CERTIFICATE_NOT_PINNED"
    CERTIFICATE_REVOKED = "CERTIFICATE_REVOKED"
    GRANT_NOT_ACTIVE = "GRANT_NOT_ACTIVE"
    PEER_NOT_ACTIVE = "PEER_NOT_ACTIVE"
    SUBJECT_MISMATCH = "SUBJECT_MISMATCH"
    SUBJECT_INACTIVE = "SUBJECT_INACTIVE"
    RESOURCE_NOT_GRANTED = "RESOURCE_NOT_GRANTED"
    RESOURCE_UNKNOWN = "RESOURCE_UNKNOWN"
    RESOURCE_NOT_FOUND = "RESOURCE_NOT_FOUND"
    ROW_NOT_VISIBLE = "ROW_NOT_VISIBLE"
    ROW_OUT_OF_SCOPE = "ROW_OUT_OF_SCOPE"
    PAGE_SIZE_INVALID = "PAGE_SIZE_INVALID"
    PAGE_TOKEN_INVALID = "PAGE_TOKEN_INVALID"
    PAGE_TOKEN_EXPIRED = "PAGE_TOKEN_EXPIRED"
    RATE_LIMITED = "RATE_LIMITED"
    ENROLLMENT_TOKEN_UNKNOWN = "ENROLLMENT_TOKEN_UNKNOWN"
    ENROLLMENT_TOKEN_USED = "ENROLLMENT_TOKEN_USED"
    ENROLLMENT_TOKEN_EXPIRED = "ENROLLMENT_TOKEN_EXPIRED"
    ENROLLMENT_TOKEN_VOIDED = "ENROLLMENT_TOKEN_VOIDED"
    ENROLLMENT_IN_PROGRESS = "ENROLLMENT_IN_PROGRESS"
    CSR_MALFORMED = "CSR_MALFORMED"
    CSR_SIGNATURE_INVALID = "CSR_SIGNATURE_INVALID"
    CSR_KEY_NOT_ACCEPTED = "CSR_KEY_NOT_ACCEPTED"
    CSR_COMMON_NAME_MISMATCH = "CSR_COMMON_NAME_MISMATCH"
    CSR_MISMATCH = "CSR_MISMATCH"
    GRANT_STATE_CHANGED = "GRANT_STATE_CHANGED"
    PEER_STATE_CHANGED = "PEER_STATE_CHANGED"
    GRANT_PEER_MISMATCH = "GRANT_PEER_MISMATCH"
    CA_REFUSED = "CA_REFUSED"
    CA_UNREACHABLE = "CA_UNREACHABLE"
    CA_LIED = "CA_LIED"
    WARRANT_INVALID = "WARRANT_INVALID"
    WARRANT_EXPIRED = "WARRANT_EXPIRED"
    SCOPE_INVALID = "SCOPE_INVALID"
    SUBJECT_NOT_ELIGIBLE = "SUBJECT_NOT_ELIGIBLE"
    PEER_NOT_ELIGIBLE = "PEER_NOT_ELIGIBLE"
    APPROVAL_REQUIRED = "APPROVAL_REQUIRED"
    AUTH_TOKEN_MISSING = "AUTH_TOKEN_MISSING"
    AUTH_TOKEN_INVALID = "AUTH_TOKEN_INVALID"
    AUTH_TOKEN_EXPIRED = "AUTH_TOKEN_EXPIRED"
    AUTH_TOKEN_REVOKED = "AUTH_TOKEN_REVOKED"
    ROLE_REQUIRED = "ROLE_REQUIRED"
    GRANT_NOT_FOUND = "GRANT_NOT_FOUND"
    PEER_NOT_FOUND = "PEER_NOT_FOUND"
    NAME_TAKEN = "NAME_TAKEN"
    CALLER_NOT_ALLOWED = "CALLER_NOT_ALLOWED"
    DEPENDENCY_UNAVAILABLE = "DEPENDENCY_UNAVAILABLE"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    MESSAGE_LATE = "MESSAGE_LATE"
    MESSAGE_MALFORMED = "MESSAGE_MALFORMED"
    REQUEST_INVALID = "REQUEST_INVALID"
    AUDIT_CHAIN_BROKEN = "AUDIT_CHAIN_BROKEN"
    ANSWER_TOO_LARGE = "ANSWER_TOO_LARGE"
    CALL_CANCELLED = "CALL_CANCELLED"
    NOT_IMPLEMENTED = "NOT_IMPLEMENTED"
    INTERNAL = "INTERNAL"
    SEALING_KEY_NOT_READABLE = "SEALING_KEY_NOT_READABLE"
    REVOCATION_LIST_REFUSED = "REVOCATION_LIST_REFUSED"


@dataclass(frozen=True, slots=True)
class Status:
    """What a reason looks like on the wire."""

    code: Code
    http_status: int


_400 = Status(Code.INVALID_ARGUMENT, 400)
_400_STATE = Status(Code.FAILED_PRECONDITION, 400)
_401 = Status(Code.UNAUTHENTICATED, 401)
_403 = Status(Code.PERMISSION_DENIED, 403)
_404 = Status(Code.NOT_FOUND, 404)
_409 = Status(Code.ABORTED, 409)
_410 = Status(Code.FAILED_PRECONDITION, 410)
_503 = Status(Code.UNAVAILABLE, 503)

STATUS: Final[Mapping[Reason, Status]] = {
    Reason.CERTIFICATE_NOT_ACCEPTED: _401,
    Reason.CERTIFICATE_OID_MISSING: _401,
    Reason.CERTIFICATE_OID_MALFORMED: _401,
    Reason.CERTIFICATE_NOT_PINNED: _401,
    Reason.CERTIFICATE_REVOKED: _401,
    Reason.GRANT_NOT_ACTIVE: _403,
    Reason.PEER_NOT_ACTIVE: _403,
    Reason.SUBJECT_MISMATCH: _403,
    Reason.SUBJECT_INACTIVE: _403,
    Reason.RESOURCE_NOT_GRANTED: _403,
    Reason.RESOURCE_UNKNOWN: _400,
    Reason.RESOURCE_NOT_FOUND: _404,
    Reason.ROW_NOT_VISIBLE: _404,
    Reason.ROW_OUT_OF_SCOPE: _404,
    Reason.PAGE_SIZE_INVALID: _400,
    Reason.PAGE_TOKEN_INVALID: _400,
    Reason.PAGE_TOKEN_EXPIRED: _400,
    Reason.RATE_LIMITED: Status(Code.RESOURCE_EXHAUSTED, 429),
    Reason.ENROLLMENT_TOKEN_UNKNOWN: _404,
    Reason.ENROLLMENT_TOKEN_USED: _410,
    Reason.ENROLLMENT_TOKEN_EXPIRED: _410,
    Reason.ENROLLMENT_TOKEN_VOIDED: _410,
    Reason.ENROLLMENT_IN_PROGRESS: _409,
    Reason.CSR_MALFORMED: _400,
    Reason.CSR_SIGNATURE_INVALID: _400,
    Reason.CSR_KEY_NOT_ACCEPTED: _400,
    Reason.CSR_COMMON_NAME_MISMATCH: _400,
    Reason.CSR_MISMATCH: _400,
    Reason.GRANT_STATE_CHANGED: _409,
    Reason.PEER_STATE_CHANGED: _409,
    Reason.GRANT_PEER_MISMATCH: _400,
    Reason.CA_REFUSED: Status(Code.FAILED_PRECONDITION, 502),
    Reason.CA_UNREACHABLE: Status(Code.UNAVAILABLE, 502),
    Reason.CA_LIED: Status(Code.DATA_LOSS, 502),
    Reason.WARRANT_INVALID: _403,
    Reason.WARRANT_EXPIRED: _403,
    Reason.SCOPE_INVALID: _400,
    Reason.SUBJECT_NOT_ELIGIBLE: _400_STATE,
    Reason.PEER_NOT_ELIGIBLE: _400_STATE,
    Reason.APPROVAL_REQUIRED: _400_STATE,
    Reason.AUTH_TOKEN_MISSING: _401,
    Reason.AUTH_TOKEN_INVALID: _401,
    Reason.AUTH_TOKEN_EXPIRED: _401,
    Reason.AUTH_TOKEN_REVOKED: _401,
    Reason.ROLE_REQUIRED: _403,
    Reason.GRANT_NOT_FOUND: _404,
    Reason.PEER_NOT_FOUND: _404,
    Reason.NAME_TAKEN: Status(Code.ALREADY_EXISTS, 409),
    Reason.CALLER_NOT_ALLOWED: _403,
    Reason.DEPENDENCY_UNAVAILABLE: _503,
    Reason.DEADLINE_EXCEEDED: Status(Code.DEADLINE_EXCEEDED, 504),
    Reason.MESSAGE_LATE: Status(Code.DEADLINE_EXCEEDED, 408),
    Reason.MESSAGE_MALFORMED: _400,
    Reason.REQUEST_INVALID: _400,
    Reason.AUDIT_CHAIN_BROKEN: _409,
    Reason.ANSWER_TOO_LARGE: Status(Code.RESOURCE_EXHAUSTED, 413),
    Reason.CALL_CANCELLED: Status(Code.CANCELLED, 499),
    Reason.NOT_IMPLEMENTED: Status(Code.UNIMPLEMENTED, 501),
    Reason.INTERNAL: Status(Code.INTERNAL, 500),
    Reason.SEALING_KEY_NOT_READABLE: _400_STATE,
    Reason.REVOCATION_LIST_REFUSED: Status(Code.DATA_LOSS, 502),
}


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing wrong with the input.

    Attributes:
        field: JSON Pointer (RFC 6901) for documents, field name for messages.
        description: one sentence that says what would be right.
    """

    field: str
    description: str


class ConfigurationError(Exception):
    """The configuration cannot be used. One clear sentence; stops the start."""


class MosaicError(Exception):
    """An answer that our code makes on purpose.

    Args:
        reason: looked up in STATUS; becomes ErrorInfo.reason.
        message: one sentence for whoever called. Never holds a token, a key, a CSR or a row.
        remedy: what an operator can do; None where nobody on our side can.
        layer: which lock said no, for the audit row.
        violations: becomes BadRequest.
        retry_after: becomes RetryInfo.
        metadata: further ErrorInfo metadata, public by nature.
        recorded_reason: what the audit row says where the answer must say less.
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        remedy: str | None = None,
        layer: Layer | None = None,
        violations: Sequence[Violation] = (),
        retry_after: timedelta | None = None,
        metadata: Mapping[str, str] | None = None,
        recorded_reason: Reason | None = None,
    ) -> None:
        super().__init__(message)
        self.reason: Final = reason
        self.message: Final = message
        self.remedy: Final = remedy
        self.layer: Final = layer
        self.violations: Final = tuple(violations)
        self.retry_after: Final = retry_after
        self.metadata: Final = dict(metadata or {})
        self.recorded_reason: Final = recorded_reason or reason

    @property
    def status(self) -> Status:
        return STATUS[self.reason]


class InvalidInput(MosaicError):
    """What the caller sent cannot be used."""


class CsrRefused(InvalidInput):
    """The certificate signing request is not one that may be signed."""


class ScopeRefused(InvalidInput):
    """The scope does not hold; carries every violation."""


class PageTokenRefused(InvalidInput):
    """The page token is not one that this query may continue with."""


class AccessDenied(MosaicError):
    """Who asks may not have it."""


class CertificateRefused(AccessDenied):
    """The client certificate is not one that says exactly who."""


class AuthRefused(MosaicError):
    """The bearer token, or the role that it carries, is not enough."""


class TokenRefused(MosaicError):
    """The enrollment token opens nothing (any more)."""


class WarrantRefused(MosaicError):
    """The signing order does not hold."""


class NotFound(MosaicError):
    """Absent, or invisible to whoever asks."""


class Conflict(MosaicError):
    """Another transition came first."""


class RateLimited(MosaicError):
    """Too much, too soon."""


class CaError(MosaicError):
    """The certificate authority."""


class CaRefused(CaError):
    """The authority answered and has not signed."""


class CaUnreachable(CaError):
    """No usable answer: nobody knows whether the authority signed."""


class CaLied(CaError):
    """The authority signed something else than was ordered."""


class RevocationListRefused(CaError):
    """The authority's revocation list cannot be believed."""


class Unavailable(MosaicError):
    """A dependency, or the time left, does not allow an answer."""


class Unimplemented(MosaicError):
    """Reserved: the shape stands, the code does not yet."""


# What another service refused with is the same class here as there (mosaic_common.rpc.status).
CLASSES: Final[Mapping[Reason, type[MosaicError]]] = {
    reason: kind
    for kind, reasons in {
        InvalidInput: (Reason.RESOURCE_UNKNOWN, Reason.PAGE_SIZE_INVALID, Reason.MESSAGE_MALFORMED, Reason.REQUEST_INVALID),
        CsrRefused: (
            Reason.CSR_MALFORMED,
            Reason.CSR_SIGNATURE_INVALID,
            Reason.CSR_KEY_NOT_ACCEPTED,
            Reason.CSR_COMMON_NAME_MISMATCH,
            Reason.CSR_MISMATCH,
        ),
        ScopeRefused: (Reason.SCOPE_INVALID,),
        PageTokenRefused: (Reason.PAGE_TOKEN_INVALID, Reason.PAGE_TOKEN_EXPIRED),
        AccessDenied: (
            Reason.GRANT_NOT_ACTIVE,
            Reason.PEER_NOT_ACTIVE,
            Reason.SUBJECT_MISMATCH,
            Reason.SUBJECT_INACTIVE,
            Reason.RESOURCE_NOT_GRANTED,
            Reason.CALLER_NOT_ALLOWED,
            Reason.ROLE_REQUIRED,
        ),
        CertificateRefused: (
            Reason.CERTIFICATE_NOT_ACCEPTED,
            Reason.CERTIFICATE_OID_MISSING,
            Reason.CERTIFICATE_OID_MALFORMED,
            Reason.CERTIFICATE_NOT_PINNED,
            Reason.CERTIFICATE_REVOKED,
        ),
        AuthRefused: (
            Reason.AUTH_TOKEN_MISSING,
            Reason.AUTH_TOKEN_INVALID,
            Reason.AUTH_TOKEN_EXPIRED,
            Reason.AUTH_TOKEN_REVOKED,
        ),
        TokenRefused: (
            Reason.ENROLLMENT_TOKEN_UNKNOWN,
            Reason.ENROLLMENT_TOKEN_USED,
            Reason.ENROLLMENT_TOKEN_EXPIRED,
            Reason.ENROLLMENT_TOKEN_VOIDED,
        ),
        WarrantRefused: (Reason.WARRANT_INVALID, Reason.WARRANT_EXPIRED),
        NotFound: (
            Reason.RESOURCE_NOT_FOUND,
            Reason.ROW_NOT_VISIBLE,
            Reason.ROW_OUT_OF_SCOPE,
            Reason.GRANT_NOT_FOUND,
            Reason.PEER_NOT_FOUND,
        ),
        Conflict: (
            Reason.ENROLLMENT_IN_PROGRESS,
            Reason.GRANT_STATE_CHANGED,
            Reason.PEER_STATE_CHANGED,
            Reason.NAME_TAKEN,
            Reason.AUDIT_CHAIN_BROKEN,
        ),
        RateLimited: (Reason.RATE_LIMITED,),
        CaRefused: (Reason.CA_REFUSED,),
        CaUnreachable: (Reason.CA_UNREACHABLE,),
        CaLied: (Reason.CA_LIED,),
        RevocationListRefused: (Reason.REVOCATION_LIST_REFUSED,),
        Unavailable: (Reason.DEPENDENCY_UNAVAILABLE, Reason.DEADLINE_EXCEEDED, Reason.MESSAGE_LATE),
        Unimplemented: (Reason.NOT_IMPLEMENTED,),
    }.items()
    for reason in reasons
}

# Metadata of a CaError: "false" only where the authority cannot have signed.
CA_MAY_HAVE_SIGNED: Final = "ca_may_have_signed"
