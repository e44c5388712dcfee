"""Users and teams: the application's, read only."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from mosaic_grants.adapters.ledger.statements import Statements, find_uuid
from mosaic_grants.domain.model import User


class Users:
    def __init__(self, statements: Statements) -> None:
        self._sql = statements

    async def find(self, user: str) -> User | None:
        """Find by UUID or email."""
        if not user.isprintable():
            return None  # PostgreSQL cannot hold a NUL, and nobody is called so
        row = await self._sql.first(
            "SELECT id, email, active FROM public.users WHERE id = :id OR email = :email ORDER BY id = :id DESC LIMIT 1",
            id=find_uuid(user),
            email=user,
        )
        return User(row.id, row.email, row.active) if row else None

    async def teams_of(self, user_id: UUID, teams: Sequence[UUID]) -> frozenset[UUID]:
        """Return which of the teams exist and have the user as a member."""
        rows = await self._sql.all(
            """SELECT m.team_id FROM public.team_members m JOIN public.teams t ON t.id = m.team_id
               WHERE m.user_id = :user AND m.team_id = ANY(:teams)""",
            user=user_id,
            teams=list(teams),
        )
        return frozenset(row.team_id for row in rows)

    async def team_names(self, teams: Sequence[UUID]) -> Mapping[UUID, str]:
        """Return the names of those teams that exist."""
        rows = await self._sql.all("SELECT id, name FROM public.teams WHERE id = ANY(:teams)", teams=list(teams))
        return {row.id: row.name for row in rows}
