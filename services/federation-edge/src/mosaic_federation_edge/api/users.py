"""Who asks on the user listener, with the token that the grants service has to see for itself."""

from dataclasses import dataclass, field
from uuid import UUID

from mosaic_common.auth import Principal, TokenVerifier
from mosaic_common.errors import AuthRefused, Layer, Reason
from mosaic_common.rpc.authenticate import bearers
from mosaic_common.rpc.call import Authenticate, Call, Transport


@dataclass(frozen=True, slots=True)
class User(Principal):
    """A local user and the bearer token that was verified as theirs; it goes to the grants service and nowhere else."""

    user_id: UUID
    token: str = field(repr=False)


def users(verifier: TokenVerifier) -> Authenticate:
    """Accept bearer tokens for `mosaic:<gateway>:query` whose subject is a user."""
    authenticate_bearer = bearers(verifier)

    def authenticate(call: Call, transport: Transport) -> User:
        principal = authenticate_bearer(call, transport)
        assert isinstance(principal, Principal)
        _, _, token = (transport.authorization or "").partition(" ")
        user_id = _parse_user_id(principal.subject)
        call.facts.subject_user_id = user_id
        return User(principal.subject, principal.roles, principal.jti, principal.issuer, user_id, token)

    return authenticate


def _parse_user_id(subject: str) -> UUID:
    try:
        user_id = UUID(subject)
    except ValueError:
        user_id = None
    if user_id is None or str(user_id) != subject:
        raise AuthRefused(
            Reason.AUTH_TOKEN_INVALID,
            "The bearer token is no user's: its subject is not a user id.",
            layer=Layer.CALLER,
            remedy="Make one with `mosaic auth token --subject UUID --role query`.",
        )
    return user_id
