"""Which thread of a process runs when there are fewer cores than threads."""

import contextlib
import os
import threading
from typing import Final

# Of grpc.aio's thread that waits for completions: `threading` names a thread after its function (Python 3.10 and later).
_POLLER: Final = "(_poll_wrapper)"


def let_completions_gather() -> None:
    """Let grpc.aio's polling thread wait until the event loop has nothing to do, instead of interrupting it.

    It wakes eight times per call to pass a completion on, each time at the expense of the loop where both share a core: 20 context
    switches per call under load, of which 4 remain. A batch thread (sched(7)) preempts nothing when it wakes; on an idle core it
    runs at once. Only this thread: were the loop one as well, a busy neighbour would double the time of a lone call.

    Does nothing where the system has no such policy or a sandbox forbids it, and before grpc.aio has started.
    """
    if not hasattr(os, "SCHED_BATCH"):
        return
    for thread in threading.enumerate():
        if thread.name.endswith(_POLLER) and thread.native_id is not None:
            with contextlib.suppress(OSError):
                os.sched_setscheduler(thread.native_id, os.SCHED_BATCH, os.sched_param(0))
