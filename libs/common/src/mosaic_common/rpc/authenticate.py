"""Who calls, one function per kind of listener."""

from functools import lru_cache

from mosaic_common.auth import Principal, TokenVerifier
from mosaic_common.errors import AccessDenied, AuthRefused, Layer, Reason
from mosaic_common.identity import ServiceIdentity, parse_service_identity
from mosaic_common.rpc.call import Authenticate, Call, Transport


def services_of(gateway: str) -> Authenticate:
    """Accept the service identities of this gateway; TLS has verified the chain to the service root."""

    @lru_cache(maxsize=256)
    def parse(pem: bytes) -> ServiceIdentity:
        return parse_service_identity(pem, gateway=gateway)

    def authenticate(_call: Call, transport: Transport) -> ServiceIdentity:
        if transport.certificate_pem is None:
            raise AccessDenied(Reason.CALLER_NOT_ALLOWED, "No service certificate was presented.", layer=Layer.CALLER)
        return parse(transport.certificate_pem)

    return authenticate


def bearers(verifier: TokenVerifier) -> Authenticate:
    """Accept bearer tokens of one audience."""

    def authenticate(_call: Call, transport: Transport) -> Principal:
        scheme, _, unverified = (transport.authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not unverified:
            raise AuthRefused(
                Reason.AUTH_TOKEN_MISSING,
                "No bearer token was sent.",
                layer=Layer.CALLER,
                remedy="Send `authorization: Bearer <token>`; `mosaic auth token` makes one.",
            )
        return verifier.verify(unverified)

    return authenticate


def anyone() -> Authenticate:
    """Accept everybody: the method itself proves what it needs."""

    def authenticate(_call: Call, _transport: Transport) -> None:
        return None

    return authenticate
