"""An authority inside the broker, for demos and tests on a machine without step-ca. It never runs in production.

It keeps step-ca's order of things: an order is spent first, then checked, then put through the template
(infra/step-ca/federation-leaf.tpl), then signed.
"""

import asyncio
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, Self
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from mosaic_common.clock import Clock
from mosaic_common.errors import CaRefused, CaUnreachable, ConfigurationError
from mosaic_common.oids import GRANT_ID_OID, SUBJECT_USER_ID_OID, encode_uuid
from mosaic_common.warrants import Warrant
from mosaic_common.x509 import Csr

from mosaic_ca_broker.adapters.ca_errors import refused, unreachable
from mosaic_ca_broker.adapters.embedded_ca_folder import EmbeddedCaFolder
from mosaic_ca_broker.adapters.embedded_revocations import EmbeddedRevocations
from mosaic_ca_broker.adapters.signing_claims import (
    CONFIRMATION_CLAIM,
    GRANT_ID_CLAIM,
    SERIAL_CLAIM,
    SUBJECT_USER_ID_CLAIM,
    base64url,
    signing_claims,
)
from mosaic_ca_broker.domain.authority import UnverifiedRevocationList

_LIFETIME_MAX: Final = timedelta(days=30)
_BACKDATING: Final = timedelta(minutes=1)
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SERIAL: Final = re.compile(r"[1-9][0-9]{0,38}")
_REMEDY: Final = "The order and the authority disagree: this is a defect of the broker or of grants; report it with the request id."

_DIGITAL_SIGNATURE: Final = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


@dataclass(frozen=True, slots=True)
class _Leaf:
    common_name: str
    grant_id: UUID
    subject_user_id: UUID
    serial: int


class EmbeddedCa:
    """Adapter of CertificateAuthority."""

    def __init__(self, folder: EmbeddedCaFolder, clock: Clock) -> None:
        self._folder = folder
        self._clock = clock
        self._revocations = EmbeddedRevocations(folder, clock)

    @classmethod
    def open(cls, path: Path, *, environment: str, clock: Clock) -> Self:
        """Open a folder that ``embedded-ca init`` made.

        Raises:
            ConfigurationError: outside MOSAIC_ENV=dev, or no such folder.
        """
        if environment != "dev":
            raise ConfigurationError("The embedded authority runs with MOSAIC_ENV=dev only; production needs STEP_CA_URL.")
        return cls(EmbeddedCaFolder.load(path), clock)

    async def sign(self, csr: Csr, warrant: Warrant) -> Sequence[bytes]:
        """See CertificateAuthority."""
        return await self.redeem(signing_claims(csr, warrant), csr.der, not_after=warrant.not_after)

    async def redeem(self, claims: Mapping[str, Any], csr_der: bytes, *, not_after: datetime) -> list[bytes]:
        """Spend one order with these claims; what they may not say is refused here as step-ca's template does."""
        return await asyncio.to_thread(self._redeem, claims, csr_der, not_after)

    async def revoke(self, serial: int, *, reason: str) -> None:  # noqa: ARG002  # it keeps no log that could hold one
        """See CertificateAuthority."""
        try:
            await asyncio.to_thread(self._revocations.add, serial)
        except OSError as error:
            raise _unwritable() from error

    async def revocation_list(self) -> UnverifiedRevocationList:
        """See CertificateAuthority."""
        try:
            crl_der = await asyncio.to_thread(self._revocations.publish)
        except OSError as error:
            raise _unwritable() from error
        return UnverifiedRevocationList(crl_der, (self._folder.intermediate.public_bytes(Encoding.DER),))

    async def ping(self) -> None:
        """See CertificateAuthority."""
        if not await asyncio.to_thread((self._folder.path / "used").is_dir):
            raise unreachable("The embedded authority's folder is gone.", remedy="Restart: 'mosaic dev up' makes it again.")

    async def aclose(self) -> None:
        """Nothing is held open."""

    def _redeem(self, claims: Mapping[str, Any], csr_der: bytes, not_after: datetime) -> list[bytes]:
        self._spend(claims.get("jti"))
        csr = x509.load_der_x509_csr(csr_der)
        now = self._clock.now()
        _verify_confirmation(claims, csr_der)
        _verify_common_name(claims, csr)
        _verify_lifetime(not_after, now)
        public_key = csr.public_key()
        assert isinstance(public_key, EllipticCurvePublicKey)
        leaf = self._sign(_fill_template(claims), public_key, not_before=now - _BACKDATING, not_after=not_after)
        return [certificate.public_bytes(Encoding.DER) for certificate in (leaf, self._folder.intermediate)]

    def _spend(self, jti: object) -> None:
        """Remember the order for ever; creating its file exclusively is what makes it single-use between processes."""
        if not isinstance(jti, str) or not jti:
            raise _cannot_sign("The order has no id.")
        try:
            (self._folder.path / "used" / hashlib.sha256(jti.encode()).hexdigest()).touch(exist_ok=False)
        except FileExistsError:
            remedy = "A warrant is honoured once; ask for a new one."
            raise refused("The authority has seen this order before.", remedy=remedy, may_have_signed=True) from None
        except OSError as error:
            raise _unwritable() from error

    def _sign(
        self, leaf: _Leaf, public_key: EllipticCurvePublicKey, *, not_before: datetime, not_after: datetime
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, leaf.common_name)]))
            .issuer_name(self._folder.intermediate.subject)
            .public_key(public_key)
            .serial_number(leaf.serial)
            .not_valid_before(not_before)
            .not_valid_after(not_after)
            .add_extension(_DIGITAL_SIGNATURE, critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._folder.key.public_key()), critical=False)
            .add_extension(_identifier(GRANT_ID_OID, leaf.grant_id), critical=False)
            .add_extension(_identifier(SUBJECT_USER_ID_OID, leaf.subject_user_id), critical=False)
        )
        return builder.sign(self._folder.key, hashes.SHA256())


