"""What the functions in schema federation refuse with, by SQLSTATE.

Class MF is ours: classes that begin with I…Z are left to implementations (SQL:2016 §24.1), and PostgreSQL uses none of its letters.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from mosaic_common.errors import Layer, Reason


@dataclass(frozen=True, slots=True)
class Refusal:
    """A denial as the database says it.

    Attributes:
        grant_status: how the grant of a pinned certificate ended, which its peer may know; else None.
    """

    layer: Layer
    reason: Reason
    grant_status: str | None = None


REFUSALS: Final[Mapping[str, Refusal]] = MappingProxyType(
    {
        "MF001": Refusal(Layer.GRANT, Reason.GRANT_NOT_ACTIVE),  # unknown, or pending
        "MF002": Refusal(Layer.CERTIFICATE, Reason.CERTIFICATE_NOT_PINNED),
        "MF003": Refusal(Layer.GRANT, Reason.GRANT_NOT_ACTIVE, grant_status="revoked"),
        "MF004": Refusal(Layer.GRANT, Reason.GRANT_NOT_ACTIVE, grant_status="expired"),
        "MF005": Refusal(Layer.PEER, Reason.PEER_NOT_ACTIVE),
        "MF006": Refusal(Layer.CERTIFICATE, Reason.CERTIFICATE_REVOKED),
        "MF007": Refusal(Layer.CERTIFICATE, Reason.CERTIFICATE_NOT_ACCEPTED),  # expired
        "MF008": Refusal(Layer.SUBJECT, Reason.SUBJECT_INACTIVE),
        "MF009": Refusal(Layer.SCOPE, Reason.RESOURCE_NOT_GRANTED),
    }
)
"""What a read function answers to a peer's call, and MF008 to a local user's."""

CALL_OUT_OF_BOUNDS: Final = "MF020"
"""Our own mistake, never a peer's: row_limit, keyset or isolation level that no caller may use."""
QUERY_NOT_PARSED: Final = "MF021"
"""A search for which PostgreSQL's parser has no room, though it is within what the edge lets through."""
AUDIT_NOT_CONTINUOUS: Final = "MF030"
"""append_audit: the rows do not continue the chain's head, and are not what it holds already."""
AUDIT_CHAIN_NOT_OPEN: Final = "MF031"
"""append_audit: no such chain, closed, or another writer's."""
AUDIT_ROW_NOT_PERMITTED: Final = "MF032"
"""append_audit: an event that is not this writer's to record; a time before the chain's last row, more than 5 minutes ahead of the
database's clock, or more than a day behind it."""
AUDIT_HASH_WRONG: Final = "MF033"
"""append_audit: a hash is not that of its row."""
