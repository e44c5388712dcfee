"""mosaic_common.sealing: a private key opens in its own row only."""

import base64
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from mosaic_common.errors import ConfigurationError
from mosaic_common.sealing import Binding, SealBroken, SealingKeys, parse_key_id

SECRET = "a secret of at least thirty-two bytes"
BINDING = Binding(
    table="federation_peer_keys",
    column="client_key_pem",
    row_id=UUID("0b4e3c2a-9f1d-4c5b-8a76-1e2d3c4b5a69"),
    local_user_id=UUID("7d3a1f60-2b8c-4e95-a0d4-5c6b7a8e9f01"),
    public_key_sha256=bytes(range(32)),
)
PLAINTEXT = b"-----BEGIN PRIVATE KEY-----"
KEYS = SealingKeys(SECRET)


def test_opens_where_it_was_sealed() -> None:
    """The right row gives the value back; the stored form names version and key and shows nothing else."""
    sealed = KEYS.seal(PLAINTEXT, BINDING)
    assert KEYS.open(sealed, BINDING) == PLAINTEXT
    assert sealed.startswith(f"v2.{KEYS.current_id}.")
    assert sealed.isascii()
    assert PLAINTEXT not in base64.urlsafe_b64decode(sealed.split(".")[2])


def test_never_seals_the_same_way_twice() -> None:
    """A fresh nonce each time."""
    assert KEYS.seal(PLAINTEXT, BINDING) != KEYS.seal(PLAINTEXT, BINDING)


def test_is_what_contracts_says() -> None:
    """AES-256-GCM under HKDF-SHA256 of the secret, associated data length-prefixed: opened here by hand."""
    sealed = KEYS.seal(PLAINTEXT, BINDING)
    version, key_id, body = sealed.split(".")
    key = HKDF(SHA256(), 32, salt=None, info=b"mosaic/federation/seal/v2").derive(SECRET.encode())
    fields = [version, key_id, BINDING.table, BINDING.column, str(BINDING.row_id), str(BINDING.local_user_id)]
    associated = b"".join(
        len(field).to_bytes(4, "big") + field for field in (*(text.encode() for text in fields), BINDING.public_key_sha256)
    )
    box = base64.urlsafe_b64decode(body)
    assert AESGCM(key).decrypt(box[:12], box[12:], associated) == PLAINTEXT


def test_the_key_id_says_nothing_about_the_key() -> None:
    """It is an output of its own, neither a prefix of the key nor of its hash."""
    key = HKDF(SHA256(), 32, salt=None, info=b"mosaic/federation/seal/v2").derive(SECRET.encode())
    assert not key.hex().startswith(KEYS.current_id)
    assert HKDF(SHA256(), 8, salt=None, info=b"mosaic/federation/seal/v2/key-id").derive(SECRET.encode()).hex() == KEYS.current_id


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"table": "federation_peers"}, id="another table"),
        pytest.param({"column": "chain_pem"}, id="another column"),
        pytest.param({"row_id": UUID(int=1)}, id="another row"),
        pytest.param({"local_user_id": UUID(int=1)}, id="the row given to another user"),
        pytest.param({"public_key_sha256": bytes(32)}, id="another public key"),
        pytest.param({"table": "federation_peer_keysc", "column": "lient_key_pem"}, id="the same letters, cut elsewhere"),
    ],
)
def test_does_not_open_elsewhere(change: dict[str, Any]) -> None:
    """Everything that says where a value belongs is part of the seal."""
    with pytest.raises(SealBroken):
        KEYS.open(KEYS.seal(PLAINTEXT, BINDING), replace(BINDING, **change))


def altered(sealed: str, position: int) -> str:
    version, key_id, body = sealed.split(".")
    box = bytearray(base64.urlsafe_b64decode(body))
    box[position] ^= 1
    return f"{version}.{key_id}.{base64.urlsafe_b64encode(box).decode()}"


SEALED = KEYS.seal(PLAINTEXT, BINDING)


