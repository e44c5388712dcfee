"""A ledger without services: the rules of grants on the real database, and an authority that signs what they order."""

import json
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Final, Self, TypeVar
from uuid import UUID

import psycopg
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from mosaic_common.audit import HeadSigner
from mosaic_common.clock import SystemClock
from mosaic_common.errors import MosaicError, Unavailable
from mosaic_common.keys import private_pem, public_pem
from mosaic_common.tokens import token_id
from mosaic_common.warrants import WarrantSigner, WarrantVerifier
from mosaic_common.x509 import make_csr
from mosaic_grants.adapters.audit_log import AuditLog
from mosaic_grants.adapters.ledger.database import PostgresLedger
from mosaic_grants.adapters.ledger.transaction import LedgerTransaction
from mosaic_grants.domain import ending, permissions
from mosaic_grants.domain.enrollment import Attempt, Enrollments
from mosaic_grants.domain.sweeps import Sweeps

from tests.support import ledger_model as model
from tests.support.authorities import LyingAuthority, new_key
from tests.support.postgres import Database
from tests.support.rows import Rows

SCOPE: Final = json.dumps({"resources": ["tasks"], "max_rows_per_query": 10})
OPERATOR: Final = "otto"
NOWHERE: Final = UUID(int=0)
# Moving a lease back moves the order's date with it: the authority signs for a little less, as it may.
_SHORTER: Final = timedelta(minutes=10)

N = TypeVar("N")
T = TypeVar("T")
Step = Callable[[LedgerTransaction], Coroutine[Any, Any, object]]


