"""Signing orders as grants would make them."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Self
from uuid import uuid4

from cryptography.hazmat.primitives.asymmetric import ec
from mosaic_common.warrants import Purpose, Warrant
from mosaic_common.x509 import Csr, IssuedCertificate, Ordered, draw_serial, make_csr, verify_csr, verify_issued


@dataclass(frozen=True, slots=True)
class SigningOrder:
    """A CSR and the warrant that orders its certificate."""

    csr: Csr
    warrant: Warrant

    @classmethod
    def make(cls, *, csr_der: bytes | None = None, now: datetime | None = None, **changes: Any) -> Self:
        """Return an order for ``home``; ``changes`` go into the warrant."""
        name = changes.get("common_name", "home")
        csr = verify_csr(csr_der or make_csr(ec.generate_private_key(ec.SECP256R1()), name), common_name=name)
        issued_at = (now or datetime.now(UTC)).replace(microsecond=0)
        warrant = Warrant(
            jti=uuid4(),
            common_name=name,
            grant_id=uuid4(),
            subject_user_id=uuid4(),
            csr_sha256=csr.sha256,
            serial=draw_serial(),
            purpose=Purpose.ENROLL,
            not_after=issued_at + timedelta(days=7),
            issued_at=issued_at,
            expires_at=issued_at + timedelta(seconds=60),
        )
        return cls(csr, replace(warrant, **changes))

    @property
    def ordered(self) -> Ordered:
        return Ordered(
            common_name=self.warrant.common_name,
            grant_id=self.warrant.grant_id,
            subject_user_id=self.warrant.subject_user_id,
            serial=self.warrant.serial,
            spki_sha256=self.csr.spki_sha256,
            not_after=self.warrant.not_after,
            not_before_min=self.warrant.issued_at - timedelta(minutes=2),
        )

    def verify(self, chain: list[bytes], root_pem: bytes) -> IssuedCertificate:
        """Return the certificate when it is exactly what was ordered; raises CaLied otherwise."""
        return verify_issued(chain, self.ordered, root_pem=root_pem, now=datetime.now(UTC))
