"""Grants, peers and the sealing as a person reads them: what is open, refused or owed is said in words, above the tables."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from mosaic.errors.v1.errors_pb2 import REASON_GRANT_NOT_ACTIVE
from mosaic.grants.v1.types_pb2 import (
    CERTIFICATE_STATE_ACTIVE,
    CERTIFICATE_STATE_REVOKED,
    ENROLLMENT_TOKEN_STATE_CLAIMED,
    ENROLLMENT_TOKEN_STATE_OPEN,
    ENROLLMENT_TOKEN_STATE_UNFINISHED,
    ENROLLMENT_TOKEN_STATE_USED,
    GRANT_STATUS_PENDING,
    GRANT_STATUS_REVOKED,
    PEER_DIRECTION_OUTBOUND,
    PEER_STATE_ACTIVE,
    PEER_STATE_PENDING,
    PEER_STATE_REVOKED,
    AuditEntry,
    Certificate,
    ConnectionRefusal,
    EnrollmentToken,
    Grant,
    Peer,
)
from mosaic_cli.documents import grant_document, grant_summary, peer_document
from mosaic_cli.views.grants import grant_sheet
from mosaic_cli.views.peers import peer_list, peer_sheet
from rich.console import Console, RenderableType

NOW = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
TOKEN_ID = bytes(range(32))
SENTENCE = "The other gateway has revoked this grant: ask its operator for a new enrollment URL."


def at(**ago: float) -> int:
    return int((NOW - timedelta(**ago)).timestamp() * 1_000_000)


def token(state: Any, **changes: Any) -> EnrollmentToken:
    fields = {"attempt": 2, "created_at_us": at(minutes=6), "expires_at_us": at(minutes=-9), "created_by": "ruth"}
    return EnrollmentToken(token_id=TOKEN_ID, state=state, **{**fields, **changes})


ENTRY = AuditEntry(
    time_us=at(minutes=3),
    event="enrollment.refused",
    outcome="denied",
    denied_layer="token",
    denied_reason="ENROLLMENT_TOKEN_USED",
    actor="enrollment",
    source_address="192.0.2.77",
    token_id=TOKEN_ID,
    repeated=1200,
    request_id="00000000-0000-4000-8000-000000000000",
)


def grant(**changes: Any) -> Grant:
    fields: dict[str, Any] = {
        "id": "7a0bb1e6-7a05-45e6-b30a-f1547d4186e7",
        "subject_user_id": "5d2ff1f8-8a3c-4f10-bd66-96b26d3ebd53",
        "subject_email": "mira@work.example",
        "peer_id": "718859ad-f373-434d-b464-d03de2b481c1",
        "peer_name": "home",
        "status": GRANT_STATUS_PENDING,
        "scope_json": '{"resources":["tasks"],"excluded_resources":[],"filters":{},"max_rows_per_query":50}',
        "created_by": "ruth",
        "created_at_us": at(days=3),
    }
    return Grant(**{**fields, **changes})


def connection(**changes: Any) -> Peer:
    fields: dict[str, Any] = {
        "id": "718859ad-f373-434d-b464-d03de2b481c1",
        "name": "work",
        "common_name": "home",
        "direction": PEER_DIRECTION_OUTBOUND,
        "state": PEER_STATE_ACTIVE,
        "remote_gateway": "work",
        "endpoint": "work.example:7443",
        "created_by": "ruth",
        "created_at_us": at(days=3),
        "last_seen_at_us": at(hours=2),
    }
    return Peer(**{**fields, **changes})


def printed(content: RenderableType, width: int = 120) -> str:
    console = Console(width=width, markup=False, emoji=False, highlight=False, color_system=None)
    with console.capture() as captured:
        console.print(content)
    return captured.get()


def words(content: RenderableType, width: int = 120) -> str:
    """The text as one line, wherever it was wrapped."""
    return " ".join(printed(content, width).split())


def test_a_claim_that_nobody_finished_is_named_with_what_to_do() -> None:
    """Which token, which attempt, since when, until when the same URL still works, and the command that makes another."""
    shown = words(grant_sheet(grant(tokens=[token(ENROLLMENT_TOKEN_STATE_UNFINISHED, lease_until_us=at(minutes=4))]), NOW))
    assert "Attempt 2 to redeem the token 00010203 was never finished, 4 minutes ago" in shown
    assert "again with the same URL until 2026-03-02 09:39 UTC (in 9 minutes)" in shown
    assert "`mosaic federation grant token 7a0bb1e6-7a05-45e6-b30a-f1547d4186e7`" in shown


def test_a_lost_key_is_not_replaced_by_a_first_one() -> None:
    """The command that is offered for an unfinished re-enrollment makes another re-enrollment."""
    unfinished = token(ENROLLMENT_TOKEN_STATE_UNFINISHED, reenroll=True)
    assert "grant token 7a0bb1e6-7a05-45e6-b30a-f1547d4186e7 --reenroll`" in words(grant_sheet(grant(tokens=[unfinished]), NOW))


def test_a_claim_under_way_says_until_when_it_may_take() -> None:
    """Nobody voids a token that is being redeemed at this very moment because it looks stuck."""
    claimed = token(ENROLLMENT_TOKEN_STATE_CLAIMED, lease_until_us=at(minutes=-1))
    assert "is under way until 2026-03-02 09:31 UTC (in 1 minute)" in words(grant_sheet(grant(tokens=[claimed]), NOW))
    (document,) = grant_document(grant(tokens=[claimed]))["tokens"]
    assert (document["state"], document["attempt"], document["lease_until"]) == ("claimed", 2, "2026-03-02T09:31:00Z")


@pytest.mark.parametrize("state", [ENROLLMENT_TOKEN_STATE_OPEN, ENROLLMENT_TOKEN_STATE_USED])
def test_what_is_in_order_is_not_warned_about(state: Any) -> None:
    """A warning that always stands there is read by nobody."""
    assert "!" not in printed(grant_sheet(grant(tokens=[token(state)]), NOW))


def test_revocations_that_the_authority_owes_are_told() -> None:
    """The gateway refuses already, and says what it has still to tell the authority."""
    owed = grant(
        status=GRANT_STATUS_REVOKED,
        revoked_at_us=at(minutes=1),
        revoked_reason="left",
        revocations_owed=2,
        certificates=[Certificate(fingerprint=TOKEN_ID, state=CERTIFICATE_STATE_REVOKED, revoked_at_us=at(minutes=1))],
    )
    shown = words(grant_sheet(owed, NOW))
    assert "has not confirmed 2 revocations of this grant yet" in shown
    assert "because left" in shown
    assert grant_document(owed)["revocations_owed"] == 2


def test_a_refused_connection_says_so_in_words_above_everything_else() -> None:
    """The other gateway's reason in a sentence, right under the title; the list marks it too."""
    refused = connection(
        refusal=ConnectionRefusal(reason=REASON_GRANT_NOT_ACTIVE, grant_status="revoked", time_us=at(minutes=3), sentence=SENTENCE)
    )
    for width in (80, 120):
        sheet = words(peer_sheet(refused, NOW), width)
        assert sheet.startswith("Peer work ● active ✗ refused ! GRANT_NOT_ACTIVE, 3 minutes ago: The other gateway has revoked")
    assert "✗ refused" in printed(peer_list([refused], NOW))
    assert peer_document(refused)["refusal"] == {
        "reason": "GRANT_NOT_ACTIVE",
        "grant_status": "revoked",
        "time": "2026-03-02T09:27:00Z",
        "sentence": SENTENCE,
    }


