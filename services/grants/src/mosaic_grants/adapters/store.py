"""The ledger in PostgreSQL. Every transition is one UPDATE whose WHERE clause is its guard."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from mosaic_common.audit import AuditRow, SignedHead
from mosaic_common.errors import Conflict, Layer, NotFound, Reason, Unavailable
from mosaic_common.scope import parse_scope
from mosaic_common.x509 import IssuedCertificate
from sqlalchemy import Row, text
from sqlalchemy.exc import IntegrityError, ProgrammingError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from mosaic_grants.adapters.audit_log import AuditLog
from mosaic_grants.adapters.upgrade import Missing, missing_privileges
from mosaic_grants.domain.lifecycle import ENROLLED_FROM, GRANT_SOURCES, Direction, GrantStatus, PeerState
from mosaic_grants.domain.model import (
    Certificate,
    Claim,
    ConnectionKey,
    Grant,
    GrantDraft,
    Peer,
    Prepared,
    Received,
    Recorded,
    Token,
    TokenDraft,
    User,
)

# What an operator sees is what is in force: a grant past its end is expired before any sweep has written so.
_GRANTS: Final = """
    SELECT g.id, g.subject_user_id, g.peer_id, g.scope, g.created_by, g.approved_by, g.created_at, g.activated_at, g.expires_at,
           g.revoked_at, g.revoked_reason, p.name AS peer_name, u.email, u.active,
           CASE WHEN g.status IN ('pending', 'active') AND g.expires_at <= now() THEN 'expired' ELSE g.status END AS status
    FROM federation.federation_grants g
    JOIN federation.federation_peers p ON p.id = g.peer_id
    LEFT JOIN public.users u ON u.id = g.subject_user_id
"""
_PEERS: Final = """
    SELECT p.*, u.email AS local_user_email
    FROM federation.federation_peers p LEFT JOIN public.users u ON u.id = p.local_user_id
"""


class PostgresLedger:
    """Opens transactions."""

    def __init__(self, engine: AsyncEngine, audit: AuditLog) -> None:
        self._engine = engine
        self._audit = audit

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator["Transaction"]:
        """Run a block in one transaction; audit rows that it adds are appended and committed with it.

        Raises:
            Unavailable: the database does not answer. Whether the block took effect is then unknown; every step that
                matters is safe to repeat.
        """
        try:
            async with self._engine.connect() as connection, connection.begin() as outer:
                now = (await connection.execute(text("SELECT now()"))).scalar_one()
                tx = Transaction(connection, now)
                yield tx
                if tx.audit_rows:
                    # Taken last and held for an append and a commit only: nobody waits for a row while holding it.
                    async with self._audit.lock:
                        sealed = await self._audit.append(connection, tx.audit_rows)
                        await outer.commit()
                        self._audit.committed(sealed)
        except IntegrityError:
            raise  # a constraint has said no to a rule that the domain should have refused: a bug, reported as such
        except (SQLAlchemyError, OSError) as error:
            raise _unavailable() from error

    async def ping(self) -> None:
        async with self._engine.connect() as connection:
            await connection.execute(text("SELECT 1"))

    async def find_schema_version(self) -> str | None:
        """Return the schema's version, None where there is none that this role may read.

        Raises:
            Unavailable: the database does not answer.
        """
        try:
            async with self._engine.connect() as connection:
                return str((await connection.execute(text("SELECT federation.schema_version()"))).scalar_one())
        except ProgrammingError:
            return None
        except (SQLAlchemyError, OSError) as error:
            raise _unavailable() from error

    async def open_chain(self, writer: str) -> SignedHead:
        """Open an audit chain for another writer process and return its countersigned opening."""
        async with self.transaction() as tx:
            return await self._audit.open(tx.connection, writer)

    async def countersign(self) -> list[SignedHead]:
        async with self.transaction() as tx:
            return await self._audit.countersign(tx.connection)

    async def missing(self) -> tuple[Missing, ...]:
        """Return what the owner of the application's tables has still to allow."""
        async with self._engine.connect() as connection:
            return await connection.run_sync(missing_privileges)

    async def close(self) -> None:
        await self._engine.dispose()


