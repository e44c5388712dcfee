"""Refusals that share a row."""

from dataclasses import replace
from uuid import uuid4

from mosaic_common.audit import AuditRow, Event, Outcome
from mosaic_common.errors import Layer, Reason
from mosaic_common.rpc.counted_refusals import CountedRefusals

ROW = AuditRow(
    request_id=uuid4(),
    time_us=1,
    event=Event.READ,
    actor="",
    source_address="192.0.2.7",
    outcome=Outcome.DENIED,
    denied_layer=Layer.SOURCE,
    denied_reason=Reason.RATE_LIMITED,
    status_code=8,
)


def test_one_row_stands_for_all_of_a_key() -> None:
    """A thousand refusals of one source make one row that says so; the next second begins anew."""
    counted = CountedRefusals()
    for _ in range(1000):
        counted.count(replace(ROW, request_id=uuid4()))
    assert [row.repeated for row in counted.harvest()] == [1000]
    assert counted.harvest() == []


def test_keys_are_certificate_or_source_and_reason() -> None:
    """A certificate is one key wherever it calls from; without one the address is; two reasons are two rows."""
    counted = CountedRefusals()
    counted.count(replace(ROW, actor="aa"))
    counted.count(replace(ROW, actor="aa", source_address="192.0.2.8"))
    counted.count(ROW)
    counted.count(replace(ROW, denied_reason=Reason.MESSAGE_MALFORMED))
    assert [(row.actor, row.repeated) for row in counted.harvest()] == [("aa", 2), ("", 1), ("", 1)]


def test_a_network_is_one_source() -> None:
    """Whoever commands a /64 of IPv6 addresses makes one row by them all, which names the network; one address keeps its name."""
    counted = CountedRefusals()
    for number in range(50):
        counted.count(replace(ROW, source_address=f"2001:db8:1:2::{number:x}"))
    counted.count(replace(ROW, source_address="2001:db8:9:9::1"))
    found = [(row.source_address, row.repeated) for row in counted.harvest()]
    assert found == [("2001:db8:1:2::/64", 50), ("2001:db8:9:9::1", 1)]


def test_rows_are_bounded() -> None:
    """Refusals from more addresses than there are rows share one that names none of them; no refusal goes uncounted."""
    counted = CountedRefusals(max_rows=3)
    for number in range(100):
        counted.count(replace(ROW, source_address=f"198.51.100.{number}", grant_id=uuid4()))
    rows = counted.harvest()
    assert len(rows) == 4
    assert sum(row.repeated for row in rows) == 100
    assert (rows[-1].source_address, rows[-1].grant_id, rows[-1].repeated) == ("others", None, 97)
