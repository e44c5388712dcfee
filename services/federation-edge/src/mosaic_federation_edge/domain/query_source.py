"""Which sources a query asks: ``local``, ``federated:<connection>`` or ``all``."""

from dataclasses import dataclass
from typing import Final

from mosaic_common.errors import InvalidInput, Layer, NotFound, Reason, Violation
from mosaic_common.identity import NAME_PATTERN

LOCAL: Final = "local"
ALL: Final = "all"
_FEDERATED: Final = "federated:"


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a query asks.

    Attributes:
        spelling: as the user wrote it; canonical, since there is only one spelling.
        local: this gateway's own rows.
        connection: exactly this connection.
        all_connections: every connection of the user.
    """

    spelling: str
    local: bool = False
    connection: str | None = None
    all_connections: bool = False


def parse_source(unverified: str) -> Chosen:
    """Read the field ``source`` of a query.

    Raises:
        InvalidInput: it is none of the three forms.
        NotFound: a connection of a name that no connection can have; a foreign one looks the same.
    """
    if unverified == LOCAL:
        return Chosen(unverified, local=True)
    if unverified == ALL:
        return Chosen(unverified, local=True, all_connections=True)
    if unverified.startswith(_FEDERATED):
        name = unverified.removeprefix(_FEDERATED)
        if not NAME_PATTERN.fullmatch(name):
            raise no_such_connection()
        return Chosen(unverified, connection=name)
    raise InvalidInput(
        Reason.REQUEST_INVALID,
        "The source is none that can be asked.",
        layer=Layer.REQUEST,
        remedy="`mosaic federation peer list --direction outbound` shows the connections by name.",
        violations=[Violation("source", "must be local, all, or federated:<connection>")],
    )


def federated(connection: str) -> str:
    """How the rows of a connection name their source."""
    return f"{_FEDERATED}{connection}"


def no_such_connection() -> NotFound:
    """One answer for a connection that is foreign, ambiguous, or not there."""
    return NotFound(
        Reason.PEER_NOT_FOUND,
        "You have no such connection.",
        layer=Layer.PEER,
        remedy="`mosaic federation peer list` shows the connections; `mosaic federation peer add` makes one.",
    )
