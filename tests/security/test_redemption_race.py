"""One token, thousands who hold it, two replicas of everything that decides: one of them has it."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from mosaic_cli.dev.embedded import EmbeddedValkey
from mosaic_common.identity import ENROLLMENT, dns_name

from tests.support.gateway import Gateway
from tests.support.offers import Offer
from tests.support.peers import Redemption
from tests.support.postgres import PostgresServer
from tests.support.racers import Answer, Racer, race
from tests.support.replicas import Authority, EmbeddedAuthority, StepCaAuthority, doors, replicated
from tests.support.stepca import running_step_ca

GONE: Final = "FAILED_PRECONDITION ENROLLMENT_TOKEN_USED"
Audited = dict[tuple[str, str, str | None], int]
"""(event, outcome, reason) → how many attempts the rows of the token stand for."""


@dataclass(frozen=True, slots=True)
class Size:
    """How many redeem, from how many processes with how many calls each at any moment, and how often the winner asks again."""

    redemptions: int
    processes: int
    in_flight: int
    retries: int


SMALL: Final = Size(redemptions=400, processes=2, in_flight=20, retries=40)
FULL: Final = Size(redemptions=10_000, processes=4, in_flight=10, retries=1_000)


async def test_one_of_many_redemptions_wins(postgres_server: PostgresServer, valkey: EmbeddedValkey, tmp_path: Path) -> None:
    """Of those who redeem one token at the same moment one gets a certificate, the same one whenever it asks again; the others are
    told that the token is gone. The authority is asked to sign once.
    """
    with postgres_server.fresh() as database:
        gateway = Gateway("work", tmp_path, database, valkey)
        gateway.prepare()
        await _one_wins(gateway, EmbeddedAuthority(tmp_path / "ca"), SMALL)


@pytest.mark.stress
@pytest.mark.stepca
async def test_one_of_ten_thousand_redemptions_wins(
    postgres_server: PostgresServer, valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    """The same in full size, and the authority is the real one."""
    with postgres_server.fresh() as database, running_step_ca(tmp_path / "step-ca") as server:
        gateway = Gateway("work", tmp_path, database, valkey)
        gateway.prepare()
        await _one_wins(gateway, StepCaAuthority(server), FULL)


async def _one_wins(gateway: Gateway, authority: Authority, size: Size) -> None:
    async with replicated(gateway, replicas=2, authority=authority) as running:
        offer = await Offer.make(gateway)

        requests = [Redemption.of(offer.url).request.SerializeToString().hex() for _ in range(size.redemptions)]
        answers = await race(_racers(gateway, doors(running), requests, size))

        assert Counter(answer.refused for answer in answers) == {"": 1, GONE: size.redemptions - 1}
        (winner,) = [answer for answer in answers if answer.certificate]
        _recorded_once(offer, winner)
        assert authority.count_signing_orders() == 1
        raced: Audited = {
            ("enrollment.claimed", "allowed", None): 1,
            ("enrollment.completed", "allowed", None): 1,
            ("enrollment.refused", "denied", "ENROLLMENT_TOKEN_USED"): size.redemptions - 1,
        }
        assert _audited(offer) == raced
        assert _writers(offer) == 2, "both replicas of grants decided"

        again = await race(_racers(gateway, doors(running), [winner.request] * size.retries, size))

        assert Counter(again) == {winner: size.retries}
        _recorded_once(offer, winner)
        assert authority.count_signing_orders() == 1
        assert _audited(offer) == raced | {("enrollment.repeated", "allowed", None): size.retries}


def _racers(gateway: Gateway, doors: Sequence[str], requests: Sequence[str], size: Size) -> list[Racer]:
    root, name = gateway.service_root.decode(), dns_name(ENROLLMENT, gateway.name)
    return [Racer(doors, root, name, size.in_flight, requests[number :: size.processes]) for number in range(size.processes)]


def _recorded_once(offer: Offer, winner: Answer) -> None:
    """Grant and peer are active, the winner's certificate is the only one, of the only attempt, and nothing is to be revoked."""
    fingerprint = hashlib.sha256(bytes.fromhex(winner.certificate)).digest()
    assert offer.standing() == ("active", "active", 1)
    assert offer.gateway.rows("SELECT fingerprint_sha256 FROM federation.federation_certificates") == [(fingerprint,)]
    tokens = offer.gateway.rows("SELECT token_id, attempt, fingerprint_sha256 FROM federation.federation_enrollment_tokens")
    assert tokens == [(offer.token_id, 1, fingerprint)]
    assert offer.gateway.rows("SELECT serial FROM federation.federation_ca_outbox") == []


def _audited(offer: Offer) -> Audited:
    rows = offer.gateway.rows(
        "SELECT event, outcome, denied_reason, sum(repeated) FROM federation.federation_audit_log"
        " WHERE token_id = %s AND event <> 'token.created' GROUP BY event, outcome, denied_reason",
        offer.token_id,
    )
    return {(event, outcome, reason): int(attempts) for event, outcome, reason, attempts in rows}


def _writers(offer: Offer) -> int:
    ((writers,),) = offer.gateway.rows(
        "SELECT count(DISTINCT chain_id) FROM federation.federation_audit_log WHERE token_id = %s", offer.token_id
    )
    return int(writers)
