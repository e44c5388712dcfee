"""Heads of grants and ends of months: what is signed, and when two of them cannot be of one history."""

from collections.abc import Callable
from dataclasses import fields, replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from mosaic_common.audit import AuditRow, Chain, Event, Head, HeadForged, HeadSigner, HeadVerifier, Outcome
from mosaic_common.audit_heads import GrantHead, MonthEnd, find_contradiction, month_after, month_start
from mosaic_common.keys import private_pem, public_pem

KEY: Final = Ed25519PrivateKey.from_private_bytes(bytes(32))
SIGNER: Final = HeadSigner(private_pem(KEY))
VERIFIER: Final = HeadVerifier(public_pem(KEY.public_key()))
HEAD: Final = GrantHead(UUID(int=2), rows=5, hash=b"\x05" * 32, time_us=50)
END: Final = MonthEnd(bytes(16), chain_number=7, seq=3, hash=b"\x06" * 32, ends_us=2_000, time_us=3_000)


def test_hashes_one_known_history() -> None:
    """The form is a contract with every head that a peer ever kept: these bytes never change."""
    rows = [b"\x01" * 32, b"\x02" * 32]
    head = GrantHead.beginning(UUID(int=2)).after(rows, time_us=9)
    assert head.hash == sha256(b"mosaic-audit-grant-rows-v1\0" + UUID(int=2).bytes + bytes(32) + b"".join(rows)).digest()
    assert (head.rows, head.time_us) == (2, 9)
    assert head.after([b"\x03" * 32], time_us=10).rows == 3


def test_the_order_and_the_rounds_of_rows_count() -> None:
    """Neither can be exchanged under a head."""
    beginning, one, two = GrantHead.beginning(UUID(int=2)), b"\x01" * 32, b"\x02" * 32
    together, swapped = beginning.after([one, two], 9), beginning.after([two, one], 9)
    apart = beginning.after([one], 8).after([two], 9)
    assert len({together.hash, swapped.hash, apart.hash, GrantHead.beginning(UUID(int=3)).after([one, two], 9).hash}) == 4


@pytest.mark.parametrize("name", [each.name for each in fields(GrantHead)])
def test_no_part_of_a_grants_head_is_exchanged_under_its_signature(name: str) -> None:
    """Whoever is told a head can show it to whoever has the public key."""
    signed = SIGNER.sign_grant_head(HEAD)
    assert VERIFIER.verify_grant_head(HEAD, signed.signature) == signed
    other: Any = {"grant_id": UUID(int=3), "hash": bytes(32)}.get(name, 1)
    with pytest.raises(HeadForged):
        VERIFIER.verify_grant_head(replace(HEAD, **{name: other}), signed.signature)


@pytest.mark.parametrize("name", [each.name for each in fields(MonthEnd)])
def test_no_part_of_a_months_end_is_exchanged_under_its_signature(name: str) -> None:
    """A chain begins at no other place than what was signed."""
    signed = SIGNER.sign_month_end(END)
    assert VERIFIER.verify_month_end(END, signed.signature) == signed
    other: Any = {"chain_id": b"\x01" * 16, "hash": bytes(32)}.get(name, 1)
    with pytest.raises(HeadForged):
        VERIFIER.verify_month_end(replace(END, **{name: other}), signed.signature)


def test_a_signature_is_good_for_one_purpose() -> None:
    """The head of a chain is no end of a month: a chain could be shortened at any second."""
    head = Head(END.chain_id, END.chain_number, END.seq, END.hash, END.time_us)
    with pytest.raises(HeadForged):
        VERIFIER.verify_month_end(END, SIGNER.sign(head).signature)


@pytest.mark.parametrize(
    "told",
    [
        pytest.param(replace(HEAD, hash=bytes(32)), id="another hash over as many rows"),
        pytest.param(replace(HEAD, time_us=51), id="as many rows in another round"),
        pytest.param(replace(HEAD, rows=6), id="more rows in the same round"),
        pytest.param(replace(HEAD, rows=4, time_us=51), id="fewer rows, later"),
        pytest.param(replace(HEAD, rows=6, time_us=49), id="more rows, earlier"),
    ],
)
def test_two_heads_that_are_of_no_one_history(told: GrantHead) -> None:
    """A record that was rewritten contradicts what was told before, whichever is told first."""
    assert find_contradiction([HEAD], told) == HEAD
    assert find_contradiction([told], HEAD) == told


@pytest.mark.parametrize(
    "told",
    [
        pytest.param(HEAD, id="the same again"),
        pytest.param(GrantHead(HEAD.grant_id, 6, bytes(32), 51), id="a later one"),
        pytest.param(GrantHead(HEAD.grant_id, 4, bytes(32), 49), id="an older one, late"),
    ],
)
def test_two_heads_of_one_history(told: GrantHead) -> None:
    """Answers overtake each other, and accuse nobody."""
    assert find_contradiction([HEAD], told) is None


def test_a_clock_that_is_set_back_dates_no_row_back() -> None:
    """Time never goes back within a chain; a batch that is sealed again is dated the same."""

    def row(time_us: int) -> AuditRow:
        return AuditRow(
            request_id=UUID(int=1),
            time_us=time_us,
            event=Event.READ,
            actor="a",
            source_address="",
            outcome=Outcome.ALLOWED,
            status_code=0,
        )

    chain = Chain.opened(bytes(16), 1, 0)
    first = chain.append(row(100))
    second = chain.after(first).append(row(40))
    assert second.row.time_us == 100
    assert chain.after(first).append(row(40)) == second
    assert chain.after(first).after(second).append(row(101)).row.time_us == 101


@pytest.mark.parametrize(
    ("moment", "start", "after"),
    [
        pytest.param(datetime(2026, 11, 23, 4, 5, tzinfo=UTC), (2026, 11), (2026, 12), id="within"),
        pytest.param(datetime(2026, 12, 31, 23, 59, tzinfo=UTC), (2026, 12), (2027, 1), id="the last of a year"),
        pytest.param(datetime(2026, 1, 1, tzinfo=UTC), (2026, 1), (2026, 2), id="the first microsecond"),
    ],
)
def test_months(moment: datetime, start: tuple[int, int], after: tuple[int, int]) -> None:
    """In UTC, from the first microsecond to the last."""
    month = month_start(int(moment.timestamp()) * 1_000_000)
    assert month == datetime(*start, 1, tzinfo=UTC)
    assert month_after(month) == datetime(*after, 1, tzinfo=UTC)


@pytest.mark.parametrize("time_us", [-(2**63), 2**63 - 1])
def test_every_int64_has_a_month(time_us: int) -> None:
    """A clock that is centuries away stops no round."""
    assert month_start(time_us).day == 1


@pytest.mark.parametrize(
    "make", [lambda: replace(HEAD, hash=b""), lambda: replace(END, chain_id=b""), lambda: replace(END, hash=b"")]
)
def test_has_no_head_of_another_shape(make: Callable[[], object]) -> None:
    """Fixed lengths are what makes the signed bytes unambiguous."""
    with pytest.raises(ValueError, match="bytes"):
        make()
