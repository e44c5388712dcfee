"""A user's connections to other gateways, made as `peer add` makes them: the key stays with grants."""

import ssl
from collections.abc import Mapping
from uuid import UUID

from mosaic.enrollment.v1 import enrollment_pb2
from mosaic.grants.v1 import grants_pb2
from mosaic_common.tokens import EnrollmentUrl, token_id

from tests.support.authorities import LyingAuthority
from tests.support.gateway import TASKS_NOTES_MEMORY, Gateway
from tests.support.orders import SigningOrder


async def connect(
    home: Gateway,
    user: UUID,
    work: Gateway,
    *,
    remote_user: str,
    scope: Mapping[str, object] = TASKS_NOTES_MEMORY,
    name: str = "",
    endpoint: str = "",
) -> str:
    """Grant at work, enroll from home; return the grant's id.

    Args:
        name: of the connection; work's own when empty.
        endpoint: where home believes work's inbound edge to be.
    """
    url = await work.create_token(await work.create_grant(user=remote_user, peer=home.name, scope=scope))
    return await _redeem(home, user, work, url, name=name, endpoint=endpoint)


async def connect_again(home: Gateway, user: UUID, work: Gateway, grant_id: str) -> None:
    """Give work's connection of this grant another key, as after a loss: the one it had is refused from then on."""
    await _redeem(home, user, work, await work.create_token(grant_id, reenroll=True), reenroll=True)


async def _redeem(
    home: Gateway, user: UUID, work: Gateway, url: EnrollmentUrl, *, name: str = "", endpoint: str = "", reenroll: bool = False
) -> str:
    metadata = home.operator_metadata()
    prepared = await home.peers.PrepareConnection(
        grants_pb2.PrepareConnectionRequest(
            user=str(user),
            name=name,
            remote_gateway=work.name,
            common_name=url.common_name,
            enrollment_address=url.address,
            token_id=token_id(url.token.public_key) if reenroll else b"",
            reenroll=reenroll,
            pin=(url.pin or b"") if reenroll else b"",
        ),
        metadata=metadata,
    )
    answer = await work.enrollment.Enroll(
        enrollment_pb2.EnrollRequest(
            token_public_key=url.token.public_key,
            csr_der=prepared.csr_der,
            redemption_id=prepared.redemption_id,
            proof=url.token.prove(prepared.csr_der, UUID(prepared.redemption_id), url.pin),
        )
    )
    await home.peers.ActivateConnection(
        grants_pb2.ActivateConnectionRequest(
            peer_id=prepared.peer.id,
            certificate_der=answer.certificate_der,
            chain_der=answer.chain_der,
            grant_id=answer.grant_id,
            subject_user_id=answer.subject_user_id,
            gateway=answer.gateway,
            federation_endpoint=endpoint or answer.federation_endpoint,
            pinned_root_der=ssl.PEM_cert_to_DER_cert(work.service_root.decode()),
            endpoint_host_confirmed=True,
        ),
        metadata=metadata,
    )
    return str(answer.grant_id)


async def connect_to_stranger(home: Gateway, user: UUID, *, name: str, endpoint: str, root_pem: bytes) -> None:
    """A connection to whatever listens at the endpoint: its own root, and a certificate from its own authority."""
    metadata = home.operator_metadata()
    prepared = await home.peers.PrepareConnection(
        grants_pb2.PrepareConnectionRequest(
            user=str(user), remote_gateway=name, common_name=home.name, enrollment_address=f"https://{endpoint}"
        ),
        metadata=metadata,
    )
    order = SigningOrder.make(csr_der=prepared.csr_der, common_name=home.name)
    authority = LyingAuthority.make(home.clock.now())
    certificate, *chain = authority.sign(order.csr.public_key, order.warrant)
    await home.peers.ActivateConnection(
        grants_pb2.ActivateConnectionRequest(
            peer_id=prepared.peer.id,
            certificate_der=certificate,
            chain_der=chain,
            grant_id=str(order.warrant.grant_id),
            subject_user_id=str(order.warrant.subject_user_id),
            gateway=name,
            federation_endpoint=endpoint,
            pinned_root_der=ssl.PEM_cert_to_DER_cert(root_pem.decode()),
        ),
        metadata=metadata,
    )
