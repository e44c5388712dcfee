"""Compact JWSs that no library would write: made from raw parts, and spoiled in every way that is tried on a verifier.

    forgery = Forgery.of(a_good_token, private_key)
    forgery.signed(claims=forgery.claims | {"aud": "grants"})

The tables are generated from the claims of the good token, so that a claim that is added later is altered here too.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self
from uuid import UUID

import jwt
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm
from jwt.utils import base64url_encode, der_to_raw_signature

from tests.support.authorities import new_key

Signature = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class Forgery:
    """A good token taken apart, in the hands of somebody who may or may not hold its key."""

    token: str
    key: ec.EllipticCurvePrivateKey
    header: dict[str, Any]
    claims: dict[str, Any]

    @classmethod
    def of(cls, token: str, key: ec.EllipticCurvePrivateKey) -> Self:
        claims = jwt.decode(token, options={"verify_signature": False})
        return cls(token, key, jwt.get_unverified_header(token), claims)

    def signed(
        self,
        *,
        header: Mapping[str, Any] | str | bytes | None = None,
        claims: Mapping[str, Any] | str | bytes | None = None,
        by: Signature | None = None,
    ) -> str:
        """The token with another header, other claims or another signature; with the right key unless said otherwise."""
        signing_input = b".".join(
            base64url_encode(_json(part))
            for part in (self.header if header is None else header, self.claims if claims is None else claims)
        )
        return b".".join((signing_input, base64url_encode((by or es256(self.key))(signing_input)))).decode()

    def unsigned_change(self, **changes: Any) -> str:
        """Other claims under the signature of the good ones."""
        header, _, signature = self.token.split(".")
        return f"{header}.{base64url_encode(_json({**self.claims, **changes})).decode()}.{signature}"


def es256(key: ec.EllipticCurvePrivateKey) -> Signature:
    return lambda text: der_to_raw_signature(key.sign(text, ec.ECDSA(hashes.SHA256())), key.curve)


def hs256(secret: bytes) -> Signature:
    def sign(text: bytes) -> bytes:
        mac = HMAC(secret, hashes.SHA256())
        mac.update(text)
        return mac.finalize()

    return sign


def rs256(text: bytes) -> bytes:
    return rsa.generate_private_key(65537, 2048).sign(text, padding.PKCS1v15(), hashes.SHA256())


def es384(text: bytes) -> bytes:
    key = ec.generate_private_key(ec.SECP384R1())
    return der_to_raw_signature(key.sign(text, ec.ECDSA(hashes.SHA384())), key.curve)


def no_signature(_text: bytes) -> bytes:
    return b""


# ── claims ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

_OTHER_SHAPES: Final[Mapping[str, Any]] = {
    "null": None,
    "true": True,
    "a fraction": 0.5,
    "NaN": float("nan"),
    "an object": {},
    "an empty text": "",
    "a text with a line feed": "a\nb",
    "not ASCII": "é",
    "256 characters": "a" * 256,
    "below zero": -1,
    "a number beyond any calendar": 10**30,
}


def altered_claims(forgery: Forgery) -> Iterator[Any]:
    """(token) with one claim changed into another plausible value, and the old signature."""
    for name, value in forgery.claims.items():
        yield pytest.param(forgery.unsigned_change(**{name: another(value)}), id=f"{name} altered")
    yield pytest.param(forgery.unsigned_change(further=1), id="a claim added")


def misshapen_claims(forgery: Forgery) -> Iterator[Any]:
    """(token) with one claim missing, in another shape, in a list, or said twice; signed with the right key."""
    for name, value in forgery.claims.items():
        without = {key: kept for key, kept in forgery.claims.items() if key != name}
        yield pytest.param(forgery.signed(claims=without), id=f"{name} missing")
        yield pytest.param(forgery.signed(claims=forgery.claims | {name: [value]}), id=f"{name} in a list")
        for what, shape in _OTHER_SHAPES.items():
            yield pytest.param(forgery.signed(claims=forgery.claims | {name: shape}), id=f"{name} {what}")
        if isinstance(value, int):
            yield pytest.param(forgery.signed(claims=forgery.claims | {name: str(value)}), id=f"{name} as text")
            yield pytest.param(forgery.signed(claims=forgery.claims | {name: float(value)}), id=f"{name} as a float")
        twice = f'{{"{name}": {json.dumps(another(value))}, {json.dumps(forgery.claims)[1:]}'
        yield pytest.param(forgery.signed(claims=twice), id=f"{name} twice: which one is meant?")


def another(value: Any) -> Any:
    """Another value of the same kind."""
    match value:
        case int():
            return value + 1
        case list():
            return [*value, "federation:admin"]
        case str():
            try:
                return str(UUID(int=UUID(value).int ^ 1))
            except ValueError:
                return value[:-1] + ("0" if value[-1] != "0" else "1")
        case _:
            raise AssertionError(f"no other {value!r} is known")


# ── header, signature, form ───────────────────────────────────────────────────────────────────────────────────────────────────────


def refused_headers(forgery: Forgery) -> Iterator[Any]:
    """(token) with a header or a signature that is not the one of its kind."""
    header, key, stranger = forgery.header, forgery.key, new_key()
    public = key.public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    for name in ("none", "None", "NONE", "nOnE", ""):
        yield pytest.param(forgery.signed(header=header | {"alg": name}, by=no_signature), id=f"alg {name!r}")
        yield pytest.param(forgery.signed(header=header | {"alg": name}), id=f"alg {name!r}, and signed")
    without_alg = {key: value for key, value in header.items() if key != "alg"}
    yield pytest.param(forgery.signed(header=without_alg), id="no alg")
    for what, secret in {"PEM": pem, "PEM without its line feed": pem.strip(), "DER": der, "a NUL": b"\x00"}.items():
        yield pytest.param(
            forgery.signed(header=header | {"alg": "HS256"}, by=hs256(secret)), id=f"HS256 with the public key, {what}"
        )
    yield pytest.param(forgery.signed(header=header | {"alg": "RS256"}, by=rs256), id="RS256")
    yield pytest.param(forgery.signed(header=header | {"alg": "ES384"}, by=es384), id="ES384")
    yield pytest.param(forgery.signed(header=header | {"alg": "EdDSA"}, by=ed25519.Ed25519PrivateKey.generate().sign), id="EdDSA")
    for name in ("ES384", "ES512", "ES256K", "PS256", "EdDSA", "es256"):
        yield pytest.param(forgery.signed(header=header | {"alg": name}), id=f"signed with ES256, says {name}")
    yield pytest.param(forgery.signed(by=es256(stranger)), id="another key")
    yield pytest.param(forgery.signed(by=lambda _: bytes(64)), id="r and s zero: every key's signature (CVE-2022-21449)")
    yield pytest.param(
        forgery.signed(by=lambda text: key.sign(text, ec.ECDSA(hashes.SHA256()))), id="the right signature in DER, not in r ‖ s"
    )

    for what, typ in {
        "JWT": "JWT",
        "another case": header["typ"].upper(),
        "empty": "",
        "null": None,
        "1": 1,
        "a list": [header["typ"]],
    }.items():
        yield pytest.param(forgery.signed(header=header | {"typ": typ}), id=f"typ {what}")
    yield pytest.param(forgery.signed(header=header | {"typ": f"application/{header['typ']}"}), id="typ in its long form")
    yield pytest.param(forgery.signed(header={name: value for name, value in header.items() if name != "typ"}), id="no typ")

    for what, crit in {"unknown": ["x"], "empty": [], "b64": ["b64"], "of ours": ["alg"], "no list": "b64", "exp": ["exp"]}.items():
        yield pytest.param(forgery.signed(header=header | {"crit": crit, "b64": True, "x": 1, "exp": 1}), id=f"crit {what}")
    yield pytest.param(forgery.signed(header=header | {"b64": False}), id="b64 false")

    own = ECAlgorithm.to_jwk(stranger.public_key(), as_dict=True)
    for name, value in {
        "jwk": own,
        "jku": "https://evil.example.com/jwks.json",
        "x5u": "https://evil.example.com/chain.pem",
        "x5c": ["AAAA"],
        "kid": "../../etc/passwd",
    }.items():
        yield pytest.param(forgery.signed(header=header | {name: value}, by=es256(stranger)), id=f"another key, named by {name}")
    for name in header:
        twice = f'{{"{name}": "x", {json.dumps(header)[1:]}'
        yield pytest.param(forgery.signed(header=twice), id=f"{name} twice in the header")


def refused_forms(forgery: Forgery) -> Iterator[Any]:
    """(token) whose parts are good and that is written in another way."""
    head, body, signature = forgery.token.split(".")
    spelled = {
        "a dot more": f"{forgery.token}.",
        "a dot before": f".{forgery.token}",
        "four parts": f"{head}.{body}.{signature}.{signature}",
        "five parts: an encrypted token": f"{head}.{body}.{signature}.{body}.{signature}",
        "two parts": f"{head}.{body}",
        "no signature": f"{head}.{body}.",
        "no claims": f"{head}..{signature}",
        "no header": f".{body}.{signature}",
        "padded signature": f"{head}.{body}.{signature}==",
        "padded claims": f"{head}.{body}=.{signature}",
        "a space before": f" {forgery.token}",
        "a line feed behind": f"{forgery.token}\n",
        "a space in the signature": f"{head}.{body}.{signature[:9]} {signature[9:]}",
        "a tab between": f"{head}.\t{body}.{signature}",
        "a NUL behind": f"{forgery.token}\x00",
        "a zero-width space": f"{forgery.token}\u200b",
        "half of a surrogate pair": f"{forgery.token}\ud800",
        "the alphabet of plain base64": f"{head}.{body}.{signature[:-2]}+/",
        "JSON serialization": json.dumps({"protected": head, "payload": body, "signature": signature}),
        "twice": forgery.token * 2,
        "100 kB": f"{head}.{body}.{'A' * 100_000}",
    }
    yield from (pytest.param(token, id=what) for what, token in spelled.items())
    claims = json.dumps(forgery.claims)
    parts: Mapping[str, str | bytes] = {
        "claims in UTF-16": claims.encode("utf-16"),
        "claims behind a byte order mark": b"\xef\xbb\xbf" + claims.encode(),
        "claims a list": f"[{claims}]",
        "claims a text": json.dumps(claims),
        "claims no JSON": claims[:-1],
        "claims twice": claims * 2,
        "claims deeper than the stack": "[" * 5000,
        "claims not UTF-8": b'{"\xff": 1}',
        "nothing for claims": "",
    }
    yield from (pytest.param(forgery.signed(claims=part), id=what) for what, part in parts.items())
    yield pytest.param(forgery.signed(header=f"[{json.dumps(forgery.header)}]"), id="header a list")
    yield pytest.param(forgery.signed(header="{" * 5000), id="header no JSON")
    yield pytest.param(forgery.signed(header=json.dumps(forgery.header).encode("utf-16")), id="header in UTF-16")


def _json(part: Mapping[str, Any] | str | bytes) -> bytes:
    match part:
        case bytes():
            return part
        case str():
            return part.encode()
        case _:
            return json.dumps(dict(part)).encode()
