"""Ways to take a client's rights away, and to give them back: what an operator's API does where there is one, else SQL.

Each returns when its commit is known.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Final, Self
from uuid import UUID

from mosaic.federation.v1 import federation_pb2 as pb
from mosaic_common.resources import REGISTRY

from tests.support.gateway import Gateway
from tests.support.hammers import Read
from tests.support.operators import resume, revoke, revoke_grant, suspend
from tests.support.peers import PeerClient
from tests.support.rows import Rows

WORD: Final = "harvest"
_EMBEDDING: Final = REGISTRY["memory"].embedding
assert _EMBEDDING is not None
NEAR: Final = [1.0] + [0.0] * (_EMBEDDING.dimension - 1)


@dataclass(frozen=True, slots=True)
class Holder:
    """A user with rows of their own and of a team, and the one peer that may read all of them.

    Attributes:
        own, of_team: ids of rows; the team's are a colleague's.
    """

    gateway: Gateway
    peer: str
    client: PeerClient
    user: UUID
    team: UUID
    own: frozenset[str]
    of_team: frozenset[str]

    @classmethod
    async def enrolled(cls, gateway: Gateway, name: str, *, filtered: bool) -> Self:
        """Args:
        filtered: the scope names the team, rather than nothing.
        """
        own_channels = replace(gateway, _channels=[])
        with gateway.database.connect() as owner:
            rows = Rows(owner)
            user, colleague = rows.user(), rows.user()
            team = rows.team(user, colleague)
            # The team's first: they are on the second page.
            of_team, own = (
                frozenset(
                    str(row)
                    for row in (
                        rows.resource("tasks", who, where, title=f"{WORD} of {name}"),
                        rows.resource("memory", who, where, content=f"{WORD} of {name}", embedding=NEAR),
                    )
                )
                for who, where in ((colleague, team), (user, None))
            )
        names = {"include_teams": [str(team)], "include_personal": True}
        filters = {"filters": {"tasks": names, "memory": names}} if filtered else {}
        scope = {"resources": ["tasks", "memory"], "max_rows_per_query": 50, **filters}
        client = await own_channels.enroll(user=str(user), peer=name, scope=scope)
        return cls(own_channels, name, client, user, team, own, of_team)

    @property
    def rows(self) -> frozenset[str]:
        return self.own | self.of_team

    async def requests(self) -> dict[Read, Any]:
        """One of each kind; the page token is of the first page as it is now."""
        first, second = await self.client.list_all("tasks", page_size=1)
        own, of_team = first.resources[0].id, second.resources[0].id
        return {
            Read.LIST: pb.ListResourcesRequest(resource="tasks"),
            Read.NEXT_PAGE: pb.ListResourcesRequest(resource="tasks", page_size=1, page_token=first.next_page_token),
            Read.GET: pb.GetResourceRequest(resource="tasks", id=own),
            Read.GET_OF_TEAM: pb.GetResourceRequest(resource="tasks", id=of_team),
            Read.SEARCH: pb.SearchResourcesRequest(resources=["tasks", "memory"], query=WORD),
            Read.NEAREST: pb.SearchResourcesRequest(resources=["memory"], embedding=NEAR),
            Read.CAPABILITIES: pb.GetCapabilitiesRequest(),
        }

    @property
    def grant_id(self) -> UUID:
        return UUID(self.client.grant_id)


@dataclass(frozen=True, slots=True)
class Way:
    """Attributes:
    refused: code and reason of every call from then on; empty where only the team's rows are gone.
    restore: None where there is no way back.
    """

    name: str
    revoke: Callable[[Holder], Awaitable[None]]
    refused: frozenset[str]
    restore: Callable[[Holder], Awaitable[None]] | None = None
    watched_ns: int = 0

    def __str__(self) -> str:
        return self.name


def _sql(statement: str) -> Callable[[Holder], Awaitable[None]]:
    async def execute(holder: Holder) -> None:
        known = {"user": holder.user, "team": holder.team, "grant": holder.grant_id}
        with holder.gateway.database.connect() as owner:
            assert owner.execute(statement.encode(), known).rowcount

    return execute


async def _suspend(holder: Holder) -> None:
    await suspend(holder.gateway, holder.peer)


async def _resume(holder: Holder) -> None:
    await resume(holder.gateway, holder.peer)


async def _revoke_peer(holder: Holder) -> None:
    await revoke(holder.gateway, holder.peer)


async def _revoke_grant(holder: Holder) -> None:
    await revoke_grant(holder.gateway, holder.grant_id)


def _certificate(state: str) -> Callable[[Holder], Awaitable[None]]:
    return _sql(f"UPDATE federation.federation_certificates SET {state} WHERE grant_id = %(grant)s")


_LIVE: Final = _certificate("state = 'active', revoked_at = NULL, superseded_at = NULL")

_REVOKED: Final = frozenset(["UNAUTHENTICATED CERTIFICATE_REVOKED"])
_NOT_ACTIVE: Final = frozenset(["PERMISSION_DENIED GRANT_NOT_ACTIVE"])
# A sweep ends the grant of a user who is gone: then its own end is the earlier lock.
_NO_SUBJECT: Final = _NOT_ACTIVE | {"PERMISSION_DENIED SUBJECT_INACTIVE"}

SUSPENDED: Final = Way("peer suspended", _suspend, frozenset(["PERMISSION_DENIED PEER_NOT_ACTIVE"]), _resume)
# Longer than an edge remembers the grant as it was before: until then only the database refuses, afterwards the edge itself.
SUSPENDED_FOR_LONG: Final = replace(SUSPENDED, name="peer suspended for long", watched_ns=5_500_000_000)
LEFT: Final = Way(
    "membership removed",
    _sql("DELETE FROM public.team_members WHERE user_id = %(user)s AND team_id = %(team)s"),
    frozenset(),
    _sql("INSERT INTO public.team_members (user_id, team_id) VALUES (%(user)s, %(team)s)"),
)
CERTIFICATES: Final = (
    Way("certificate revoked", _certificate("state = 'revoked', revoked_at = now()"), _REVOKED, _LIVE),
    Way(
        "certificate superseded a day ago",
        _certificate("state = 'superseded', superseded_at = now() - interval '24 hours 1 second'"),
        _REVOKED,
        _LIVE,
    ),
)
FINAL: Final = (
    Way("grant revoked", _revoke_grant, _NOT_ACTIVE),
    Way("peer revoked", _revoke_peer, _NOT_ACTIVE),
    Way("user disabled", _sql("UPDATE public.users SET active = false WHERE id = %(user)s"), _NO_SUBJECT),
    Way("user removed", _sql("DELETE FROM public.users WHERE id = %(user)s"), _NO_SUBJECT),
    Way("grant expired", _sql("UPDATE federation.federation_grants SET expires_at = now() WHERE id = %(grant)s"), _NOT_ACTIVE),
)
LOSSES: Final = 4


def life_of(number: int) -> tuple[Way, ...]:
    """What befalls one client, one after the other: so many losses, the last of them for good."""
    suspended = SUSPENDED_FOR_LONG if number % 5 == 4 else SUSPENDED
    return (LEFT, suspended, CERTIFICATES[number % len(CERTIFICATES)], FINAL[number % len(FINAL)])
