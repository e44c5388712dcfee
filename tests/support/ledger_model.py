"""The ledger's state machines as contracts.md draws them: what an order does to a small world, or why it is refused.

grants pending → active → revoked | expired; peers pending → active ⇄ suspended → revoked; tokens open → claimed → used, or voided;
certificates active → revoked, and then owed to the authority. Peers, grants and tokens are known by small numbers; a serial by its
token and attempt.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Final, Protocol

DONE: Final = "done"
Serial = tuple[int, int]


@dataclass(slots=True)
class Peer:
    name: str
    state: str = "pending"
    was_active: bool = False


@dataclass(slots=True)
class Grant:
    peer: int
    subject: int
    status: str = "pending"
    was_active: bool = False
    overdue: bool = False

    @property
    def in_force(self) -> str:
        """Past its end it is expired, whether or not a sweep has written so."""
        return "expired" if self.overdue and self.is_live else self.status

    @property
    def is_live(self) -> bool:
        return self.status in {"pending", "active"}


@dataclass(slots=True)
class Token:
    grant: int
    reenroll: bool
    voided: bool = False
    expired: bool = False
    redemption: int | None = None
    attempt: int = 0
    leased: bool = False
    unfinished: bool = False
    used: bool = False

    @property
    def is_open(self) -> bool:
        return not (self.voided or self.used)


@dataclass(slots=True)
class World:
    """Everything that a test's ledger holds.

    Attributes:
        users: whether each is active.
        certificates: serial → grant and state.
        owed: serials that the authority has to list.
    """

    users: list[bool] = field(default_factory=lambda: [True, True])
    peers: dict[int, Peer] = field(default_factory=dict)
    grants: dict[int, Grant] = field(default_factory=dict)
    tokens: dict[int, Token] = field(default_factory=dict)
    certificates: dict[Serial, tuple[int, str]] = field(default_factory=dict)
    owed: set[Serial] = field(default_factory=set)

    def void_open_tokens(self, grant: int) -> None:
        for number, token in self.tokens.items():
            if token.grant == grant and token.is_open:
                token.voided = True
                self.owe_claim(number)

    def owe_claim(self, number: int) -> None:
        token = self.tokens[number]
        if token.redemption is not None:
            self.owed.add((number, token.attempt))

    def revoke_certificates(self, grant: int) -> None:
        for serial, (of, state) in self.certificates.items():
            if of == grant and state != "revoked":
                self.certificates[serial] = (grant, "revoked")
                self.owed.add(serial)

    def end(self, grant: int, status: str) -> None:
        self.grants[grant].status = status
        self.void_open_tokens(grant)
        self.revoke_certificates(grant)

    def find_ineligibility(self, grant: Grant, *, reenroll: bool, peer: str, subject: str) -> str | None:
        """Return why nobody can be enrolled under it now; peer and subject name the reasons."""
        if grant.in_force != ("active" if reenroll else "pending"):
            return "GRANT_STATE_CHANGED"
        if self.peers[grant.peer].state not in {"pending", "active"}:
            return peer
        return None if self.users[grant.subject] else subject


class Order(Protocol):
    """One thing that somebody does."""

    def apply(self, world: World) -> str:
        """Change the world and return DONE, or leave it alone and return the reason of the refusal."""


@dataclass(frozen=True, slots=True)
class CreatePeer:
    peer: int
    name: str

    def apply(self, world: World) -> str:
        if any(peer.name == self.name and peer.state != "revoked" for peer in world.peers.values()):
            return "NAME_TAKEN"
        world.peers[self.peer] = Peer(self.name)
        return DONE


@dataclass(frozen=True, slots=True)
class SuspendPeer:
    peer: int

    def apply(self, world: World) -> str:
        return _move(world, self.peer, {"active"}, "suspended")


@dataclass(frozen=True, slots=True)
class ResumePeer:
    peer: int

    def apply(self, world: World) -> str:
        return _move(world, self.peer, {"suspended"}, "active")


@dataclass(frozen=True, slots=True)
class RevokePeer:
    peer: int

    def apply(self, world: World) -> str:
        outcome = _move(world, self.peer, {"pending", "active", "suspended"}, "revoked")
        if outcome == DONE:
            for number, grant in world.grants.items():
                if grant.peer == self.peer and grant.is_live:
                    world.end(number, "expired" if grant.overdue else "revoked")
        return outcome


def _move(world: World, number: int, sources: set[str], target: str) -> str:
    peer = world.peers.get(number)
    if peer is None:
        return "PEER_NOT_FOUND"
    if peer.state not in {*sources, target}:
        return "PEER_STATE_CHANGED"
    peer.state = target
    return DONE


@dataclass(frozen=True, slots=True)
class DeletePeer:
    peer: int

    def apply(self, world: World) -> str:
        peer = world.peers.get(self.peer)
        if peer is None:
            return "PEER_NOT_FOUND"
        if peer.was_active or any(grant.peer == self.peer for grant in world.grants.values()):
            return "PEER_STATE_CHANGED"
        del world.peers[self.peer]
        return DONE


@dataclass(frozen=True, slots=True)
class CreateGrant:
    grant: int
    peer: int
    subject: int

    def apply(self, world: World) -> str:
        peer = world.peers.get(self.peer)
        if not world.users[self.subject]:
            return "SUBJECT_NOT_ELIGIBLE"
        if peer is None:
            return "PEER_NOT_FOUND"
        if peer.state not in {"pending", "active"}:
            return "PEER_NOT_ELIGIBLE"
        world.grants[self.grant] = Grant(self.peer, self.subject)
        return DONE


@dataclass(frozen=True, slots=True)
class RevokeGrant:
    grant: int

    def apply(self, world: World) -> str:
        grant = world.grants.get(self.grant)
        if grant is None:
            return "GRANT_NOT_FOUND"
        if grant.in_force == "expired":
            return "GRANT_STATE_CHANGED"
        if grant.is_live:
            world.end(self.grant, "revoked")
        return DONE


@dataclass(frozen=True, slots=True)
class DeleteGrant:
    grant: int

    def apply(self, world: World) -> str:
        grant = world.grants.get(self.grant)
        if grant is None:
            return "GRANT_NOT_FOUND"
        if grant.was_active:
            return "GRANT_STATE_CHANGED"
        world.void_open_tokens(self.grant)
        del world.grants[self.grant]
        world.tokens = {number: token for number, token in world.tokens.items() if token.grant != self.grant}
        return DONE


@dataclass(frozen=True, slots=True)
class CreateToken:
    token: int
    grant: int
    reenroll: bool

    def apply(self, world: World) -> str:
        grant = world.grants.get(self.grant)
        if grant is None:
            return "GRANT_NOT_FOUND"
        refused = world.find_ineligibility(grant, reenroll=self.reenroll, peer="PEER_NOT_ELIGIBLE", subject="SUBJECT_NOT_ELIGIBLE")
        if refused is None:
            world.void_open_tokens(self.grant)
            world.tokens[self.token] = Token(self.grant, self.reenroll)
        return refused or DONE


@dataclass(frozen=True, slots=True)
class Claim:
    token: int
    redemption: int

    def apply(self, world: World) -> str:
        token = world.tokens.get(self.token)
        if token is None:
            return "ENROLLMENT_TOKEN_UNKNOWN"
        if token.voided:
            return "ENROLLMENT_TOKEN_VOIDED"
        if token.redemption not in {None, self.redemption}:
            return "ENROLLMENT_TOKEN_USED"
        if token.expired:
            return "ENROLLMENT_TOKEN_EXPIRED"
        if token.used:
            return DONE
        refused = _find_ineligibility(world, token)
        if refused is None and token.leased:
            refused = "ENROLLMENT_IN_PROGRESS"
        if refused is None:
            world.owe_claim(self.token)
            token.redemption, token.attempt, token.leased = self.redemption, token.attempt + 1, True
        return refused or DONE


@dataclass(frozen=True, slots=True)
class Complete:
    """With the certificate that the authority made for this attempt."""

    token: int
    attempt: int

    def apply(self, world: World) -> str:
        token = world.tokens.get(self.token)
        if token is None:
            return "ENROLLMENT_TOKEN_UNKNOWN"
        serial = (self.token, self.attempt)
        if token.used or token.attempt != self.attempt or token.redemption is None:
            return "ENROLLMENT_TOKEN_USED"
        refused = _find_ineligibility(world, token)
        if refused is not None:
            return refused
        if token.voided:
            return "ENROLLMENT_TOKEN_VOIDED"
        if serial in world.owed:
            return "ENROLLMENT_TOKEN_USED"
        if token.reenroll:
            world.revoke_certificates(token.grant)
        grant = world.grants[token.grant]
        peer = world.peers[grant.peer]
        world.certificates[serial] = (token.grant, "active")
        grant.status, grant.was_active, peer.state, peer.was_active, token.used = "active", True, "active", True, True
        return DONE


def _find_ineligibility(world: World, token: Token) -> str | None:
    grant = world.grants[token.grant]
    return world.find_ineligibility(grant, reenroll=token.reenroll, peer="PEER_NOT_ACTIVE", subject="SUBJECT_INACTIVE")


@dataclass(frozen=True, slots=True)
class Release:
    """Late or repeated it changes nothing, and says nothing."""

    token: int
    attempt: int

    def apply(self, world: World) -> str:
        token = world.tokens.get(self.token)
        if token is not None and token.attempt == self.attempt and token.redemption is not None and not token.used:
            world.owe_claim(self.token)
            token.redemption, token.leased = None, False
        return DONE


@dataclass(frozen=True, slots=True)
class LetGrantRunOut:
    grant: int

    def apply(self, world: World) -> str:
        if self.grant in world.grants:
            world.grants[self.grant].overdue = True
        return DONE


@dataclass(frozen=True, slots=True)
class LetTokenRunOut:
    token: int

    def apply(self, world: World) -> str:
        if self.token in world.tokens:
            world.tokens[self.token].expired = True
        return DONE


@dataclass(frozen=True, slots=True)
class LetLeaseRunOut:
    token: int

    def apply(self, world: World) -> str:
        if self.token in world.tokens:
            world.tokens[self.token].leased = False
        return DONE


@dataclass(frozen=True, slots=True)
class SwitchUser:
    user: int
    active: bool

    def apply(self, world: World) -> str:
        world.users[self.user] = self.active
        return DONE


@dataclass(frozen=True, slots=True)
class Sweep:
    """Each grant by itself, so that another order may fall between two of them."""

    def apply(self, world: World) -> str:
        for step in self.steps(world):
            step.apply(world)
        return DONE

    def steps(self, world: World) -> Sequence[Order]:
        return [*map(_EndWhatIsOver, world.grants), _EndUnfinished()]


@dataclass(frozen=True, slots=True)
class _EndWhatIsOver:
    grant: int

    def apply(self, world: World) -> str:
        grant = world.grants.get(self.grant)
        if grant is not None and grant.is_live and (grant.overdue or not world.users[grant.subject]):
            world.end(self.grant, "expired" if grant.overdue else "revoked")
        return DONE


@dataclass(frozen=True, slots=True)
class _EndUnfinished:
    def apply(self, world: World) -> str:
        for number, token in world.tokens.items():
            over = token.expired or token.voided
            if not (token.used or token.leased or token.unfinished) and token.redemption is not None and over:
                token.unfinished = True
                world.owe_claim(number)
        return DONE


def after(world: World, *orders: Order) -> tuple[World, list[str]]:
    """Return the world after these orders, one after the other, and what each came to."""
    changed = copy.deepcopy(world)
    return changed, [order.apply(changed) for order in orders]


def serial_outcomes(world: World, first: Order, second: Order) -> Iterator[tuple[World, tuple[str, str]]]:
    """Every world and pair of answers that two orders at once may lead to: those of some order of their transactions."""
    parts = [order.steps(world) if isinstance(order, Sweep) else [order] for order in (first, second)]
    length = len(parts[0]) + len(parts[1])
    for of_first in combinations(range(length), len(parts[0])):
        remaining, changed, answers = [iter(part) for part in parts], copy.deepcopy(world), [DONE, DONE]
        for position in range(length):
            who = 0 if position in of_first else 1
            answers[who] = next(remaining[who]).apply(changed)
        yield changed, (answers[0], answers[1])