@pytest.mark.parametrize(
    "sealed",
    [
        pytest.param("", id="nothing"),
        pytest.param(PLAINTEXT.decode(), id="the plain text"),
        pytest.param(SEALED.replace("v2.", "v1."), id="another version"),
        pytest.param(SEALED + ".x", id="a fourth part"),
        pytest.param(SEALED.rsplit(".", 1)[0] + ".", id="no ciphertext"),
        pytest.param(SEALED.rsplit(".", 1)[0] + ".AAAA", id="shorter than a nonce"),
        pytest.param(SEALED.rsplit(".", 1)[0] + ".!!!!", id="not base64"),
        pytest.param(SEALED.rsplit(".", 1)[0] + ".éééé", id="not ASCII"),
        pytest.param(SEALED.replace(KEYS.current_id, "0" * 16), id="another key id"),
        pytest.param(altered(SEALED, 0), id="nonce altered"),
        pytest.param(altered(SEALED, 12), id="ciphertext altered"),
        pytest.param(altered(SEALED, -1), id="tag altered"),
    ],
)
def test_refuses_altered_values(sealed: str) -> None:
    """A value that was touched gives nothing, whatever was touched."""
    with pytest.raises(SealBroken):
        KEYS.open(sealed, BINDING)


def test_rotates_in_three_phases() -> None:
    """_NEXT is readable before it is used; promoted, it seals while _PREVIOUS still opens; without that the old value is gone."""
    old, new = b"o" * 32, b"n" * 32
    before, prepared, promoted, done = (
        SealingKeys(old),
        SealingKeys(old, next=new),
        SealingKeys(new, previous=old),
        SealingKeys(new),
    )
    old_value, new_value = before.seal(PLAINTEXT, BINDING), promoted.seal(PLAINTEXT, BINDING)
    assert prepared.seal(PLAINTEXT, BINDING).split(".")[1] == before.current_id
    assert prepared.open(new_value, BINDING) == promoted.open(old_value, BINDING) == done.open(new_value, BINDING) == PLAINTEXT
    assert prepared.readable_ids == promoted.readable_ids == {before.current_id, done.current_id}
    assert parse_key_id(new_value) == done.current_id
    with pytest.raises(SealBroken, match="does not have"):
        done.open(old_value, BINDING)


def test_seals_anew_what_it_can_open() -> None:
    """Under the current key, for the same place, once; what the old key is still needed for does not change."""
    old, promoted, done = SealingKeys(b"o" * 32), SealingKeys(b"n" * 32, previous=b"o" * 32), SealingKeys(b"n" * 32)
    resealed = promoted.reseal(old.seal(PLAINTEXT, BINDING), BINDING)
    assert parse_key_id(resealed) == done.current_id
    assert done.open(resealed, BINDING) == PLAINTEXT
    with pytest.raises(SealBroken, match="does not have"):
        done.reseal(old.seal(PLAINTEXT, BINDING), BINDING)
    with pytest.raises(SealBroken, match="altered"):
        promoted.reseal(altered(old.seal(PLAINTEXT, BINDING), 12), BINDING)
    with pytest.raises(SealBroken, match="altered"):
        promoted.reseal(old.seal(PLAINTEXT, BINDING), replace(BINDING, row_id=UUID(int=1)))


def test_gives_nothing_back_that_would_not_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """The only copy of a key is never replaced by what a failing machine made of it."""
    promoted = SealingKeys(b"n" * 32, previous=b"o" * 32)
    sealed, seal = SealingKeys(b"o" * 32).seal(PLAINTEXT, BINDING), SealingKeys.seal
    for failing in (
        lambda keys, plaintext, binding: altered(seal(keys, plaintext, binding), 12),
        lambda keys, plaintext, binding: seal(keys, plaintext[:-1], binding),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(SealingKeys, "seal", failing)
            with pytest.raises(SealBroken):
                promoted.reseal(sealed, BINDING)


@pytest.mark.parametrize("secret", ["", "short", b"x" * 31, "é" * 15])
def test_takes_no_short_secret(secret: bytes | str) -> None:
    """Under 32 bytes the start stops, and the sentence does not hold the secret."""
    for arguments in ({"current": secret}, {"current": SECRET, "next": secret}, {"current": SECRET, "previous": secret}):
        with pytest.raises(ConfigurationError) as refused:
            SealingKeys(**arguments)
        assert not secret or str(secret) not in str(refused.value)


def test_hides_its_keys() -> None:
    """Nothing that is printed by accident holds key material."""
    assert SECRET not in repr(vars(KEYS))
