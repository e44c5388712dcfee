"""FederationService: what this gateway serves to its peers."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import version
from typing import Final
from uuid import UUID

from mosaic.audit.v1.audit_pb2 import GrantAuditHead
from mosaic.federation.v1 import federation_pb2 as pb
from mosaic_common.audit_heads import SignedGrantHead
from mosaic_common.clock import Clock
from mosaic_common.decision import Allowed, Denied, GrantView, Presented, Verb, decide
from mosaic_common.errors import InvalidInput, Layer, NotFound, Reason, Unavailable, Violation
from mosaic_common.identity import PeerCertificate
from mosaic_common.page_tokens import PageBinding, PagePosition, PageTokens, QueryHasher
from mosaic_common.resources import REGISTRY
from mosaic_common.rpc.call import Call
from mosaic_common.scope import parse_scope_json

from mosaic_federation_edge.api.admission import Admission
from mosaic_federation_edge.api.rows import add_hits, add_rows, fitting_rows, set_row
from mosaic_federation_edge.domain.grant_limits import GrantLimits
from mosaic_federation_edge.domain.grant_views import NEGATIVE_MAX_AGE_SECONDS, GrantViews
from mosaic_federation_edge.domain.limits import SEARCH_WEIGHT
from mosaic_federation_edge.domain.pages import MAX_PAGE_BYTES, Cut, cut_page
from mosaic_federation_edge.domain.reads import Grantee, GrantReads, Keyset, Row, Visibility
from mosaic_federation_edge.domain.row_id import parse_row_id
from mosaic_federation_edge.domain.search import parse_search

_NEWEST_FIRST: Final = "newest_first"
_SERVER_VERSION: Final = version("mosaic-federation-edge")
_SHOWN_NAMES: Final = 64
_SUPPORTED_VERBS: Final = (pb.VERB_LIST, pb.VERB_GET, pb.VERB_SEARCH, pb.VERB_CAPABILITIES)
_INVISIBLE: Final[Mapping[Visibility, tuple[Layer, Reason]]] = {
    Visibility.NOT_VISIBLE: (Layer.ROW, Reason.ROW_NOT_VISIBLE),
    Visibility.OUT_OF_SCOPE: (Layer.SCOPE, Reason.ROW_OUT_OF_SCOPE),
}

_Answer = pb.ListResourcesResponse | pb.GetResourceResponse | pb.SearchResourcesResponse | pb.GetCapabilitiesResponse


class FederationServicer:
    """Every method passes the same checks in the same order; nothing in a message can change who asks."""

    def __init__(
        self,
        admission: Admission,
        views: GrantViews,
        reads: GrantReads,
        tokens: PageTokens,
        hasher: QueryHasher,
        clock: Clock,
        *,
        gateway: str,
        limits: GrantLimits,
    ) -> None:
        self._admission: Final = admission
        self._views: Final = views
        self._reads: Final = reads
        self._tokens: Final = tokens
        self._hasher: Final = hasher
        self._clock: Final = clock
        self._gateway: Final = gateway
        self._limits: Final = limits
        self._list_hashes: Final = {name: hasher.hash(Verb.LIST, (name,)) for name in REGISTRY}

    async def ListResources(self, request: pb.ListResourcesRequest, call: Call) -> bytes:
        allowed, certificate = await self._allowed(call, Verb.LIST, [request.resource], request.page_size)
        resource, page_size = request.resource, allowed.page_size
        _require_known_order(request.order)
        query_hash = call.facts.query_hash = self._list_hashes[resource]
        binding = PageBinding(certificate.grant_id, certificate.fingerprint, Verb.LIST, query_hash, _NEWEST_FIRST)
        position = self._tokens.open(request.page_token, binding) if request.page_token else None
        served = position.served if position else 0

        read = await self._reads.list_rows(
            Grantee(certificate.grant_id, certificate.fingerprint),
            resource,
            limit=page_size,
            after=Keyset(position.updated_at_us, UUID(bytes=position.row_id)) if position else None,
            served=served,
        )

        response = pb.ListResourcesResponse(source=self._gateway)
        _add_audit_head(response, allowed.grant)
        due = read.rows[: min(page_size, read.budget)]
        add_rows(response.resources, due, resource, self._gateway)
        cut = cut_page(found=read.found, page_size=page_size, budget=read.budget, fitting=len(due))
        answer = self._end_page(response, cut, read.rows, served, binding)
        if len(answer) > MAX_PAGE_BYTES:
            # Seldom: to know the size of a message costs as much as to serialize it, so it is done once where it fits.
            fitting = fitting_rows(response, response.resources)
            cut = cut_page(found=read.found, page_size=page_size, budget=read.budget, fitting=fitting)
            answer = self._end_page(response, cut, read.rows, served, binding)
        call.facts.result_count = cut.rows
        return answer

    def _end_page(
        self, response: pb.ListResourcesResponse, cut: Cut, rows: Sequence[Row], served: int, binding: PageBinding
    ) -> bytes:
        """Cut the page, say where it goes on, and serialize it."""
        del response.resources[cut.rows :]
        response.truncated = cut.truncated
        if cut.has_next:
            last = rows[cut.rows - 1]
            position = PagePosition(last[1], bytes.fromhex(last[0].replace("-", "")), served + cut.rows)
            response.next_page_token = self._tokens.seal(position, binding)
        return response.SerializeToString()

    async def GetCapabilities(self, _request: pb.GetCapabilitiesRequest, call: Call) -> pb.GetCapabilitiesResponse:
        allowed, certificate = await self._allowed(call, Verb.CAPABILITIES, [])
        now = await self._reads.get_capabilities(Grantee(certificate.grant_id, certificate.fingerprint))
        scope = parse_scope_json(now.scope_json)
        response = pb.GetCapabilitiesResponse(
            resources=scope.resources,
            excluded_resources=scope.excluded_resources,
            max_rows_per_query=scope.max_rows_per_query,
            supported_verbs=_SUPPORTED_VERBS,
            server_version=_SERVER_VERSION,
        )
        if now.expires_at_us is not None:
            response.grant_expires_at_us = now.expires_at_us
        _add_audit_head(response, allowed.grant)
        return response

    async def GetResource(self, request: pb.GetResourceRequest, call: Call) -> pb.GetResourceResponse:
        allowed, certificate = await self._allowed(call, Verb.GET, [request.resource])
        row_id = parse_row_id(request.id)
        call.facts.query_hash = self._hasher.hash(Verb.GET, (request.resource,), text=request.id)
        found = await self._reads.get_row(Grantee(certificate.grant_id, certificate.fingerprint), request.resource, row_id)
        if found.row is None:
            # One answer for both; which of them it was is for this gateway's own record.
            layer, recorded = _INVISIBLE[found.visibility]
            raise NotFound(Reason.RESOURCE_NOT_FOUND, "There is no such row.", layer=layer, recorded_reason=recorded)
        response = pb.GetResourceResponse(source=self._gateway)
        set_row(response.resource, found.row, request.resource, self._gateway)
        call.facts.result_count = 1
        _add_audit_head(response, allowed.grant)
        return response

    async def SearchResources(self, request: pb.SearchResourcesRequest, call: Call) -> pb.SearchResourcesResponse:
        allowed, certificate = await self._allowed(call, Verb.SEARCH, request.resources, request.page_size, weight=SEARCH_WEIGHT)
        search = parse_search(allowed.resources, request.query, request.embedding)
        call.facts.query_hash = self._hasher.hash(Verb.SEARCH, search.resources, search.text, search.embedding_bytes)
        grantee = Grantee(certificate.grant_id, certificate.fingerprint)
        # One after the other: one call holds one connection, however many resources it names.
        matches = [
            await self._reads.search_rows(grantee, resource, search, limit=allowed.page_size) for resource in search.resources
        ]

        response = pb.SearchResourcesResponse(source=self._gateway)
        room = min([allowed.page_size, *(each.budget for each in matches if each.rows)])
        add_hits(response.hits, zip(search.resources, matches, strict=True), self._gateway, most=room)
        del response.hits[fitting_rows(response, response.hits) :]
        response.truncated = sum(each.found for each in matches) > len(response.hits)
        call.facts.result_count = len(response.hits)
        _add_audit_head(response, allowed.grant)
        return response

    async def _allowed(
        self, call: Call, verb: Verb, resources: Sequence[str], page_size: int = 0, *, weight: int = 1
    ) -> tuple[Allowed, PeerCertificate]:
        """Steps 0 to 5 of a federated read (architecture.md); steps 1 and 2 came with the connection.

        Raises:
            RateLimited, AccessDenied, InvalidInput: as the denial table says.
            Unavailable: no view of the grant at most 5 s old.
        """
        facts = call.facts
        facts.verb, facts.resource = verb, ",".join(resources[:_SHOWN_NAMES])[:_SHOWN_NAMES]
        # 0. What the call costs its source and its certificate.
        certificate = self._admission.admit(call)
        # 3. The grant as it stood seconds ago: enough to refuse, never to allow.
        view = await self._views.find(certificate.grant_id)
        # 4. The decision.
        presented = Presented(certificate.fingerprint, certificate.grant_id, certificate.subject_user_id)
        decision = decide(view, presented, verb, resources, self._clock.now(), page_size=page_size)
        if isinstance(decision, Denied):
            # What refuses is believed for a second only: a peer is resumed, a certificate pinned, and must not wait to be let in.
            with suppress(Unavailable):
                view = await self._views.find(certificate.grant_id, max_age_seconds=NEGATIVE_MAX_AGE_SECONDS)
                decision = decide(view, presented, verb, resources, self._clock.now(), page_size=page_size)
        if view is not None and certificate.fingerprint in view.certificates:
            facts.peer_id = view.peer_id  # a certificate that was never pinned speaks for no peer
        if isinstance(decision, Denied):
            raise decision.to_error()
        # 5. What the call costs its grant and its peer.
        await self._limits.spend(decision.grant, weight)
        return decision, certificate


def _add_audit_head(response: _Answer, grant: GrantView) -> None:
    """What this gateway's record of the grant came to, so that the peer can tell when it is rewritten."""
    if grant.audit_head is not None:
        response.audit_head.CopyFrom(_audit_head(grant.audit_head))


@lru_cache(maxsize=1024)
def _audit_head(signed: SignedGrantHead) -> GrantAuditHead:
    """The same for every answer until the grant is looked at anew."""
    head = signed.head
    return GrantAuditHead(
        grant_id=str(head.grant_id), rows=head.rows, hash=head.hash, time_us=head.time_us, signature=signed.signature
    )


def _require_known_order(order: int) -> None:
    if order not in {pb.ORDER_UNSPECIFIED, pb.ORDER_NEWEST_FIRST}:
        raise InvalidInput(
            Reason.REQUEST_INVALID,
            "There is no such order.",
            layer=Layer.REQUEST,
            violations=[Violation("order", "must be ORDER_NEWEST_FIRST, or absent")],
        )