class Transaction:
    """One snapshot's worth of deeds. ``now`` is the database's clock."""

    def __init__(self, connection: AsyncConnection, now: datetime) -> None:
        self.connection = connection
        self.now = now
        self.audit_rows: list[AuditRow] = []

    def audit(self, row: AuditRow) -> None:
        """Have this row appended in the same transaction."""
        self.audit_rows.append(row)

    # --- users and teams: the application's, read only

    async def find_user(self, user: str) -> User | None:
        """Find by UUID or email."""
        row = await self._first(
            "SELECT id, email, active FROM public.users WHERE id = :id OR email = :email ORDER BY id = :id DESC LIMIT 1",
            id=_find_uuid(user),
            email=user,
        )
        return User(row.id, row.email, row.active) if row else None

    async def teams_of(self, user_id: UUID, teams: Sequence[UUID]) -> frozenset[UUID]:
        rows = await self._all(
            """SELECT m.team_id FROM public.team_members m JOIN public.teams t ON t.id = m.team_id
               WHERE m.user_id = :user AND m.team_id = ANY(:teams)""",
            user=user_id,
            teams=list(teams),
        )
        return frozenset(row.team_id for row in rows)

    # --- grants

    async def get_grant(self, grant_id: UUID) -> Grant:
        row = await self._first(f"{_GRANTS} WHERE g.id = :id", id=grant_id)
        if row is None:
            raise NotFound(
                Reason.GRANT_NOT_FOUND,
                f"There is no grant {grant_id}.",
                layer=Layer.GRANT,
                remedy="`mosaic federation grant list` shows all.",
            )
        return _grant(row)

    async def list_grants(
        self, *, limit: int, after: tuple[datetime, UUID] | None, peer: str, status: GrantStatus | None
    ) -> list[Grant]:
        rows = await self._all(
            f"""SELECT * FROM ({_GRANTS}) g
                WHERE (:peer = '' OR g.peer_name = :peer OR g.peer_id = :peer_id)
                  AND (CAST(:status AS text) IS NULL OR g.status = :status)
                  AND (CAST(:after_time AS timestamptz) IS NULL OR (g.created_at, g.id) < (:after_time, CAST(:after_id AS uuid)))
                ORDER BY g.created_at DESC, g.id DESC LIMIT :limit""",  # noqa: S608 - constants
            peer=peer,
            peer_id=_find_uuid(peer),
            status=status,
            after_time=after[0] if after else None,
            after_id=after[1] if after else None,
            limit=limit,
        )
        return [_grant(row) for row in rows]

    async def insert_grant(self, draft: GrantDraft, *, actor: str) -> Grant:
        row = await self._one(
            """INSERT INTO federation.federation_grants (subject_user_id, peer_id, scope, created_by, approved_by, expires_at)
               VALUES (:subject, :peer, CAST(:scope AS jsonb), :actor, :approved_by, now() + CAST(:life AS interval))
               RETURNING id""",
            subject=draft.subject.id,
            peer=draft.peer.id,
            scope=draft.scope.to_json(),
            actor=actor,
            approved_by=draft.approved_by,
            life=draft.expires_in,
        )
        return await self.get_grant(row.id)

    async def activate_grant(self, grant_id: UUID) -> bool:
        return await self._changed(
            """UPDATE federation.federation_grants SET status = 'active', activated_at = now()
               WHERE id = :id AND status = ANY(:sources) AND (expires_at IS NULL OR expires_at > now())""",
            id=grant_id,
            sources=sorted(GRANT_SOURCES[GrantStatus.ACTIVE]),
        )

    # --- enrollment tokens

    async def insert_token(self, draft: TokenDraft, token_id: bytes, *, actor: str) -> Token:
        """Register a token and void every older one of its grant; what their attempts may have had signed is owed to the CA."""
        await self._execute(
            """WITH voided AS (
                   UPDATE federation.federation_enrollment_tokens SET voided_at = now()
                   WHERE grant_id = :grant AND voided_at IS NULL AND fingerprint_sha256 IS NULL
                   RETURNING serial, grant_id
               )
               INSERT INTO federation.federation_ca_outbox (serial, grant_id, reason)
               SELECT serial, grant_id, 'token replaced' FROM voided WHERE serial IS NOT NULL
               ON CONFLICT (serial) DO NOTHING""",
            grant=draft.grant.id,
        )
        row = await self._first(
            """INSERT INTO federation.federation_enrollment_tokens (token_id, grant_id, peer_id, created_by, expires_at)
               VALUES (:token_id, :grant, :peer, :actor, now() + CAST(:life AS interval))
               ON CONFLICT DO NOTHING RETURNING *""",
            token_id=token_id,
            grant=draft.grant.id,
            peer=draft.grant.peer_id,
            actor=actor,
            life=draft.life,
        )
        if row is None:
            raise Conflict(
                Reason.GRANT_STATE_CHANGED,
                "Another token was made for this grant at the same moment.",
                layer=Layer.TOKEN,
                remedy="Make a new one: it voids the other.",
            )
        return _token(row)

    async def find_token(self, token_id: bytes) -> Token | None:
        """Return the token's row, locked until the end of the transaction: claims of one token are decided one by one."""
        row = await self._first(
            "SELECT * FROM federation.federation_enrollment_tokens WHERE token_id = :id FOR UPDATE", id=token_id
        )
        return _token(row) if row else None

    async def list_tokens(self, grant_id: UUID) -> list[Token]:
        rows = await self._all(
            "SELECT * FROM federation.federation_enrollment_tokens WHERE grant_id = :grant ORDER BY created_at DESC", grant=grant_id
        )
        return [_token(row) for row in rows]

    async def claim_token(self, claim: Claim) -> bool:
        return await self._changed(
            """UPDATE federation.federation_enrollment_tokens
               SET redemption_id = :redemption, csr_sha256 = :csr, spki_sha256 = :spki, attempt = attempt + 1, serial = :serial,
                   lease_until = :lease
               WHERE token_id = :id AND attempt = :previous AND fingerprint_sha256 IS NULL
                 AND voided_at IS NULL AND expires_at > now()
                 AND (redemption_id IS NULL OR (redemption_id = :redemption AND csr_sha256 = :csr AND lease_until <= now()))""",
            id=claim.token_id,
            previous=claim.previous_attempt,
            redemption=claim.redemption_id,
            csr=claim.csr_sha256,
            spki=claim.spki_sha256,
            serial=claim.serial,
            lease=claim.lease_until,
        )

    async def release_token(self, token_id: bytes, attempt: int) -> bool:
        return await self._changed(
            """UPDATE federation.federation_enrollment_tokens
               SET redemption_id = NULL, csr_sha256 = NULL, spki_sha256 = NULL, serial = NULL, lease_until = NULL
               WHERE token_id = :id AND attempt = :attempt AND redemption_id IS NOT NULL AND fingerprint_sha256 IS NULL""",
            id=token_id,
            attempt=attempt,
        )

    async def complete_token(self, token_id: bytes, attempt: int, fingerprint: bytes) -> bool:
        return await self._changed(
            """UPDATE federation.federation_enrollment_tokens t SET fingerprint_sha256 = :fingerprint
               WHERE token_id = :id AND attempt = :attempt AND redemption_id IS NOT NULL AND fingerprint_sha256 IS NULL
                 AND voided_at IS NULL AND NOT EXISTS (SELECT FROM federation.federation_ca_outbox o WHERE o.serial = t.serial)""",
            id=token_id,
            attempt=attempt,
            fingerprint=fingerprint,
        )

    async def owe_unfinished(self) -> int:
        """Owe the CA the serials of attempts whose token has expired and whose lease is over; from then on they cannot complete.

        A token that is being completed at this moment is locked, and left to the next time.
        """
        result = await self.connection.execute(
            text(
                """INSERT INTO federation.federation_ca_outbox (serial, grant_id, reason)
                   SELECT serial, grant_id, 'attempt not completed' FROM federation.federation_enrollment_tokens
                   WHERE fingerprint_sha256 IS NULL AND serial IS NOT NULL AND lease_until <= now() AND expires_at <= now()
                   FOR NO KEY UPDATE SKIP LOCKED
                   ON CONFLICT (serial) DO NOTHING"""
            )
        )
        return result.rowcount

    async def owe_revocation(self, serial: int, grant_id: UUID, why: str) -> None:
        await self._execute(
            """INSERT INTO federation.federation_ca_outbox (serial, grant_id, reason) VALUES (:serial, :grant, :why)
               ON CONFLICT (serial) DO NOTHING""",
            serial=serial,
            grant=grant_id,
            why=why,
        )

    # --- certificates

    async def pin_certificate(self, grant_id: UUID, issued: IssuedCertificate) -> None:
        await self._execute(
            """INSERT INTO federation.federation_certificates
                   (fingerprint_sha256, grant_id, serial, der, chain_pem, spki_sha256, not_before, not_after)
               VALUES (:fingerprint, :grant, :serial, :der, :chain, :spki, :not_before, :not_after)""",
            fingerprint=issued.fingerprint,
            grant=grant_id,
            serial=issued.serial,
            der=issued.der,
            chain=_pem(issued.chain_der),
            spki=issued.spki_sha256,
            not_before=issued.not_before,
            not_after=issued.not_after,
        )

    async def get_recorded(self, fingerprint: bytes) -> Recorded:
        row = await self._one(
            """SELECT c.der, c.chain_pem, c.grant_id, g.subject_user_id FROM federation.federation_certificates c
               JOIN federation.federation_grants g ON g.id = c.grant_id WHERE c.fingerprint_sha256 = :fingerprint""",
            fingerprint=fingerprint,
        )
        return Recorded(bytes(row.der), _ders(row.chain_pem), row.grant_id, row.subject_user_id)

    async def list_certificates(self, grant_id: UUID) -> list[Certificate]:
        rows = await self._all(
            """SELECT fingerprint_sha256, serial, not_before, not_after, state, superseded_at, revoked_at
               FROM federation.federation_certificates WHERE grant_id = :grant ORDER BY not_before DESC, fingerprint_sha256""",
            grant=grant_id,
        )
        return [
            Certificate(
                bytes(row.fingerprint_sha256),
                int(row.serial),
                row.not_before,
                row.not_after,
                row.state,
                row.superseded_at,
                row.revoked_at,
            )
            for row in rows
        ]

    # --- peers

    async def get_peer(self, peer_id: UUID) -> Peer:
        row = await self._first(f"{_PEERS} WHERE p.id = :id", id=peer_id)
        if row is None:
            raise _no_peer(str(peer_id))
        return _peer(row)

    async def find_peer(self, peer: str, direction: Direction | None = None) -> Peer | None:
        """Find by id, or by a name that only one peer has."""
        rows = await self._all(
            f"""{_PEERS} WHERE (p.id = :id OR p.name = :name) AND (CAST(:direction AS text) IS NULL OR p.direction = :direction)
                ORDER BY p.id = :id DESC LIMIT 2""",
            id=_find_uuid(peer),
            name=peer,
            direction=direction,
        )
        if len(rows) == 2 and rows[0].id != _find_uuid(peer):
            raise Conflict(
                Reason.NAME_TAKEN,
                f"More than one peer is called {peer!r}.",
                layer=Layer.PEER,
                remedy="Name it by its id (`mosaic federation peer list`).",
            )
        return _peer(rows[0]) if rows else None

    async def get_peer_by_name(self, peer: str) -> Peer:
        found = await self.find_peer(peer)
        if found is None:
            raise _no_peer(peer)
        return found

    async def list_peers(
        self, *, limit: int, after: tuple[datetime, UUID] | None, direction: Direction | None, state: PeerState | None
    ) -> list[Peer]:
        rows = await self._all(
            f"""{_PEERS}
                WHERE (CAST(:direction AS text) IS NULL OR p.direction = :direction)
                  AND (CAST(:state AS text) IS NULL OR p.state = :state)
                  AND (CAST(:after_time AS timestamptz) IS NULL OR (p.created_at, p.id) < (:after_time, CAST(:after_id AS uuid)))
                ORDER BY p.created_at DESC, p.id DESC LIMIT :limit""",
            direction=direction,
            state=state,
            after_time=after[0] if after else None,
            after_id=after[1] if after else None,
            limit=limit,
        )
        return [_peer(row) for row in rows]

    async def insert_inbound_peer(self, name: str, display_name: str, *, actor: str) -> Peer:
        row = await self._first(
            """INSERT INTO federation.federation_peers (name, common_name, display_name, direction, created_by)
               VALUES (:name, :name, :display_name, 'inbound', :actor)
               ON CONFLICT (common_name) WHERE direction = 'inbound' DO NOTHING RETURNING id""",
            name=name,
            display_name=display_name,
            actor=actor,
        )
        if row is None:
            raise Conflict(
                Reason.NAME_TAKEN,
                f"There is an inbound peer {name!r} already.",
                layer=Layer.PEER,
                remedy="Use it, or choose another name.",
            )
        return await self.get_peer(row.id)

    async def activate_peer(self, peer_id: UUID) -> bool:
        """Activate a pending peer; one that is active already stays so. A suspended one is resumed by an operator only."""
        return await self._changed(
            "UPDATE federation.federation_peers SET state = 'active' WHERE id = :id AND state = ANY(:sources)",
            id=peer_id,
            sources=sorted({*ENROLLED_FROM, PeerState.ACTIVE}),
        )

    # --- outbound connections

    async def find_connection(self, local_user_id: UUID, name: str) -> Peer | None:
        row = await self._first(
            f"{_PEERS} WHERE p.direction = 'outbound' AND p.local_user_id = :user AND p.name = :name",
            user=local_user_id,
            name=name,
        )
        return _peer(row) if row else None

    async def list_connections(self, local_user_id: UUID, name: str) -> list[Peer]:
        rows = await self._all(
            f"""{_PEERS} WHERE p.direction = 'outbound' AND p.state = 'active'
                  AND p.local_user_id = :user AND (:name = '' OR p.name = :name)
                  AND EXISTS (SELECT FROM public.users u WHERE u.id = p.local_user_id AND u.active)
                ORDER BY p.name""",
            user=local_user_id,
            name=name,
        )
        return [_peer(row) for row in rows]

    async def insert_connection(
        self, *, name: str, remote_gateway: str, common_name: str, enrollment_url: str, user: User, prepared: Prepared, actor: str
    ) -> Peer:
        row = await self._first(
            """INSERT INTO federation.federation_peers
                   (name, common_name, direction, remote_gateway, enrollment_url, local_user_id, redemption_id, created_by)
               VALUES (:name, :common_name, 'outbound', :gateway, :url, :user, :redemption, :actor)
               ON CONFLICT (local_user_id, name) WHERE direction = 'outbound' DO NOTHING RETURNING id""",
            name=name,
            common_name=common_name,
            gateway=remote_gateway,
            url=enrollment_url,
            user=user.id,
            redemption=prepared.redemption_id,
            actor=actor,
        )
        if row is None:
            raise Conflict(
                Reason.NAME_TAKEN,
                f"{user.email} has a connection {name!r} already.",
                layer=Layer.PEER,
                remedy="Choose another --name.",
            )
        await self._execute(
            """INSERT INTO federation.federation_peer_keys (id, peer_id, client_key_pem, csr_der)
               VALUES (:id, :peer, :sealed, :csr)""",
            id=prepared.key_id,
            peer=row.id,
            sealed=prepared.client_key_sealed,
            csr=prepared.csr_der,
        )
        return await self.get_peer(row.id)

    async def get_key(self, peer_id: UUID, state: str) -> ConnectionKey | None:
        row = await self._first(
            """SELECT * FROM federation.federation_peer_keys WHERE peer_id = :peer AND state = :state
               ORDER BY created_at DESC LIMIT 1""",
            peer=peer_id,
            state=state,
        )
        return _key(row) if row else None

    async def activate_connection(self, peer: Peer, key: ConnectionKey, received: Received) -> bool:
        issued = received.issued
        keyed = await self._changed(
            """UPDATE federation.federation_peer_keys
               SET state = 'active', cert_pem = :cert, chain_pem = :chain, serial = :serial, fingerprint_sha256 = :fingerprint,
                   not_before = :not_before, not_after = :not_after
               WHERE id = :id AND state = 'pending'""",
            id=key.id,
            cert=_pem([issued.der]),
            chain=_pem(issued.chain_der),
            serial=issued.serial,
            fingerprint=issued.fingerprint,
            not_before=issued.not_before,
            not_after=issued.not_after,
        )
        return keyed and await self._changed(
            """UPDATE federation.federation_peers
               SET state = 'active', endpoint_url = :endpoint, trust_bundle_pem = :bundle, remote_grant_id = :grant,
                   remote_subject_user_id = :subject
               WHERE id = :id AND state = ANY(:sources)""",
            id=peer.id,
            sources=sorted(ENROLLED_FROM),
            endpoint=received.endpoint,
            bundle=received.trust_bundle_pem.decode() if received.trust_bundle_pem else None,
            grant=issued.grant_id,
            subject=issued.subject_user_id,
        )

    # --- how statements are run

    async def _all(self, sql: str, **values: object) -> Sequence[Row[Any]]:
        return (await self.connection.execute(text(sql), values)).all()

    async def _first(self, sql: str, **values: object) -> Row[Any] | None:
        return (await self.connection.execute(text(sql), values)).first()

    async def _one(self, sql: str, **values: object) -> Row[Any]:
        return (await self.connection.execute(text(sql), values)).one()

    async def _execute(self, sql: str, **values: object) -> None:
        await self.connection.execute(text(sql), values)

    async def _changed(self, sql: str, **values: object) -> bool:
        return (await self.connection.execute(text(sql), values)).rowcount == 1


