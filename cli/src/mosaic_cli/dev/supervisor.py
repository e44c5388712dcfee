"""Two gateways, every service its own process, all of them ending with this one.

The same class runs inside `dev demo` and inside the detached process of `dev up`.
"""

import contextlib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from mosaic_cli.contexts import Contexts
from mosaic_cli.contexts import save as save_contexts
from mosaic_cli.dev.authority import AuthorityKind
from mosaic_cli.dev.folder_lock import FolderLock
from mosaic_cli.dev.gateway import LISTENERS, POSTGRES, STEP_CA, VALKEY, Gateway
from mosaic_cli.dev.plan import Plan, Planner, plan_gateway
from mosaic_cli.dev.processes import Lifeline, ProcessFailed
from mosaic_cli.dev.steps import StepDone, run_steps
from mosaic_cli.dev.units import Unit

GATEWAYS: Final = ("home", "work")
SERVERS: Final = frozenset({POSTGRES, VALKEY, STEP_CA})
CONTEXTS_FILE: Final = "contexts.json"


class Supervisor:
    """Starts, stops and describes the gateways of one folder.

    Args:
        folder: holds everything; made when absent.
        kind: which federation authority each gateway gets.
        on_step: told of each step as it is done, in the thread that called `start`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        kind: AuthorityKind = AuthorityKind.EMBEDDED,
        on_step: Callable[[StepDone], None] = lambda _done: None,
        planner: Planner = plan_gateway,
        names: Sequence[str] = GATEWAYS,
    ) -> None:
        self.folder: Final = folder.absolute()
        self._kind = kind
        self._on_step = on_step
        self._planner = planner
        self._names = names
        self._resources = contextlib.ExitStack()
        self._lock: FolderLock | None = None
        self.gateways: Mapping[str, Gateway] = {}
        self._plans: Mapping[str, Plan] = {}

    @property
    def contexts_file(self) -> Path:
        return self.folder / CONTEXTS_FILE

    @property
    def folder_lost(self) -> bool:
        return self._lock is not None and self._lock.lost

    def start(self) -> None:
        """Return once every service of every gateway is ready.

        Raises:
            ProcessFailed: what did not start, with the end of its log; everything else is stopped again.
            FolderInUse: by another supervisor.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            self._lock = FolderLock(self.folder)
            self._resources.callback(self._lock.release)
            lifeline = self._resources.enter_context(Lifeline())
            self.gateways = {name: Gateway.open(name, self.folder / name) for name in self._names}
            self._plans = {name: self._planner(gateway, self._kind, lifeline) for name, gateway in self.gateways.items()}
            save_contexts(self.contexts_file, self._contexts())
            run_steps([step for plan in self._plans.values() for step in plan.steps], on_done=self._on_step, abort=self.stop)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Services first, so that none sees its servers go; then these; then whatever is left. Again is harmless."""
        units = [(name, unit) for plan in self._plans.values() for name, unit in plan.units.items()]
        _stop_together([unit for name, unit in units if name not in SERVERS])
        _stop_together([unit for name, unit in units if name in SERVERS])
        self._resources.close()

    def stop_service(self, gateway: str, service: str) -> None:
        """Play an outage. Raises: ProcessFailed for a name that does not exist."""
        self._unit(gateway, service).stop()

    def start_service(self, gateway: str, service: str) -> None:
        """End the outage; nothing happens when the service runs. Raises: ProcessFailed."""
        unit = self._unit(gateway, service)
        if unit.pid is None:
            unit.start()

    def status(self) -> Mapping[str, Any]:
        """Everything that a stranger's client needs; one JSON document. It holds passwords: for its owner's eyes."""
        return {
            "folder": str(self.folder),
            "pid": os.getpid(),
            "ca": str(self._kind),
            "contexts": str(self.contexts_file),
            "gateways": {name: self._gateway_status(gateway, self._plans[name]) for name, gateway in self.gateways.items()},
        }

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _contexts(self) -> Contexts:
        return Contexts(current=self._names[0], contexts={name: gateway.context() for name, gateway in self.gateways.items()})

    def _unit(self, gateway: str, service: str) -> Unit:
        if gateway not in self._plans:
            raise ProcessFailed(f"There is no gateway {gateway!r}: {_listed(self._plans)}.")
        units = self._plans[gateway].units
        if service not in units:
            raise ProcessFailed(f"Gateway {gateway} has no service {service!r}: {_listed(units)}.")
        return units[service]

    def _gateway_status(self, gateway: Gateway, plan: Plan) -> Mapping[str, Any]:
        return {
            "services": {name: _service_status(gateway, name, unit.pid) for name, unit in plan.units.items()},
            "pki": gateway.pki_files(),
            "database_url": {role: gateway.database_url(role) for role in gateway.kept.database_passwords},
            "redis_url": {user: gateway.redis_url(user) for user in gateway.kept.valkey_passwords},
        }


def _service_status(gateway: Gateway, name: str, pid: int | None) -> Mapping[str, Any]:
    listeners = {listener: {"address": gateway.address(name, listener), "pid": pid} for listener in LISTENERS[name]}
    return {"state": "running" if pid else "stopped", "pid": pid, "listeners": listeners, "log": str(gateway.log(name))}


def _stop_together(units: Collection[Unit]) -> None:
    with ThreadPoolExecutor(max_workers=max(1, len(units))) as pool:
        list(pool.map(lambda unit: unit.stop(), units))


def _listed(names: Collection[str]) -> str:
    return ", ".join(names)
