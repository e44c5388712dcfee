"""Who may call what. A registered method without a row, or a row without a method, stops the start."""

from typing import Final

from mosaic.ca.v1 import certificate_authority_pb2
from mosaic_common.identity import ENROLLMENT, GRANTS
from mosaic_common.rpc.methods import Listener, Method, MethodTable, method_table, service_of

_AUTHORITY: Final = service_of(certificate_authority_pb2, "CertificateAuthorityService")

METHODS: Final[MethodTable] = method_table(
    Method(_AUTHORITY, "IssueCertificate", Listener.INTERNAL, callers=frozenset({ENROLLMENT})),
    Method(_AUTHORITY, "RevokeCertificate", Listener.INTERNAL, callers=frozenset({GRANTS})),
    Method(_AUTHORITY, "GetRevocationList", Listener.INTERNAL, callers=frozenset({GRANTS})),
)
