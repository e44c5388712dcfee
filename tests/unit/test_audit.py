"""The audit chain: nothing about it changes unseen, and the place is named."""

from collections.abc import Callable
from dataclasses import fields, replace
from enum import Enum
from hashlib import sha256
from typing import Any, Final
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from mosaic_common.audit import (
    AuditRow,
    Chain,
    ChainBroken,
    Event,
    Head,
    HeadForged,
    HeadSigner,
    HeadVerifier,
    Outcome,
    SealedRow,
    SignedHead,
    canonical_row,
    row_hash,
    verify_chain,
)
from mosaic_common.decision import Verb
from mosaic_common.errors import Layer, Reason

CHAIN_ID: Final = bytes(range(16))
START: Final = Chain.opened(CHAIN_ID, chain_number=7, time_us=1_900_000_000_000_000)
AUDIT_KEY: Final = Ed25519PrivateKey.from_private_bytes(bytes(32))
SIGNER: Final = HeadSigner(AUDIT_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
PUBLIC_PEM: Final = AUDIT_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

DENIED: Final = AuditRow(
    request_id=UUID("55555555-5555-4555-8555-555555555555"),
    time_us=1_900_000_000_000_001,
    event=Event.READ,
    actor="home",
    source_address="192.0.2.7",
    peer_id=UUID(int=1),
    grant_id=UUID(int=2),
    subject_user_id=UUID(int=3),
    verb=Verb.LIST,
    resource="tasks",
    outcome=Outcome.DENIED,
    denied_layer=Layer.SCOPE,
    denied_reason=Reason.RESOURCE_NOT_GRANTED,
    status_code=7,
    query_hash=b"\x05" * 32,
    latency_us=850,
)

INT64: Final = st.integers(-(2**63), 2**63 - 1)
HASHES: Final = st.binary(min_size=32, max_size=32)
ROWS: Final = st.builds(
    AuditRow,
    request_id=st.uuids(),
    time_us=INT64,
    event=st.sampled_from(Event),
    actor=st.text(max_size=80),
    source_address=st.text(max_size=5),
    peer_id=st.none() | st.uuids(),
    grant_id=st.none() | st.uuids(),
    subject_user_id=st.none() | st.uuids(),
    token_id=st.none() | HASHES,
    verb=st.none() | st.sampled_from(Verb),
    resource=st.text(max_size=5),
    outcome=st.sampled_from(Outcome),
    denied_layer=st.none() | st.sampled_from(Layer),
    denied_reason=st.none() | st.sampled_from(Reason),
    status_code=INT64,
    result_count=INT64,
    bytes_out=INT64,
    query_hash=st.none() | HASHES,
    latency_us=INT64,
    repeated=INT64,
)
HISTORIES: Final = st.lists(ROWS, min_size=2, max_size=4)


def sealed(rows: list[AuditRow], start: Chain = START) -> list[SealedRow]:
    chain, written = start, []
    for row in rows:
        written.append(chain.append(row))
        chain = chain.after(written[-1])
    return written


def signed(row: SealedRow) -> SignedHead:
    return SIGNER.sign(Head(row.chain_id, chain_number=7, seq=row.seq, hash=row.hash, time_us=0))


def broken_at(rows: list[SealedRow], heads: list[SignedHead]) -> int:
    with pytest.raises(ChainBroken) as broken:
        verify_chain(rows, START, heads)
    return broken.value.position


def another(value: Any) -> Any:
    """A different value that the column could hold."""
    match value:
        case Enum():
            return next(member for member in type(value) if member is not value)
        case None:
            return UUID(int=9)
        case UUID():
            return UUID(int=value.int ^ 1)
        case int():
            return value ^ 1
        case str():
            return value[:-1] + ("a" if value[-1:] != "a" else "b")
        case bytes():
            return bytes([value[0] ^ 1]) + value[1:]
        case _:
            pytest.fail(f"no other value for {value!r}")


@given(HISTORIES)
def test_accepts_what_was_written(rows: list[AuditRow]) -> None:
    """An untouched export verifies, in one piece or from the middle on, and is sealed through its last countersigned row."""
    written = sealed(rows)
    verified = verify_chain(written, START, [signed(written[-1])])
    assert verified.end == START.after(written[-1])
    assert verified.sealed_through == len(rows)
    middle = START.after(written[0])
    assert verify_chain(written[1:], middle, [signed(row) for row in written]).end == verified.end


COLUMNS: Final = [field.name for field in fields(AuditRow)]


@given(st.data(), HISTORIES)
def test_locates_an_edited_column(data: st.DataObject, rows: list[AuditRow]) -> None:
    """Whichever column of whichever row is changed, the row is named."""
    written = sealed(rows)
    place = data.draw(st.integers(0, len(written) - 1))
    column = data.draw(st.sampled_from(COLUMNS))
    row = written[place].row
    edited = replace(row, **{column: another(getattr(row, column))})
    written[place] = replace(written[place], row=edited)
    assert broken_at(written, []) == place


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("row", [DENIED, replace(DENIED, peer_id=None, verb=None, denied_layer=None, query_hash=None)])
def test_covers_every_column(row: AuditRow, column: str) -> None:
    """No column is left out of the hash, whether it holds a value or a null."""
    written = sealed([row])
    edited = replace(written[0].row, **{column: another(getattr(written[0].row, column))})
    assert broken_at([replace(written[0], row=edited)], []) == 0


@given(st.data(), HISTORIES, st.sampled_from(["chain_id", "seq", "prev_hash", "hash"]))
def test_locates_an_edited_link(data: st.DataObject, rows: list[AuditRow], column: str) -> None:
    """The chain's own columns are no way around it."""
    written = sealed(rows)
    place = data.draw(st.integers(0, len(written) - 1))
    written[place] = replace(written[place], **{column: another(getattr(written[place], column))})
    assert broken_at(written, []) == place


@given(st.data(), HISTORIES)
def test_locates_swapped_rows(data: st.DataObject, rows: list[AuditRow]) -> None:
    """Two rows that changed places are found at the earlier place."""
    written = sealed(rows)
    first = data.draw(st.integers(0, len(written) - 2))
    second = data.draw(st.integers(first + 1, len(written) - 1))
    written[first], written[second] = written[second], written[first]
    assert broken_at(written, []) == first


@given(st.data(), HISTORIES)
def test_locates_a_dropped_row(data: st.DataObject, rows: list[AuditRow]) -> None:
    """A row that is gone is missed at its place; the last ones because a countersigned head knows of them."""
    written = sealed(rows)
    head = signed(written[-1])
    place = data.draw(st.integers(0, len(written) - 1))
    del written[place]
    assert broken_at(written, [head]) == place


@given(st.data(), HISTORIES, ROWS)
def test_locates_an_inserted_row(data: st.DataObject, rows: list[AuditRow], extra: AuditRow) -> None:
    """A made-up row is found where it was put; one that was hashed onto the row before it, by the first row that follows."""
    written = sealed(rows)
    place = data.draw(st.integers(0, len(written) - 1))
    inserted = (START.after(written[place - 1]) if place else START).append(extra)
    made_up = replace(inserted, hash=another(inserted.hash))
    assert broken_at([*written[:place], made_up, *written[place:]], []) == place
    assert broken_at([*written[:place], inserted, *written[place:]], []) == place + 1


@given(st.data(), HISTORIES)
def test_locates_a_repeated_row(data: st.DataObject, rows: list[AuditRow]) -> None:
    """A row that stands twice is found at its second place."""
    written = sealed(rows)
    place = data.draw(st.integers(0, len(written) - 1))
    written.insert(place + 1, written[place])
    assert broken_at(written, []) == place + 1


@given(st.data(), HISTORIES)
def test_finds_a_rewritten_history(data: st.DataObject, rows: list[AuditRow]) -> None:
    """Whoever recomputes every hash after an edit contradicts the next head that grants countersigned."""
    written = sealed(rows)
    edited_at = data.draw(st.integers(0, len(written) - 1))
    signed_at = data.draw(st.integers(edited_at, len(written) - 1))
    rewritten = [row.row for row in written]
    rewritten[edited_at] = replace(rewritten[edited_at], result_count=another(rewritten[edited_at].result_count))
    assert broken_at(sealed(rewritten), [signed(written[signed_at])]) == signed_at


def test_finds_a_chain_under_another_opening() -> None:
    """A whole chain written anew contradicts its countersigned opening already."""
    opening = SIGNER.sign(Head(CHAIN_ID, chain_number=7, seq=0, hash=START.head, time_us=0))
    forged = Chain.opened(CHAIN_ID, chain_number=8, time_us=0)
    with pytest.raises(ChainBroken):
        verify_chain(sealed([DENIED], forged), forged, [opening])


def test_calls_rows_after_the_last_head_unsealed() -> None:
    """Rows that no head covers are consistent, but not vouched for."""
    written = sealed([DENIED] * 4)
    assert verify_chain(written, START, [signed(written[1])]).sealed_through == 2
    assert verify_chain(written, START, []).sealed_through == 0


def test_leaves_heads_of_other_chains_aside() -> None:
    """An export holds the heads of every writer; only this chain's count."""
    written = sealed([DENIED])
    foreign = SIGNER.sign(Head(bytes(16), chain_number=1, seq=99, hash=bytes(32), time_us=0))
    assert verify_chain(written, START, [foreign]).sealed_through == 0


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"status_code": 2**63}, id="an integer that no column holds"),
        pytest.param({"actor": "\ud800"}, id="text that has no encoding"),
    ],
)
def test_locates_a_value_that_was_never_written(changes: dict[str, Any]) -> None:
    """What cannot even be hashed is an altered row, not a crash of the verifier."""
    written = sealed([DENIED, DENIED])
    written[1] = replace(written[1], row=replace(written[1].row, **changes))
    assert broken_at(written, []) == 1