def test_only_a_refused_connection_shows_a_refusal() -> None:
    """Neither one that answers, nor one that has been ended here since."""
    assert "refused" not in printed(peer_sheet(connection(), NOW))
    assert peer_document(connection())["refusal"] is None
    ended = connection(state=PEER_STATE_REVOKED, refusal=ConnectionRefusal(reason=REASON_GRANT_NOT_ACTIVE, sentence=SENTENCE))
    assert "refused" not in printed(peer_sheet(ended, NOW))


def test_an_unfinished_enrollment_of_a_connection_is_named() -> None:
    """The operator of the querying side learns which command continues it."""
    begun = connection(state=PEER_STATE_PENDING, enrollment_pending=True)
    assert "run the same `mosaic federation peer add` again" in words(peer_sheet(begun, NOW))


@pytest.mark.parametrize("width", [80, 120])
def test_recent_audit_rows_are_one_compact_table(width: int) -> None:
    """Time, event, outcome with its reason and count, who from where, and which token, in 80 columns too."""
    lines = printed(grant_sheet(grant(recent=[ENTRY, ENTRY]), NOW), width).splitlines()
    assert any(line.split() == ["TIME", "EVENT", "OUTCOME", "FROM", "TOKEN"] for line in lines)
    assert all(len(line) <= width for line in lines)
    shown = " ".join(printed(grant_sheet(grant(recent=[ENTRY]), NOW), 200).split())
    assert "3 min ago enrollment.refused ✗ denied ENROLLMENT_TOKEN_USED 1,200 times enrollment 192.0.2.77 00010203" in shown


def test_the_document_has_what_the_table_shortens() -> None:
    """Whole token ids, exact times and the request id, which the gateway's log can be searched for."""
    (row,) = grant_document(grant(recent=[ENTRY]))["recent"]
    assert (row["token_id"], row["request_id"]) == (TOKEN_ID.hex(), ENTRY.request_id)
    assert (row["time"], row["denied_layer"], row["repeated"]) == ("2026-03-02T09:27:00Z", "token", 1200)


def test_a_list_does_not_say_that_a_grant_has_no_certificates() -> None:
    """What lists do not carry is absent from their documents, not empty."""
    assert not {"certificates", "tokens", "recent"} & grant_summary(grant()).keys()


def test_what_comes_from_elsewhere_obeys_nobody() -> None:
    """Names, reasons and sentences of another gateway reach the terminal as the characters that they are."""
    hostile = connection(
        refusal=ConnectionRefusal(sentence="\x1b[2Jgone\u202e"),
        revoked_at_us=at(days=1),
        revoked_reason="\x9b2J",
        recent=[AuditEntry(event="\x1b]0;x\x07", actor="\x1bx", outcome="\x1b")],
        certificates=[Certificate(fingerprint=TOKEN_ID, state=CERTIFICATE_STATE_ACTIVE)],
    )
    shown = printed(peer_sheet(hostile, NOW))
    assert not {"\x1b", "\x9b", "\x07", "\u202e"} & set(shown)
    assert r"\x1b[2Jgone\u202e" in shown