def engine(database_url: str) -> AsyncEngine:
    """Return a pool for a ``postgresql://`` URL. Statement texts may reach a log, their values never do."""
    return create_async_engine(
        database_url.replace("postgresql://", "postgresql+psycopg://", 1),
        pool_size=8,
        max_overflow=4,
        pool_timeout=3,
        pool_pre_ping=True,
        hide_parameters=True,
        connect_args={"connect_timeout": 3},
    )


def _grant(row: Row[Any]) -> Grant:
    subject = User(row.subject_user_id, row.email, row.active) if row.email is not None else None
    document = row.scope if isinstance(row.scope, dict) else json.loads(row.scope)
    return Grant(
        id=row.id,
        subject_user_id=row.subject_user_id,
        peer_id=row.peer_id,
        status=GrantStatus(row.status),
        scope=parse_scope(document),
        created_by=row.created_by,
        approved_by=row.approved_by,
        created_at=row.created_at,
        activated_at=row.activated_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        revoked_reason=row.revoked_reason,
        peer_name=row.peer_name,
        subject=subject,
    )


def _peer(row: Row[Any]) -> Peer:
    return Peer(
        id=row.id,
        name=row.name,
        common_name=row.common_name,
        display_name=row.display_name,
        direction=Direction(row.direction),
        state=PeerState(row.state),
        endpoint_url=row.endpoint_url,
        enrollment_url=row.enrollment_url,
        trust_bundle_pem=row.trust_bundle_pem.encode() if row.trust_bundle_pem else None,
        remote_gateway=row.remote_gateway,
        local_user_id=row.local_user_id,
        local_user_email=row.local_user_email,
        remote_grant_id=row.remote_grant_id,
        remote_subject_user_id=row.remote_subject_user_id,
        redemption_id=row.redemption_id,
        created_by=row.created_by,
        created_at=row.created_at,
        last_seen_at=row.last_seen_at,
        revoked_at=row.revoked_at,
    )