def test_does_not_repair_what_it_verifies() -> None:
    """Text that was edited into something unsafe is not made safe again on the way into the hash."""
    written = sealed([replace(DENIED, actor="mall?ry")])
    written[0] = replace(written[0], row=replace(written[0].row, actor="mall\u00f6ry"))
    assert broken_at(written, []) == 0


@given(ROWS)
def test_writes_only_short_printable_ascii(row: AuditRow) -> None:
    """Whatever a socket, a token or a request put into a text, a row holds at most 64 printable ASCII characters of it."""
    safe = START.append(row).row
    for text in (safe.actor, safe.source_address, safe.resource):
        assert len(text) <= 64
        assert text.isascii()
        assert text.isprintable()


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        pytest.param("home", "home", id="as it is"),
        pytest.param("a\r\nb\x00\x1b[31m\x7f", "a??b??[31m?", id="line breaks, NUL, escape sequences"),
        pytest.param("\u202eevil", "?evil", id="bidirectional override"),
        pytest.param("x" * 65, "x" * 64, id="longer than a column"),
        pytest.param("tasks\n", "tasks?", id="a line break at the end"),
    ],
)
def test_makes_text_safe(text: str, kept: str) -> None:
    """What a terminal would obey or a column would refuse is replaced, the rest stays readable."""
    assert replace(DENIED, actor=text).made_safe().actor == kept