def _fill_template(claims: Mapping[str, Any]) -> _Leaf:
    return _Leaf(
        common_name=claims["sub"],
        grant_id=UUID(_parse_claim(claims, GRANT_ID_CLAIM, _UUID, "a canonical UUID")),
        subject_user_id=UUID(_parse_claim(claims, SUBJECT_USER_ID_CLAIM, _UUID, "a canonical UUID")),
        serial=int(_parse_claim(claims, SERIAL_CLAIM, _SERIAL, "a decimal serial of at most 39 digits")),
    )


def _parse_claim(claims: Mapping[str, Any], name: str, shape: re.Pattern[str], meaning: str) -> str:
    if name not in claims:
        raise _cannot_sign(f"the claim {name} is absent")
    value = claims[name]
    if not isinstance(value, str):
        raise _cannot_sign(f"the claim {name} is not text")
    if not shape.fullmatch(value):
        raise _cannot_sign(f"the claim {name} is not {meaning}")
    return value


def _verify_confirmation(claims: Mapping[str, Any], csr_der: bytes) -> None:
    confirmation = claims.get("cnf")
    if not isinstance(confirmation, Mapping) or confirmation.get(CONFIRMATION_CLAIM) != base64url(hashlib.sha256(csr_der).digest()):
        raise _cannot_sign("The order is for another signing request.")


def _verify_common_name(claims: Mapping[str, Any], csr: x509.CertificateSigningRequest) -> None:
    names = [attribute.value for attribute in csr.subject]
    if names != [claims.get("sub")]:
        raise _cannot_sign("The signing request has another common name than the order.")


def _verify_lifetime(not_after: datetime, now: datetime) -> None:
    if not now < not_after <= now + _LIFETIME_MAX:
        raise _cannot_sign(f"The lifetime asked for is not within {_LIFETIME_MAX.days} days.")


def _cannot_sign(message: str) -> CaRefused:
    return refused(message, remedy=_REMEDY, may_have_signed=False)


def _unwritable() -> CaUnreachable:
    return unreachable("The embedded authority cannot write its folder.", remedy="Check the folder's owner and the disk.")


def _identifier(oid: str, value: UUID) -> x509.UnrecognizedExtension:
    return x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), encode_uuid(value))