def _token(row: Row[Any]) -> Token:
    return Token(
        token_id=bytes(row.token_id),
        grant_id=row.grant_id,
        peer_id=row.peer_id,
        created_by=row.created_by,
        created_at=row.created_at,
        expires_at=row.expires_at,
        voided_at=row.voided_at,
        redemption_id=row.redemption_id,
        csr_sha256=bytes(row.csr_sha256) if row.csr_sha256 else None,
        spki_sha256=bytes(row.spki_sha256) if row.spki_sha256 else None,
        attempt=row.attempt,
        serial=int(row.serial) if row.serial is not None else None,
        lease_until=row.lease_until,
        fingerprint=bytes(row.fingerprint_sha256) if row.fingerprint_sha256 else None,
    )


def _key(row: Row[Any]) -> ConnectionKey:
    certificate = None
    if row.fingerprint_sha256 is not None:
        certificate = Certificate(bytes(row.fingerprint_sha256), int(row.serial), row.not_before, row.not_after, row.state)
    return ConnectionKey(
        id=row.id,
        peer_id=row.peer_id,
        client_key_sealed=row.client_key_pem,
        csr_der=bytes(row.csr_der),
        certificate_pem=row.cert_pem.encode() if row.cert_pem else None,
        chain_pem=row.chain_pem.encode() if row.chain_pem else None,
        certificate=certificate,
    )


def _pem(ders: Sequence[bytes]) -> str:
    return b"".join(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in ders).decode()


def _ders(pem: str) -> tuple[bytes, ...]:
    return tuple(each.public_bytes(Encoding.DER) for each in x509.load_pem_x509_certificates(pem.encode())) if pem else ()


def _find_uuid(value: str) -> UUID | None:
    try:
        return UUID(value)
    except ValueError:
        return None


def _no_peer(peer: str) -> NotFound:
    return NotFound(
        Reason.PEER_NOT_FOUND, f"There is no peer {peer!r}.", layer=Layer.PEER, remedy="`mosaic federation peer list` shows all."
    )


def _unavailable() -> Unavailable:
    return Unavailable(
        Reason.DEPENDENCY_UNAVAILABLE,
        "The database does not answer.",
        layer=Layer.DEPENDENCY,
        remedy="Check PostgreSQL and DATABASE_URL.",
        metadata={"dependency": "postgres"},
    )