def test_seals_a_batch_again_from_where_the_chain_stood() -> None:
    """After an ambiguous commit the same rows give the same hashes, so that the database can tell a retry from a fork."""
    assert sealed([DENIED, DENIED]) == sealed([DENIED, DENIED])
    first, second = sealed([DENIED, DENIED])
    assert first.hash != second.hash


def test_hashes_one_known_row() -> None:
    """The canonical form is a contract with every export ever written: these bytes never change."""
    row = AuditRow(
        request_id=UUID(int=1),
        time_us=2,
        event=Event.READ,
        actor="a",
        source_address="",
        outcome=Outcome.ALLOWED,
        status_code=0,
    )
    integer = "00000008"
    one, null = f"{integer}{1:016x}", "ffffffff"
    zero = f"{integer}{0:016x}"
    expected = "".join(
        [
            "01",
            f"00000010{1:032x}",
            f"{integer}{2:016x}",
            f"00000004{b'read'.hex()}",
            f"00000001{b'a'.hex()}",
            "00000000",
            null * 4,
            null,
            "00000000",
            f"00000007{b'allowed'.hex()}",
            null * 2,
            zero * 3,
            null,
            zero,
            one,
            f"00000010{CHAIN_ID.hex()}",
            one,
        ]
    )
    assert canonical_row(row, CHAIN_ID, seq=1).hex() == expected
    assert row_hash(b"\x07" * 32, row, CHAIN_ID, seq=1) == sha256(b"\x07" * 32 + bytes.fromhex(expected)).digest()


