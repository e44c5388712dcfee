"""Who may call what. A registered method without a row, or a row without a method, stops the start."""

from datetime import timedelta
from typing import Final

from mosaic.enrollment.v1 import enrollment_pb2
from mosaic_common.audit import Event
from mosaic_common.rpc.methods import ANYONE, Listener, Method, MethodTable, method_table, service_of

_ENROLLMENT: Final = service_of(enrollment_pb2, "EnrollmentService")

# Enrollment has no database: grants records what it hears of, and what was refused before that by RecordRefusal.
METHODS: Final[MethodTable] = method_table(
    Method(_ENROLLMENT, "Enroll", Listener.PUBLIC, callers=ANYONE, audit=Event.ENROLLMENT_REFUSED, deadline=timedelta(seconds=20)),
    Method(_ENROLLMENT, "Renew", Listener.PUBLIC, callers=ANYONE, audit=Event.ENROLLMENT_REFUSED, deadline=timedelta(seconds=20)),
)
