"""GrantService: what a grant would allow, and how much it shows; nothing is read and nothing is changed."""

from typing import Final

from mosaic.errors.v1 import errors_pb2
from mosaic.grants.v1 import grants_pb2 as pb
from mosaic.grants.v1 import types_pb2
from mosaic_common.decision import Verb
from mosaic_common.errors import InvalidInput, Layer, Reason, Violation
from mosaic_common.rpc.call import Call
from mosaic_common.scope import Scope

from mosaic_grants.api.requests import parse_grant_id, parse_uuid
from mosaic_grants.domain.explain import Explanation, Question, explain_grant
from mosaic_grants.domain.model import Counts
from mosaic_grants.domain.ports import Ledger
from mosaic_grants.domain.preview import Preview, preview_grant, preview_scope

_FINGERPRINT_BYTES: Final = 32


class ExplainServicer:
    """Answers before anybody asks."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger: Final = ledger

    async def ExplainGrant(self, request: pb.ExplainGrantRequest, _call: Call) -> pb.ExplainGrantResponse:
        return _explained_message(await explain_grant(self._ledger, _parse_question(request)))

    async def PreviewGrant(self, request: pb.PreviewGrantRequest, _call: Call) -> pb.PreviewGrantResponse:
        _require_one_subject(request)
        against = request.against_scope_json
        if request.id:
            return _preview_message(await preview_grant(self._ledger, parse_grant_id(request.id), unverified_against=against))
        return _preview_message(
            await preview_scope(self._ledger, user=request.user, unverified_scope=request.scope_json, unverified_against=against)
        )


def _parse_question(request: pb.ExplainGrantRequest) -> Question:
    """Read a call that could be made. What enforcement itself would refuse in it is explained, not refused here."""
    grant_id = parse_grant_id(request.id)
    verb = Verb(request.verb) if request.verb in list(Verb) else None
    violations = []
    if verb is None:
        violations.append(Violation("verb", f"must be one of {', '.join(Verb)}"))
    if verb in {Verb.LIST, Verb.GET} and len(request.resources) != 1:
        violations.append(Violation("resources", f"must be one: {request.verb} asks for a single resource"))
    if verb is Verb.CAPABILITIES and request.resources:
        violations.append(Violation("resources", "must be empty: capabilities are those of the whole grant"))
    if verb is not Verb.GET and request.row_id:
        violations.append(Violation("row_id", "must be empty: only get asks for a row"))
    if verb not in {Verb.LIST, Verb.SEARCH} and request.page_size:
        violations.append(Violation("page_size", "must be absent: only list and search have pages"))
    if len(request.fingerprint) not in {0, _FINGERPRINT_BYTES}:
        violations.append(Violation("fingerprint", "must be a SHA-256, 32 bytes"))
    if violations or verb is None:
        raise InvalidInput(Reason.REQUEST_INVALID, "No such call could be made.", layer=Layer.REQUEST, violations=violations)
    return Question(
        grant_id,
        verb,
        tuple(request.resources),
        request.row_id,
        request.fingerprint or None,
        parse_uuid(request.subject_user_id, field="subject_user_id") if request.subject_user_id else None,
        request.page_size,
    )


def _require_one_subject(request: pb.PreviewGrantRequest) -> None:
    violations = []
    if request.id:
        also = [name for name in ("scope_json", "user") if getattr(request, name)]
        violations = [Violation(name, "must be absent beside a grant's id") for name in also]
    else:
        missing = [name for name in ("scope_json", "user") if not getattr(request, name)]
        violations = [Violation(name, "is required where no grant's id is given") for name in missing]
    if violations:
        raise InvalidInput(
            Reason.REQUEST_INVALID, "Either a grant, or a scope and a user.", layer=Layer.REQUEST, violations=violations
        )


def _explained_message(explanation: Explanation) -> pb.ExplainGrantResponse:
    message = pb.ExplainGrantResponse(
        allowed=explanation.refused is None,
        layers=[_layer_message(each.layer.value, each.verdict.name, each.sentence) for each in explanation.findings],
        remedy=explanation.remedy,
    )
    if explanation.refused is not None and explanation.refused.reason is not None:
        message.layer = explanation.refused.layer.value
        message.reason = errors_pb2.Reason.Value(f"REASON_{explanation.refused.reason.name}")
    if explanation.cap:
        message.layers.append(_layer_message("cap", "REPORTED", explanation.cap))
    message.layers.append(_layer_message(Layer.RATE.value, "REPORTED", explanation.rate))
    return message


def _layer_message(layer: str, verdict: str, sentence: str) -> pb.ExplainedLayer:
    return pb.ExplainedLayer(layer=layer, verdict=pb.ExplainedLayer.Verdict.Value(f"VERDICT_{verdict}"), sentence=sentence)


def _preview_message(preview: Preview) -> pb.PreviewGrantResponse:
    status = f"GRANT_STATUS_{preview.status.name if preview.status else 'UNSPECIFIED'}"
    return pb.PreviewGrantResponse(
        grant_status=types_pb2.GrantStatus.Value(status),
        resources=[_resource_message(name, counts, preview.scope, preview.against) for name, counts in preview.counts.items()],
        subject_user_id=str(preview.subject_user_id),
        scope_json=preview.scope.to_json(),
    )


def _resource_message(resource: str, counts: Counts | None, scope: Scope, against: Scope | None) -> pb.ResourcePreview:
    if counts is None:
        return pb.ResourcePreview(resource=resource)
    message = pb.ResourcePreview(resource=resource, visible=counts.visible, per_query=min(counts.visible, scope.max_rows_per_query))
    if against is not None and counts.visible_against is not None and counts.visible_in_both is not None:
        message.visible_against = counts.visible_against
        message.per_query_against = min(counts.visible_against, against.max_rows_per_query)
        message.gained = counts.visible_against - counts.visible_in_both
        message.lost = counts.visible - counts.visible_in_both
    return message
