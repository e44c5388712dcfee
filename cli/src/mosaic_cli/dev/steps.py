"""Steps that wait for each other and for nothing else."""

import time
from collections.abc import Callable, Collection
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from graphlib import TopologicalSorter


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do.

    Attributes:
        name: unique among the steps that run together.
        after: names of the steps that have to be done before.
    """

    name: str
    run: Callable[[], object]
    after: Collection[str] = field(default=())


@dataclass(frozen=True, slots=True)
class StepDone:
    """How long a step took."""

    name: str
    seconds: float


def run_steps(steps: Collection[Step], *, on_done: Callable[[StepDone], None], abort: Callable[[], None]) -> None:
    """Run every step as soon as those before it are done.

    The first failure, or an interrupt, ends the rest: `abort` has to make every running step return soon.
    """
    by_name = {step.name: step for step in steps}
    order = TopologicalSorter({step.name: step.after for step in steps})
    order.prepare()
    running: set[Future[StepDone]] = set()
    with ThreadPoolExecutor(max_workers=len(by_name), thread_name_prefix="step") as pool:
        try:
            while order.is_active():
                running |= {pool.submit(_timed, by_name[name]) for name in order.get_ready()}
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    done = future.result()
                    on_done(done)
                    order.done(done.name)
        except BaseException:
            abort()
            raise


def _timed(step: Step) -> StepDone:
    started = time.monotonic()
    step.run()
    return StepDone(step.name, time.monotonic() - started)
