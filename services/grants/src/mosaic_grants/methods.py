"""Who may call what. A registered method without a row, or a row without a method, stops the start.

``audit`` names the event of a refusal; what succeeds writes its row in the transaction that does it.
"""

from typing import Final

from mosaic.audit.v1 import audit_pb2
from mosaic.grants.v1 import grants_pb2, ledger_pb2
from mosaic_common.audit import Event
from mosaic_common.auth import Role
from mosaic_common.identity import EDGE_INBOUND, EDGE_OUTBOUND, ENROLLMENT
from mosaic_common.rpc.methods import Listener, Method, MethodTable, method_table, service_of

_GRANTS: Final = service_of(grants_pb2, "GrantService")
_PEERS: Final = service_of(grants_pb2, "PeerService")
_SEALS: Final = service_of(grants_pb2, "SealService")
_USERS: Final = service_of(grants_pb2, "UserService")
_LEDGER: Final = service_of(ledger_pb2, "EnrollmentLedgerService")
_RESOLVER: Final = service_of(ledger_pb2, "GrantResolverService")
_CREDENTIALS: Final = service_of(ledger_pb2, "PeerCredentialService")
_CHAINS: Final = service_of(audit_pb2, "AuditChainService")
_AUDIT: Final = service_of(audit_pb2, "AuditService")

_ADMIN: Final = frozenset({Role.ADMIN.value})
_READ: Final = frozenset({Role.ADMIN.value, Role.READ.value})
_ENROLLMENT: Final = frozenset({ENROLLMENT})
_INBOUND: Final = frozenset({EDGE_INBOUND})
_OUTBOUND: Final = frozenset({EDGE_OUTBOUND})
_EDGES: Final = _INBOUND | _OUTBOUND

METHODS: Final[MethodTable] = method_table(
    Method(_GRANTS, "CreateGrant", Listener.OPERATOR, callers=_ADMIN, audit=Event.GRANT_CREATED),
    Method(_GRANTS, "ListGrants", Listener.OPERATOR, callers=_READ, audit=Event.CALL_REFUSED),
    Method(_GRANTS, "GetGrant", Listener.OPERATOR, callers=_READ, audit=Event.CALL_REFUSED),
    Method(_GRANTS, "CreateEnrollmentToken", Listener.OPERATOR, callers=_ADMIN, audit=Event.TOKEN_CREATED),
    Method(_GRANTS, "RevokeGrant", Listener.OPERATOR, callers=_ADMIN, audit=Event.GRANT_REVOKED),
    Method(_GRANTS, "DeleteGrant", Listener.OPERATOR, callers=_ADMIN, audit=Event.GRANT_DELETED),
    Method(_GRANTS, "LimitGrant", Listener.OPERATOR, callers=_ADMIN, audit=Event.GRANT_LIMITED),
    Method(_GRANTS, "ExplainGrant", Listener.OPERATOR, callers=_READ, audit=Event.CALL_REFUSED),
    Method(_GRANTS, "PreviewGrant", Listener.OPERATOR, callers=_READ, audit=Event.CALL_REFUSED),
    Method(_PEERS, "CreatePeer", Listener.OPERATOR, callers=_ADMIN, audit=Event.PEER_CREATED),
    Method(_PEERS, "ListPeers", Listener.OPERATOR, callers=_READ, audit=Event.CALL_REFUSED),
    Method(_PEERS, "GetPeer", Listener.OPERATOR, callers=_READ, audit=Event.CALL_REFUSED),
    Method(_PEERS, "PrepareConnection", Listener.OPERATOR, callers=_ADMIN, audit=Event.CONNECTION_PREPARED),
    Method(_PEERS, "ActivateConnection", Listener.OPERATOR, callers=_ADMIN, audit=Event.CONNECTION_ACTIVATED),
    Method(_PEERS, "SuspendPeer", Listener.OPERATOR, callers=_ADMIN, audit=Event.PEER_SUSPENDED),
    Method(_PEERS, "ResumePeer", Listener.OPERATOR, callers=_ADMIN, audit=Event.PEER_RESUMED),
    Method(_PEERS, "RevokePeer", Listener.OPERATOR, callers=_ADMIN, audit=Event.PEER_REVOKED),
    Method(_PEERS, "DeletePeer", Listener.OPERATOR, callers=_ADMIN, audit=Event.PEER_DELETED),
    Method(_SEALS, "GetSealStatus", Listener.OPERATOR, callers=_READ, audit=Event.CALL_REFUSED),
    Method(_SEALS, "Reseal", Listener.OPERATOR, callers=_ADMIN, audit=Event.KEYS_RESEALED),
    Method(_USERS, "FindUser", Listener.OPERATOR, callers=_READ, audit=Event.CALL_REFUSED),
    Method(_AUDIT, "ListAuditRows", Listener.OPERATOR, callers=_READ, audit=Event.CALL_REFUSED),
    Method(_AUDIT, "GetAuditRow", Listener.OPERATOR, callers=_READ, audit=Event.CALL_REFUSED),
    Method(_AUDIT, "ExportAudit", Listener.OPERATOR, callers=_READ, audit=Event.CALL_REFUSED),
    Method(_LEDGER, "ClaimEnrollment", Listener.INTERNAL, callers=_ENROLLMENT, audit=Event.ENROLLMENT_REFUSED),
    Method(_LEDGER, "ReleaseEnrollment", Listener.INTERNAL, callers=_ENROLLMENT, audit=Event.ENROLLMENT_REFUSED),
    Method(_LEDGER, "CompleteEnrollment", Listener.INTERNAL, callers=_ENROLLMENT, audit=Event.ENROLLMENT_REFUSED),
    Method(_LEDGER, "RecordRefusal", Listener.INTERNAL, callers=_ENROLLMENT, audit=Event.ENROLLMENT_REFUSED),
    Method(_LEDGER, "ListKnownTokens", Listener.INTERNAL, callers=_ENROLLMENT, audit=Event.CALL_REFUSED),
    Method(_LEDGER, "ClaimRenewal", Listener.INTERNAL, callers=_ENROLLMENT, audit=Event.ENROLLMENT_REFUSED),
    Method(_LEDGER, "CompleteRenewal", Listener.INTERNAL, callers=_ENROLLMENT, audit=Event.ENROLLMENT_REFUSED),
    Method(_RESOLVER, "ResolveGrant", Listener.INTERNAL, callers=_INBOUND, audit=Event.CALL_REFUSED),
    Method(_CREDENTIALS, "GetPeerCredential", Listener.INTERNAL, callers=_OUTBOUND, audit=Event.CREDENTIAL_RELEASED),
    Method(_CREDENTIALS, "ReportConnection", Listener.INTERNAL, callers=_OUTBOUND, audit=Event.CALL_REFUSED),
    Method(_CHAINS, "OpenChain", Listener.INTERNAL, callers=_EDGES, audit=Event.CALL_REFUSED),
)
