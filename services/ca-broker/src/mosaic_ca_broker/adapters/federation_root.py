"""The one root that this broker believes: for step-ca's TLS, and for what it signs."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from mosaic_common.errors import ConfigurationError
from mosaic_common.federation_root import parse_federation_root
from mosaic_common.x509 import fingerprint_sha256


@dataclass(frozen=True, slots=True)
class FederationRoot:
    """Exactly one root certificate, read once: what was checked is what is used.

    Attributes:
        pem: the certificate alone, re-encoded, without whatever else the file held around it.
        fingerprint: SHA-256 of its DER, 32 bytes.
    """

    pem: bytes
    fingerprint: bytes

    @classmethod
    def load(cls, path: Path, *, environment: str) -> Self:
        """Read it; production refuses the root of an embedded authority.

        Raises:
            ConfigurationError: not readable, not exactly one certificate, or a DEV ONLY root in production.
        """
        try:
            unchecked = path.read_bytes()
        except OSError as error:
            raise ConfigurationError(f"The federation root {path} cannot be read.") from error
        pem = parse_federation_root(unchecked, name=f"The federation root {path}", environment=environment)
        return cls(pem=pem, fingerprint=fingerprint_sha256(ssl.PEM_cert_to_DER_cert(pem.decode("ascii"))))

    def verify_fingerprint(self, expected: str) -> None:
        """Compare with what the operator wrote down: 64 hexadecimal digits, as ``step certificate fingerprint`` prints them.

        Raises:
            ConfigurationError: another root, or no SHA-256 fingerprint at all.
        """
        if expected.strip().replace(":", "").lower() != self.fingerprint.hex():
            raise ConfigurationError(
                "STEP_CA_ROOT_FINGERPRINT is not the SHA-256 of the certificate in STEP_CA_ROOT_CERT_PATH; "
                "print it with 'step certificate fingerprint' on the machine that holds the authority."
            )

    def tls_context(self) -> ssl.SSLContext:
        """Return a client context that trusts this root and nothing else.

        Built by hand: create_default_context loads the system's roots and honours SSLKEYLOGFILE.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(cadata=self.pem.decode("ascii"))
        return context
