"""Where the service PKI keeps what: one folder per identity, holding exactly what that identity may hold.

    root/           service-root.pem, service-root.key, pki.json         stays offline
    <identity>/     service-root.pem, internal.pem, internal.key         every identity
                    public.pem (leaf, then root), public.key             whoever listens to peers, operators or users
    grants/         warrant.key, audit.key, page-token.key, query-hmac.key, jwks.json
    ca-broker/      warrant.pub
    edge-inbound/   page-token.key, query-hmac.key
    edge-outbound/  jwks.json
    operator/       jwt.key, audit.pub

A service is given its own folder (MOSAIC_PKI_DIR) and no other.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mosaic_common.identity import EDGE_INBOUND, EDGE_OUTBOUND, ENROLLMENT, GRANTS

PUBLIC_LISTENERS: Final = (GRANTS, ENROLLMENT, EDGE_INBOUND, EDGE_OUTBOUND)


@dataclass(frozen=True, slots=True)
class RootFolder:
    """The offline root."""

    path: Path

    @property
    def certificate(self) -> Path:
        return self.path / "service-root.pem"

    @property
    def key(self) -> Path:
        return self.path / "service-root.key"

    @property
    def settings(self) -> Path:
        """Gateway and public host, so that `pki issue` needs neither."""
        return self.path / "pki.json"


@dataclass(frozen=True, slots=True)
class IdentityFolder:
    """What one identity may hold. A path is not a promise that the file is there: the module docstring says whose it is."""

    path: Path

    @property
    def service_root(self) -> Path:
        return self.path / "service-root.pem"

    @property
    def internal_certificate(self) -> Path:
        return self.path / "internal.pem"

    @property
    def internal_key(self) -> Path:
        return self.path / "internal.key"

    @property
    def public_certificate(self) -> Path:
        return self.path / "public.pem"

    @property
    def public_certificate_key(self) -> Path:
        return self.path / "public.key"

    @property
    def warrant_key(self) -> Path:
        """P-256, PKCS#8 PEM."""
        return self.path / "warrant.key"

    @property
    def warrant_public_key(self) -> Path:
        return self.path / "warrant.pub"

    @property
    def audit_key(self) -> Path:
        """Ed25519, PKCS#8 PEM."""
        return self.path / "audit.key"

    @property
    def audit_public_key(self) -> Path:
        return self.path / "audit.pub"

    @property
    def page_token_key(self) -> Path:
        """32 random bytes, base64, one line."""
        return self.path / "page-token.key"

    @property
    def query_hmac_key(self) -> Path:
        """32 random bytes, base64, one line."""
        return self.path / "query-hmac.key"

    @property
    def jwt_key(self) -> Path:
        """P-256, PKCS#8 PEM."""
        return self.path / "jwt.key"

    @property
    def jwks(self) -> Path:
        """JWK set of ``jwt_key``'s public key."""
        return self.path / "jwks.json"


@dataclass(frozen=True, slots=True)
class PkiDirectory:
    """The whole of it, as the machine that holds the root sees it."""

    path: Path

    @property
    def root(self) -> RootFolder:
        return RootFolder(self.path / "root")

    def identity(self, name: str) -> IdentityFolder:
        return IdentityFolder(self.path / name)
