"""Who may call what, by role. A registered method without a row, or a row without a method, stops the start."""

from datetime import timedelta
from typing import Final

from mosaic.federation.v1 import federation_pb2, query_pb2
from mosaic_common.audit import Event
from mosaic_common.auth import Role
from mosaic_common.rpc.methods import PEERS, Listener, Method, MethodTable, method_table, service_of

_FEDERATION: Final = service_of(federation_pb2, "FederationService")
_QUERY: Final = service_of(query_pb2, "QueryService")

INBOUND: Final[MethodTable] = method_table(
    Method(_FEDERATION, "ListResources", Listener.PEER, callers=PEERS, audit=Event.READ),
    Method(_FEDERATION, "GetResource", Listener.PEER, callers=PEERS, audit=Event.READ),
    Method(_FEDERATION, "SearchResources", Listener.PEER, callers=PEERS, audit=Event.READ),
    Method(_FEDERATION, "GetCapabilities", Listener.PEER, callers=PEERS, audit=Event.READ),
)

OUTBOUND: Final[MethodTable] = method_table(
    Method(
        _QUERY,
        "Query",
        Listener.USER,
        callers=frozenset({Role.QUERY}),
        audit=Event.QUERY,
        deadline=timedelta(seconds=8),
    ),
    Method(_QUERY, "ListSources", Listener.USER, callers=frozenset({Role.QUERY}), audit=Event.QUERY),
)
