"""Who may call what. A registered method without a row, or a row without a method, stops the start."""

from datetime import timedelta
from typing import Final

from mosaic.enrollment.v1 import enrollment_pb2
from mosaic_common.rpc.methods import ANYONE, Listener, Method, MethodTable, method_table, service_of

_ENROLLMENT: Final = service_of(enrollment_pb2, "EnrollmentService")

# No audit event here: enrollment has no database. Grants records what it sees, and what enrollment refuses by RecordRefusal.
METHODS: Final[MethodTable] = method_table(
    Method(_ENROLLMENT, "Enroll", Listener.PUBLIC, callers=ANYONE, deadline=timedelta(seconds=20)),
    Method(_ENROLLMENT, "Renew", Listener.PUBLIC, callers=ANYONE, deadline=timedelta(seconds=20)),
)
