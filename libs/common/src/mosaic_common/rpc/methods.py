"""Who may call what, as data beside each service.

A registered method without a row, or a row without a method, stops the start.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from types import ModuleType
from typing import Final

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from mosaic_common.auth import Role
from mosaic_common.errors import ConfigurationError
from mosaic_common.identity import IDENTITIES


class Listener(StrEnum):
    """Kinds of listener; each is one server object with its own address and trust."""

    INTERNAL = "internal"  # service to service, mTLS under the service root
    OPERATOR = "operator"  # TLS, bearer token for `mosaic:<gateway>:operate`
    USER = "user"  # TLS, bearer token for `mosaic:<gateway>:query`
    PUBLIC = "public"  # TLS, anyone
    PEER = "peer"  # mTLS under the federation root


ANYONE: Final = frozenset({"anyone"})
PEERS: Final = frozenset({"peer"})

_ROLES: Final = frozenset(Role)
# Whom a listener can tell apart. Anything else in a row would let everybody in, or nobody.
_TOLD_APART: Final = {
    Listener.INTERNAL: frozenset(IDENTITIES),
    Listener.OPERATOR: _ROLES,
    Listener.USER: _ROLES,
    Listener.PUBLIC: ANYONE,
    Listener.PEER: PEERS,
}

# Who reads the answer is outside this gateway: what a dependency is called is none of their business.
OUTSIDE: Final = frozenset({Listener.PUBLIC, Listener.PEER})


@dataclass(frozen=True, slots=True)
class Method:
    """One row.

    Attributes:
        service: descriptor of the protobuf service.
        name: method name in it.
        listener: where it is registered.
        callers: service identities (internal), roles (operator, user), ANYONE or PEERS.
        audit: event name of the audit row that every call leaves, None for none.
        deadline: upper bound for the whole call.
    """

    service: ServiceDescriptor
    name: str
    listener: Listener
    callers: frozenset[str]
    audit: str | None = None
    deadline: timedelta = timedelta(seconds=10)

    @property
    def path(self) -> str:
        """As on the wire: ``/package.Service/Method``."""
        return f"/{self.service.full_name}/{self.name}"

    @property
    def request_type(self) -> type[Message]:
        return GetMessageClass(self.service.methods_by_name[self.name].input_type)


@dataclass(frozen=True, slots=True)
class MethodTable:
    """The rows of one service, complete for every protobuf service that it names."""

    methods: tuple[Method, ...]

    def __iter__(self) -> Iterator[Method]:
        return iter(self.methods)

    def on(self, listener: Listener) -> tuple[Method, ...]:
        return tuple(method for method in self.methods if method.listener is listener)


def service_of(module: ModuleType, name: str) -> ServiceDescriptor:
    """Return the descriptor of a service of a generated ``_pb2`` module."""
    descriptor: ServiceDescriptor = module.DESCRIPTOR.services_by_name[name]
    return descriptor


def method_table(*methods: Method) -> MethodTable:
    """Check the rows against the protobuf services that they name.

    Raises:
        ConfigurationError: a row names no method, a method has no row or two, or a listener cannot tell its callers.
    """
    rows = [method.path for method in methods]
    declared = {
        f"/{service.full_name}/{name}"
        for service in {m.service.full_name: m.service for m in methods}.values()
        for name in service.methods_by_name
    }
    if wrong := sorted({path for path in rows if rows.count(path) > 1} | (declared ^ set(rows))):
        raise ConfigurationError(
            f"Method table and protobuf service disagree about {', '.join(wrong)}; each method needs exactly one row."
        )
    for method in methods:
        if not method.callers or not method.callers <= _TOLD_APART[method.listener]:
            raise ConfigurationError(
                f"The {method.listener} listener cannot tell the callers of {method.path}: {sorted(method.callers)}."
            )
    return MethodTable(methods)
