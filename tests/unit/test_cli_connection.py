"""Waiting for several answers at once."""

import signal
import threading
from concurrent.futures import Future
from typing import Any

import pytest
from mosaic_cli.connection import Listener

from tests.support.interrupts import interruptible


class Silent:
    """A method whose calls end when they are cancelled, and not before."""

    def __init__(self) -> None:
        self.asked: list[Future[Any]] = []

    def future(self, _request: object, *, timeout: float) -> "Future[Any]":
        assert timeout > 0
        self.asked.append(Future())
        return self.asked[-1]


def test_an_interrupt_that_wakes_nobody_is_heard() -> None:
    """A signal that another thread takes, or that comes just before the wait begins, ends the wait and what is being asked."""
    method: Any = Silent()

    def interrupt() -> None:
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    # Without the fix the wait ends here, long after, with an answer instead of the interrupt.
    rescue = threading.Timer(5, lambda: method.asked[0].set_result("at last"))
    elsewhere = threading.Timer(0.2, interrupt)
    answers = Listener(name="work", token="").ask_at_once(method, [b"one", b"two"])
    rescue.start()
    elsewhere.start()
    try:
        with interruptible(), pytest.raises(KeyboardInterrupt):
            next(answers)
    finally:
        rescue.cancel()
    assert all(each.cancelled() for each in method.asked)