def test_tells_a_null_from_an_empty_value() -> None:
    """Length and null mark are part of the form, so no two rows share their bytes."""
    assert canonical_row(replace(DENIED, token_id=None), CHAIN_ID, 1) != canonical_row(replace(DENIED, token_id=b""), CHAIN_ID, 1)
    one = canonical_row(replace(DENIED, actor="ab", source_address="c"), CHAIN_ID, 1)
    assert one != canonical_row(replace(DENIED, actor="a", source_address="bc"), CHAIN_ID, 1)


HEAD: Final = Head(CHAIN_ID, chain_number=7, seq=3, hash=b"\x06" * 32, time_us=1_900_000_000_000_000)


def test_verifies_what_this_gateway_signed() -> None:
    """The public key alone tells a countersigned head."""
    assert HeadVerifier(PUBLIC_PEM).verify(HEAD, SIGNER.sign(HEAD).signature) == SIGNER.sign(HEAD)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda head: replace(head, chain_id=bytes(16)), id="another chain"),
        pytest.param(lambda head: replace(head, chain_number=8), id="another chain number"),
        pytest.param(lambda head: replace(head, seq=4), id="another row"),
        pytest.param(lambda head: replace(head, hash=bytes(32)), id="another hash"),
        pytest.param(lambda head: replace(head, time_us=0), id="another time"),
    ],
)
def test_refuses_a_head_that_was_not_signed(change: Callable[[Head], Head]) -> None:
    """No part of a head can be exchanged under its signature."""
    with pytest.raises(HeadForged):
        HeadVerifier(PUBLIC_PEM).verify(change(HEAD), SIGNER.sign(HEAD).signature)


@pytest.mark.parametrize("signature", [b"", bytes(64), bytes(63)])
def test_refuses_what_is_no_signature(signature: bytes) -> None:
    """Nothing but a signature of 64 bytes passes, and nothing but HeadForged is raised."""
    with pytest.raises(HeadForged):
        HeadVerifier(PUBLIC_PEM).verify(HEAD, signature)


@pytest.mark.parametrize(("chain_id", "head_hash"), [(bytes(15), bytes(32)), (bytes(16), bytes(31))])
def test_has_no_head_of_another_shape(chain_id: bytes, head_hash: bytes) -> None:
    """Fixed lengths are what makes the signed bytes unambiguous."""
    with pytest.raises(ValueError, match="bytes"):
        Head(chain_id, 1, 1, head_hash, 0)


def test_takes_only_ed25519_keys() -> None:
    """The audit key is not one that signs anything else."""
    key = generate_private_key(SECP256R1())
    with pytest.raises(ValueError, match="Ed25519"):
        HeadSigner(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(ValueError, match="Ed25519"):
        HeadVerifier(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