@dataclass(slots=True)
class LedgerBed:
    """Carries out the model's orders, and reads the world that came of them.

    Attributes:
        peers, grants, tokens, serials: the model's numbers → what the database calls them.
        signed: serial → the chain that the authority made for it, DER.
    """

    owner: psycopg.Connection
    ledger: PostgresLedger
    enrollments: Enrollments
    warrants: WarrantVerifier
    authority: LyingAuthority
    users: list[UUID]
    redemptions: list[ec.EllipticCurvePrivateKey] = field(default_factory=lambda: [new_key(), new_key()])
    csrs: dict[tuple[int, str], bytes] = field(default_factory=dict)
    peers: dict[int, UUID] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    grants: dict[int, UUID] = field(default_factory=dict)
    tokens: dict[int, bytes] = field(default_factory=dict)
    serials: dict[model.Serial, int] = field(default_factory=dict)
    signed: dict[model.Serial, list[bytes]] = field(default_factory=dict)

    @classmethod
    def make(cls, database: Database, owner: psycopg.Connection) -> Self:
        clock, warrant_key, rows = SystemClock(), new_key(), Rows(owner)
        authority = LyingAuthority.make(clock.now())
        audit = AuditLog(HeadSigner(private_pem(Ed25519PrivateKey.generate())), clock)
        return cls(
            owner,
            PostgresLedger(database.url("mosaic_grants"), audit),
            Enrollments(WarrantSigner(private_pem(warrant_key)), federation_root=authority.root_pem, pin=None),
            WarrantVerifier(public_pem(warrant_key.public_key()), clock),
            authority,
            [rows.user(), rows.user()],
        )

    def empty(self) -> None:
        """Forget everything but the users, who are active again."""
        self.owner.execute(
            "TRUNCATE federation.federation_peers, federation.federation_grants, federation.federation_certificates,"
            " federation.federation_enrollment_tokens, federation.federation_peer_keys, federation.federation_ca_outbox"
        )
        self.owner.execute("UPDATE public.users SET active = true")
        for known in (self.peers, self.names, self.grants, self.tokens, self.serials, self.signed):
            known.clear()

    async def perform(self, order: model.Order) -> str:
        """Carry an order out as the servicers do. Return DONE or the reason of the refusal.

        Raises:
            Unavailable: a deadlock, or a wait for a lock that was too long.
        """
        try:
            await self._perform(order)
        except Unavailable:
            raise
        except MosaicError as refused:
            return refused.reason
        return model.DONE

    async def _perform(self, order: model.Order) -> None:
        match order:
            case model.CreatePeer(number, name):
                made = await self._do(lambda tx: tx.peers.insert_inbound(name, "", actor=OPERATOR))
                self.peers[number], self.names[number] = made.id, name
            case model.SuspendPeer(number):
                await self._do(lambda tx: ending.suspend_peer(tx, self._peer(number)))
            case model.ResumePeer(number):
                await self._do(lambda tx: ending.resume_peer(tx, self._peer(number)))
            case model.RevokePeer(number):
                await self._do(lambda tx: ending.revoke_peer(tx, self._peer(number), "evicted"))
            case model.DeletePeer(number):
                await self._do(lambda tx: ending.delete_peer(tx, self._peer(number)))
            case model.CreateGrant(number, peer, subject):
                self.grants[number] = await self._do(lambda tx: self._create_grant(tx, self._peer(peer), self.users[subject]))
            case model.RevokeGrant(number):
                await self._do(lambda tx: ending.revoke_grant(tx, self._grant(number), "over"))
            case model.DeleteGrant(number):
                await self._do(lambda tx: ending.delete_grant(tx, self._grant(number)))
            case model.CreateToken(number, grant, reenroll):
                key = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
                await self._do(lambda tx: self._create_token(tx, self._grant(grant), key, reenroll=reenroll))
                self.tokens[number] = token_id(key)
            case model.Claim(token, redemption):
                await self._claim(token, redemption)
            case model.Complete(token, attempt):
                chain = self.signed[token, attempt]
                await self._do(lambda tx: self._complete(tx, token, attempt, chain))
            case model.Release(token, attempt):
                await self._do(lambda tx: self._release(tx, token, attempt))
            case model.Sweep():
                await Sweeps(self.ledger, SystemClock()).run_once()
            case _:
                await self._pass_time(order)

    async def _pass_time(self, order: model.Order) -> None:
        """What no service does: the clock's work, and the application's."""
        tokens = "UPDATE federation.federation_enrollment_tokens SET"
        match order:
            case model.LetGrantRunOut(grant):
                statement = "UPDATE federation.federation_grants SET expires_at = now() - interval '1 min' WHERE id = %s"
                values: tuple[object, ...] = (self._grant(grant),)
            case model.LetTokenRunOut(token):
                statement = (
                    f"{tokens} created_at = now() - interval '1 h', expires_at = now() - interval '50 min' WHERE token_id = %s"
                )
                values = (self.tokens[token],)
            case model.LetLeaseRunOut(token):
                statement = f"{tokens} lease_until = now() - interval '1 s' WHERE token_id = %s AND lease_until > now()"
                values = (self.tokens[token],)
            case model.SwitchUser(user, active):
                statement, values = "UPDATE public.users SET active = %s WHERE id = %s", (active, self.users[user])
            case _:
                raise AssertionError(order)
        async with await psycopg.AsyncConnection.connect(self.owner.info.dsn, password=self.owner.info.password) as connection:
            await connection.execute(statement, values)

    async def _do(self, step: Step) -> Any:
        async with self.ledger.transaction() as tx:
            return await step(tx)

    async def _create_grant(self, tx: LedgerTransaction, peer: str, subject: UUID) -> UUID:
        draft = await permissions.draft_grant(
            tx, user=str(subject), peer=peer, unverified_scope=SCOPE, expires_in=None, approve_sensitive=False, actor=OPERATOR
        )
        return (await tx.grants.insert(draft, actor=OPERATOR)).id

    async def _create_token(self, tx: LedgerTransaction, grant: UUID, key: bytes, *, reenroll: bool) -> None:
        found = await tx.grants.get(grant, locked=True)
        draft = permissions.draft_token(found, token_public_key=key, ttl=timedelta(), reenroll=reenroll)
        await tx.tokens.insert(draft, token_id(key), actor=OPERATOR)

    async def _claim(self, token: int, redemption: int) -> None:
        name = self._common_name(token)
        key = self.redemptions[redemption]
        csr = self.csrs.setdefault((redemption, name), make_csr(key, name))
        outcome = await self._do(lambda tx: self._claimed(tx, token, csr, UUID(int=redemption + 1)))
        if isinstance(outcome, Attempt):
            warrant = self.warrants.verify(outcome.warrant)
            self.serials[token, outcome.number] = warrant.serial
            order = replace(warrant, not_after=warrant.not_after - _SHORTER)
            self.signed[token, outcome.number] = replace(self.authority, now=SystemClock().now()).sign(key.public_key(), order)

    async def _claimed(self, tx: LedgerTransaction, token: int, csr: bytes, redemption_id: UUID) -> object:
        ticket = await tx.tokens.find_ticket(self.tokens[token])
        return await self.enrollments.claim(tx, ticket, unverified_csr=csr, redemption_id=redemption_id, signer_reachable=True)

    async def _complete(self, tx: LedgerTransaction, token: int, attempt: int, chain: list[bytes]) -> None:
        ticket = await tx.tokens.find_ticket(self.tokens[token], completing=True)
        await self.enrollments.complete(tx, ticket, attempt, chain)

    async def _release(self, tx: LedgerTransaction, token: int, attempt: int) -> None:
        await self.enrollments.release(tx, await tx.tokens.find_ticket(self.tokens[token]), attempt)

    def _common_name(self, token: int) -> str:
        found = self.owner.execute(
            "SELECT p.common_name FROM federation.federation_enrollment_tokens t"
            " JOIN federation.federation_peers p ON p.id = t.peer_id WHERE t.token_id = %s",
            (self.tokens[token],),
        ).fetchone()
        return found[0] if found else "gone"

    def _peer(self, number: int) -> str:
        return str(self.peers.get(number, NOWHERE))

    def _grant(self, number: int) -> UUID:
        return self.grants.get(number, NOWHERE)

    # --- what came of it

    def observe(self) -> model.World:
        """Read the world as it is committed."""
        peers, grants, tokens = _numbers(self.peers), _numbers(self.grants), _numbers(self.tokens)
        serials = _numbers(self.serials)
        active: dict[UUID, bool] = dict(self.owner.execute("SELECT id, active FROM public.users").fetchall())
        world = model.World([active[user] for user in self.users])
        for id_, name, state, was_active in self.owner.execute(
            "SELECT id, name, state, activated_at IS NOT NULL FROM federation.federation_peers"
        ):
            world.peers[peers[id_]] = model.Peer(name, state, was_active)
        for id_, peer, subject, status, was_active, overdue in self.owner.execute(
            "SELECT id, peer_id, subject_user_id, status, activated_at IS NOT NULL, coalesce(expires_at <= now(), false)"
            " FROM federation.federation_grants"
        ):
            world.grants[grants[id_]] = model.Grant(peers[peer], self.users.index(subject), status, was_active, overdue)
        for id_, grant, reenroll, voided, expired, redemption, attempt, leased, unfinished, used in self.owner.execute(
            "SELECT token_id, grant_id, reenroll, voided_at IS NOT NULL, expires_at <= now(), redemption_id, attempt,"
            " coalesce(lease_until > now(), false), unfinished_at IS NOT NULL, fingerprint_sha256 IS NOT NULL"
            " FROM federation.federation_enrollment_tokens"
        ):
            claimed_by = redemption.int - 1 if redemption else None
            world.tokens[tokens[id_]] = model.Token(
                grants[grant], reenroll, voided, expired, claimed_by, attempt, leased, unfinished, used
            )
        for serial, grant, state in self.owner.execute("SELECT serial, grant_id, state FROM federation.federation_certificates"):
            world.certificates[serials[int(serial)]] = (grants[grant], state)
        world.owed = {
            serials[int(serial)]
            for (serial,) in self.owner.execute("SELECT serial FROM federation.federation_ca_outbox WHERE done_at IS NULL")
        }
        return world


def _numbers(known: dict[N, T]) -> dict[T, N]:
    return {id_: number for number, id_ in known.items()}
