"""The folder that `mosaic federation enroll` fills.

    redemption          while it lasts: token id and redemption id; a rerun continues with them
    request.csr         while it lasts: PKCS#10, DER
    key.pem             P-256, PKCS#8
    certificate.pem     the leaf
    chain.pem           leaf, then intermediates: what a TLS client presents
    trust-bundle.pem    the pinned root, the only one to believe at the endpoint; absent where that is publicly trusted
    endpoint            host:port

Only their owner reads them. Nothing that is there is overwritten, unless `redemption` says that this command was writing it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self
from uuid import UUID, uuid4

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding
from mosaic_common.keys import load_p256_private_key, private_pem
from mosaic_common.pki.files import make_private_folder, replace_file
from mosaic_common.tokens import EnrollmentUrl, token_id
from mosaic_common.x509 import make_csr

from mosaic_cli.dialing import Trust
from mosaic_cli.failures import CommandFailed, LocalReason
from mosaic_cli.redemption import Enrolled, Request

MARK: Final = "redemption"
CSR: Final = "request.csr"
KEY: Final = "key.pem"
CERTIFICATE: Final = "certificate.pem"
CHAIN: Final = "chain.pem"
TRUST_BUNDLE: Final = "trust-bundle.pem"
ENDPOINT: Final = "endpoint"


@dataclass(frozen=True, slots=True)
class EnrollmentFolder:
    """A redemption under way, and where its outcome goes."""

    path: Path
    request: Request

    @classmethod
    def open(cls, path: Path, url: EnrollmentUrl) -> Self:
        """Begin a redemption in this folder, or continue the one that was begun there with the same URL.

        Raises:
            CommandFailed: ALREADY_ENROLLED, or another URL's redemption was begun there.
        """
        make_private_folder(path)
        redemption_id = _begin(path, token_id(url.token.public_key).hex())
        if not (path / KEY).exists():
            replace_file(path / KEY, private_pem(generate_private_key(SECP256R1())))
        if not (path / CSR).exists():
            key = load_p256_private_key((path / KEY).read_bytes(), name=str(path / KEY))
            replace_file(path / CSR, make_csr(key, url.common_name))
        return cls(path, Request((path / CSR).read_bytes(), redemption_id))

    def complete(self, enrolled: Enrolled, trust: Trust) -> Mapping[str, Path]:
        """Write the outcome; return the files by what they hold."""
        leaf, *chain = (
            x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
            for der in (enrolled.certificate.der, *enrolled.certificate.chain_der)
        )
        contents = {
            CERTIFICATE: leaf,
            CHAIN: b"".join([leaf, *chain]),
            **({} if trust.pinned_root_der is None else {TRUST_BUNDLE: trust.roots_pem}),
            ENDPOINT: f"{enrolled.endpoint}\n".encode("ascii"),
        }
        for name, content in contents.items():
            replace_file(self.path / name, content)
        (self.path / CSR).unlink()
        (self.path / MARK).unlink()
        return {Path(name).stem.replace("-", "_"): self.path / name for name in (KEY, *contents)}


def _begin(path: Path, token: str) -> UUID:
    mark = path / MARK
    if mark.exists():
        begun_for, _, begun_as = mark.read_text("ascii").partition(" ")
        if begun_for != token:
            raise CommandFailed(
                LocalReason.ALREADY_ENROLLED,
                f"{path} holds the unfinished redemption of another URL.",
                remedy="Run the command with that URL, or name another folder.",
            )
        return UUID(begun_as.strip())
    if taken := [name for name in (KEY, CERTIFICATE, CHAIN, TRUST_BUNDLE, ENDPOINT, CSR) if (path / name).exists()]:
        raise CommandFailed(
            LocalReason.ALREADY_ENROLLED,
            f"{path} already has {', '.join(taken)}; nothing is overwritten.",
            remedy="Name another folder with --out.",
        )
    redemption_id = uuid4()
    replace_file(mark, f"{token} {redemption_id}\n".encode("ascii"))
    return redemption_id
