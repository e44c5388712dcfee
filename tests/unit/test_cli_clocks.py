"""A clock that is off is named, by what the gateway answers and by what the token itself says."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from mosaic_cli.clocks import find_clock_difference
from mosaic_common.auth import Role, TokenIssuer, TokenVerifier, jwk_set, operate_audience, own_issuer
from mosaic_common.errors import AuthRefused, Reason
from mosaic_common.keys import private_pem

from tests.support.clock import FakeClock

NOW = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
KEY = generate_private_key(SECP256R1())
LISTENER = "grants of work at localhost:7112"


def make(at: datetime) -> str:
    issuer = TokenIssuer(private_pem(KEY), "work", FakeClock(at))
    return issuer.issue("ruth", [Role.ADMIN], operate_audience("work"), timedelta(minutes=5))


def refused_at(token: str, gateway_time: datetime) -> AuthRefused:
    """What a gateway answers whose clock says this."""
    verifier = TokenVerifier(
        jwk_set([KEY.public_key()]),
        issuer=own_issuer("work"),
        audience=operate_audience("work"),
        gateway="work",
        clock=FakeClock(gateway_time),
    )
    with pytest.raises(AuthRefused) as refused:
        verifier.verify(token)
    return refused.value


@pytest.mark.parametrize(
    ("gateway_is", "told"),
    [
        pytest.param(timedelta(minutes=20), "its clock is at least 5 minutes ahead of this machine's", id="the gateway is ahead"),
        pytest.param(timedelta(minutes=-20), "its clock is behind this machine's", id="the gateway is behind"),
    ],
)
def test_a_token_that_holds_here_and_not_there_is_a_clock(gateway_is: timedelta, told: str) -> None:
    """Both times are told: `make a new token` would help nobody."""
    token = make(NOW)
    found = find_clock_difference(refused_at(token, NOW + gateway_is), token, LISTENER, NOW)
    assert found is not None
    assert found.reason == "CLOCK"
    assert told in found.message
    assert "which says 2026-03-02T09:30:00Z" in found.message
    assert "clock" in (found.remedy or "")


def test_a_token_that_has_expired_here_too_is_just_expired() -> None:
    """The gateway's own answer stands, with its own remedy."""
    token = make(NOW - timedelta(hours=1))
    assert find_clock_difference(refused_at(token, NOW), token, LISTENER, NOW) is None


@pytest.mark.parametrize("token", ["", "a.b.c", "not a token"])
def test_a_token_that_says_nothing_explains_nothing(token: str) -> None:
    """What somebody put into MOSAIC_TOKEN is read, never trusted to be a token."""
    refused = AuthRefused(Reason.AUTH_TOKEN_EXPIRED, "The bearer token has expired.")
    assert find_clock_difference(refused, token, LISTENER, NOW) is None
