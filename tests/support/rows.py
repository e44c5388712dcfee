"""Rows as the owner writes them, for tests of what the database itself does with them."""

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Final
from uuid import UUID, uuid4

import psycopg
from mosaic_common.resources import REGISTRY, ColumnType
from psycopg import sql

_EVERYTHING: Final = {"resources": list(REGISTRY), "max_rows_per_query": 10_000}


@dataclass(frozen=True, slots=True)
class WrittenGrant:
    """A grant with the certificate that was pinned for it."""

    id: UUID
    fingerprint: bytes
    peer_id: UUID
    subject: UUID


class Rows:
    """Writes users, teams, resource rows, peers and grants; every value that a test does not care about is made up."""

    def __init__(self, owner: psycopg.Connection) -> None:
        self.owner: Final = owner
        self._serials = itertools.count(1)

    def user(self, *, active: bool = True) -> UUID:
        user = uuid4()
        statement = "INSERT INTO public.users (id, email, name, active) VALUES (%s, %s, %s, %s)"
        self.owner.execute(statement, (user, f"{user}@example.com", "Somebody", active))
        return user

    def team(self, *members: UUID) -> UUID:
        team = uuid4()
        self.owner.execute("INSERT INTO public.teams (id, name) VALUES (%s, 'A team')", (team,))
        for member in members:
            self.owner.execute("INSERT INTO public.team_members (user_id, team_id) VALUES (%s, %s)", (member, team))
        return team

    def resource(
        self, name: str, owner: UUID, team: UUID | None = None, updated_at: datetime | str | None = None, **columns: object
    ) -> UUID:
        """One row of a resource; updated_at may be 'infinity'. Every text that is not given, secrets too, is the column's name."""
        row = uuid4()
        values: dict[str, object] = {
            column.name: column.name if column.type is ColumnType.TEXT else None
            for column in REGISTRY[name].own_columns
            if not (column.type is ColumnType.TIMESTAMPTZ and not column.nullable)
        }
        values |= {"id": row, "owner_id": owner, "team_id": team, "updated_at": updated_at or datetime.now(UTC)}
        # pgvector reads what JSON writes.
        values |= {name: json.dumps(value) if isinstance(value, list) else value for name, value in columns.items()}
        self.insert(REGISTRY[name].table, values)
        return row

    def peer(self, state: str = "active") -> UUID:
        peer = uuid4()
        revoked_at = datetime.now(UTC) if state == "revoked" else None
        values = {"id": peer, "name": f"p{peer.hex}", "common_name": f"p{peer.hex}", "direction": "inbound", "state": state}
        activated_at = datetime.now(UTC) if state in {"active", "suspended"} else None
        self.insert(
            "federation.federation_peers",
            {**values, "created_by": "test", "revoked_at": revoked_at, "activated_at": activated_at},
        )
        return peer

    def grant(self, subject: UUID, scope: Mapping[str, Any] = _EVERYTHING) -> WrittenGrant:
        """An active grant of an active peer with an active certificate, approved whatever it names."""
        grant = WrittenGrant(id=uuid4(), fingerprint=sha256(uuid4().bytes).digest(), peer_id=self.peer(), subject=subject)
        values = {"id": grant.id, "subject_user_id": subject, "peer_id": grant.peer_id, "status": "active"}
        self.insert(
            "federation.federation_grants",
            {**values, "scope": json.dumps(scope), "created_by": "test", "approved_by": "test", "activated_at": datetime.now(UTC)},
        )
        self.certificate(grant.id, grant.fingerprint)
        return grant

    def certificate(self, grant_id: UUID, fingerprint: bytes) -> None:
        now = datetime.now(UTC)
        values = {"fingerprint_sha256": fingerprint, "grant_id": grant_id, "serial": next(self._serials), "der": b"der"}
        values |= {"chain_pem": "chain", "spki_sha256": sha256(b"key").digest()}
        self.insert(
            "federation.federation_certificates",
            {**values, "not_before": now - timedelta(days=1), "not_after": now + timedelta(days=29)},
        )

    def insert(self, table: str, values: Mapping[str, object]) -> None:
        statement = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
            sql.Identifier(*table.split(".")),
            sql.SQL(", ").join(map(sql.Identifier, values)),
            sql.SQL(", ").join(sql.Placeholder() * len(values)),
        )
        self.owner.execute(statement, list(values.values()))
