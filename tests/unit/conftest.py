"""Unit tests touch no network."""

import socket

import pytest


@pytest.fixture(autouse=True)
def sockets_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit test that opens a connection tests more than it says."""

    def refuse(connection: socket.socket, address: object) -> None:
        connection.close()
        # Not an Exception, so that no handler under test can swallow it.
        pytest.fail(f"a unit test connects to {address!r}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
