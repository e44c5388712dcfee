"""GrantService: permissions that this gateway gives."""

from datetime import timedelta

from mosaic.grants.v1 import grants_pb2, types_pb2
from mosaic_common.audit import Event
from mosaic_common.clock import Clock
from mosaic_common.log import logger
from mosaic_common.rpc.call import Call
from mosaic_common.tokens import EnrollmentOffer, token_id

from mosaic_grants.api.deeds import actor_of, note_grant, record
from mosaic_grants.api.messages import certificate_message, entry_message, grant_message, token_message
from mosaic_grants.api.requests import (
    page_token,
    parse_duration,
    parse_filter,
    parse_grant_id,
    parse_limit,
    parse_page_size,
    parse_page_token,
    parse_text,
)
from mosaic_grants.domain import ending, permissions
from mosaic_grants.domain.lifecycle import GrantStatus
from mosaic_grants.domain.ports import Ledger


class GrantServicer:
    """Permissions that this gateway gives."""

    def __init__(
        self, ledger: Ledger, clock: Clock, *, gateway: str, enrollment_host: str, enrollment_port: int, pin: bytes | None
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._gateway = gateway
        self._host, self._port = enrollment_host, enrollment_port
        self._pin = pin
        self._log = logger("grants")

    async def CreateGrant(self, request: grants_pb2.CreateGrantRequest, call: Call) -> grants_pb2.CreateGrantResponse:
        actor = actor_of(call)
        async with self._ledger.transaction() as tx:
            draft = await permissions.draft_grant(
                tx,
                user=request.user,
                peer=request.peer,
                unverified_scope=request.scope_json,
                expires_in=parse_duration(request.expires_in_seconds) if request.HasField("expires_in_seconds") else None,
                approve_sensitive=request.approve_sensitive,
                actor=actor,
                limit=parse_limit(request.limit) if request.HasField("limit") else None,
            )
            grant = await tx.grants.insert(draft, actor=actor)
            note_grant(call, grant)
            call.facts.resource = ",".join(draft.scope.resources)
            record(tx, call, Event.GRANT_CREATED, self._clock)
            if draft.approved_by:
                call.facts.resource = ",".join(draft.scope.sensitive_resources)
                record(tx, call, Event.GRANT_APPROVED, self._clock)
                self._log.warning(
                    "sensitive_resources_approved",
                    grant_id=str(grant.id),
                    resources=draft.scope.sensitive_resources,
                    approved_by=actor,
                )
        return grants_pb2.CreateGrantResponse(grant=grant_message(grant))

    async def ListGrants(self, request: grants_pb2.ListGrantsRequest, _call: Call) -> grants_pb2.ListGrantsResponse:
        size = parse_page_size(request.page_size)
        async with self._ledger.transaction() as tx:
            found = await tx.grants.list_page(
                limit=size + 1,
                after=parse_page_token(request.page_token),
                peer_id=(await permissions.get_inbound_peer(tx, request.peer)).id if request.peer else None,
                status=parse_filter(request.status, types_pb2.GrantStatus.items(), GrantStatus, field="status"),
                subject_user_id=await permissions.find_user_id(tx, request.user) if request.user else None,
            )
        page, more = found[:size], len(found) > size
        return grants_pb2.ListGrantsResponse(
            grants=[grant_message(grant) for grant in page],
            next_page_token=page_token(page[-1].created_at, page[-1].id) if more else "",
        )

    async def GetGrant(self, request: grants_pb2.GetGrantRequest, _call: Call) -> grants_pb2.GetGrantResponse:
        grant_id = parse_grant_id(request.id)
        async with self._ledger.transaction() as tx:
            message = grant_message(await tx.grants.get(grant_id))
            message.certificates.extend(certificate_message(each) for each in await tx.certificates.list_of(grant_id))
            message.tokens.extend(token_message(each, tx.now) for each in await tx.tokens.list_of(grant_id))
            message.recent.extend(entry_message(each) for each in await tx.records.list_recent_of_grant(grant_id))
            message.revocations_owed = await tx.outbox.count_owed(grant_id)
        return grants_pb2.GetGrantResponse(grant=message)

    async def CreateEnrollmentToken(
        self, request: grants_pb2.CreateEnrollmentTokenRequest, call: Call
    ) -> grants_pb2.CreateEnrollmentTokenResponse:
        grant_id = parse_grant_id(request.grant_id)
        async with self._ledger.transaction() as tx:
            grant = await tx.grants.get(grant_id, locked=True)
            note_grant(call, grant)
            draft = permissions.draft_token(
                grant,
                token_public_key=request.token_public_key,
                ttl=timedelta(seconds=request.ttl_seconds),
                reenroll=request.reenroll,
            )
            call.facts.token_id = token_id(draft.token_public_key)
            token = await tx.tokens.insert(draft, call.facts.token_id, actor=actor_of(call))
            record(tx, call, Event.TOKEN_CREATED, self._clock)
            now = tx.now
        offer = EnrollmentOffer(
            host=self._host, port=self._port, gateway=self._gateway, common_name=grant.peer_common_name, pin=self._pin
        )
        return grants_pb2.CreateEnrollmentTokenResponse(token=token_message(token, now), url_without_token=offer.format())

    async def RevokeGrant(self, request: grants_pb2.RevokeGrantRequest, call: Call) -> grants_pb2.RevokeGrantResponse:
        grant_id = parse_grant_id(request.id)
        reason = parse_text(request.reason.strip(), field="reason")
        async with self._ledger.transaction() as tx:
            note_grant(call, await tx.grants.get(grant_id))
            ended = await ending.revoke_grant(tx, grant_id, reason)
            call.facts.result_count = len(ended.certificates)
            record(tx, call, Event.GRANT_REVOKED, self._clock)
        message = grant_message(ended.grant)
        message.certificates.extend(certificate_message(each) for each in ended.certificates)
        return grants_pb2.RevokeGrantResponse(grant=message)

    async def DeleteGrant(self, request: grants_pb2.DeleteGrantRequest, call: Call) -> grants_pb2.DeleteGrantResponse:
        grant_id = parse_grant_id(request.id)
        async with self._ledger.transaction() as tx:
            note_grant(call, await tx.grants.get(grant_id))
            await ending.delete_grant(tx, grant_id)
            record(tx, call, Event.GRANT_DELETED, self._clock)
        return grants_pb2.DeleteGrantResponse()

    async def LimitGrant(self, request: grants_pb2.LimitGrantRequest, call: Call) -> grants_pb2.LimitGrantResponse:
        grant_id = parse_grant_id(request.id)
        limit = parse_limit(request.limit) if request.HasField("limit") else None
        async with self._ledger.transaction() as tx:
            note_grant(call, await tx.grants.get(grant_id))
            grant = await permissions.limit_grant(tx, grant_id, limit)
            record(tx, call, Event.GRANT_LIMITED, self._clock)
        return grants_pb2.LimitGrantResponse(grant=grant_message(grant))
