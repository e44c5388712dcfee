"""Method tables: policy that no listener could keep stops the start."""

import pytest
from mosaic.enrollment.v1 import enrollment_pb2
from mosaic_common.errors import ConfigurationError
from mosaic_common.identity import GRANTS
from mosaic_common.rpc.methods import ANYONE, PEERS, Listener, Method, method_table, service_of

SERVICE = service_of(enrollment_pb2, "EnrollmentService")


@pytest.mark.parametrize(
    ("listener", "callers"),
    [
        pytest.param(
            Listener.PUBLIC, frozenset({GRANTS}), id="a public listener cannot tell services: the row would let everybody in"
        ),
        pytest.param(Listener.INTERNAL, ANYONE, id="no service is called anyone"),
        pytest.param(Listener.INTERNAL, frozenset({"grant"}), id="a service that does not exist"),
        pytest.param(Listener.OPERATOR, PEERS, id="an operator is no peer"),
        pytest.param(Listener.PEER, ANYONE, id="peers prove who they are"),
        pytest.param(Listener.INTERNAL, frozenset(), id="nobody"),
    ],
)
def test_refuses_callers_that_the_listener_cannot_tell(listener: Listener, callers: frozenset[str]) -> None:
    """A row that cannot be enforced is not a policy."""
    rows = [Method(SERVICE, name, listener, callers=callers) for name in ("Enroll", "Renew")]
    with pytest.raises(ConfigurationError, match="cannot tell"):
        method_table(*rows)
