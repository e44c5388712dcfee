"""A gateway of processes that may be attacked, and the honest caller who must not notice.

async with attacked(gateway) as processes:
    async with HonestCaller(target, answers={"OK"}, source="127.0.0.2") as honest:
        await send(target, flood)
    assert honest.lost == []
"""

import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import grpc
from mosaic_common.identity import CA_BROKER, EDGE_INBOUND, EDGE_OUTBOUND, ENROLLMENT, GRANTS, OPERATOR

from tests.support.floods import MIB, Target
from tests.support.gateway import Gateway
from tests.support.health import serving
from tests.support.peers import Refusal
from tests.support.relays import Relay

START_SECONDS: Final = 30.0
CALL_SECONDS: Final = 5.0
# With two calls in between, below what one local user may ask in a second.
PAUSE_SECONDS: Final = 0.12
SAMPLE_SECONDS: Final = 0.05
COMMANDS: Final = {
    CA_BROKER: ("mosaic_ca_broker", "serve"),
    GRANTS: ("mosaic_grants", "serve"),
    ENROLLMENT: ("mosaic_enrollment", "serve"),
    EDGE_INBOUND: ("mosaic_federation_edge", "serve", "--role", "inbound"),
    EDGE_OUTBOUND: ("mosaic_federation_edge", "serve", "--role", "outbound"),
}
DEPENDENCIES: Final = {
    CA_BROKER: (),
    GRANTS: ("postgres", CA_BROKER),
    ENROLLMENT: (GRANTS, CA_BROKER),
    EDGE_INBOUND: (GRANTS, "postgres"),
    EDGE_OUTBOUND: (GRANTS, "postgres"),
}


@dataclass(frozen=True, slots=True)
class ServiceProcess:
    """One service in its own process; what it takes is read from /proc."""

    popen: subprocess.Popen[bytes]

    @property
    def resident_mib(self) -> float:
        pages = int(self._proc("statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / MIB

    @property
    def descriptors(self) -> int:
        return len(list(self._proc("fd").iterdir()))

    def _proc(self, name: str) -> Path:
        return Path("/proc", str(self.popen.pid), name)


@contextlib.contextmanager
def _started(gateway: Gateway) -> Iterator[dict[str, ServiceProcess]]:
    with contextlib.ExitStack() as stack:
        processes: dict[str, ServiceProcess] = {}
        for identity, command in COMMANDS.items():
            log = stack.enter_context((gateway.folder / f"{identity}.log").open("wb"))
            environment = os.environ | gateway.environment(identity)
            popen = subprocess.Popen([sys.executable, "-m", *command], env=environment, stdout=log, stderr=log)
            stack.callback(popen.wait)
            stack.callback(popen.kill)
            processes[identity] = ServiceProcess(popen)
        yield processes


@contextlib.asynccontextmanager
async def attacked(gateway: Gateway) -> AsyncIterator[dict[str, ServiceProcess]]:
    """Start every service of a prepared gateway as its own process, by identity, and wait until each says that it serves."""
    with _started(gateway) as processes:
        try:
            await asyncio.gather(*(_serves(gateway, identity) for identity in COMMANDS))
            yield processes
        finally:
            await gateway.close()


async def _serves(gateway: Gateway, identity: str) -> None:
    """Wait until the service listens and what it depends on answers it."""
    channel = gateway.internal_channel(identity, caller=OPERATOR)
    async with asyncio.timeout(START_SECONDS):
        await channel.channel_ready()
        await serving(channel, *DEPENDENCIES[identity])


@dataclass(slots=True)
class Peak:
    mib: float


@contextlib.asynccontextmanager
async def memory_peak(process: ServiceProcess) -> AsyncIterator[Peak]:
    """Sample what the process holds while the block runs."""
    peak = Peak(process.resident_mib)

    async def sample() -> None:
        while True:
            await asyncio.sleep(SAMPLE_SECONDS)
            peak.mib = max(peak.mib, process.resident_mib)

    sampling = asyncio.create_task(sample())
    try:
        yield peak
    finally:
        sampling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sampling


async def until(reached: Callable[[], bool], seconds: float) -> bool:
    """Look every tenth of a second, for so long."""
    ends = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > ends:
            return False
        await asyncio.sleep(0.1)
    return True


@dataclass(slots=True)
class HonestCaller:
    """One call after the other until the block ends: alternately on a connection that it keeps and on a fresh one.

    Attributes:
        request: serialized.
        answers: ``OK``, or the reason of our ErrorInfo; everything else is a lost call.
        lost: what came instead of an answer.
    """

    target: Target
    request: bytes
    answers: frozenset[str]
    source: str
    latencies: list[float] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    _task: asyncio.Task[None] | None = None
    _relay: Relay | None = None

    async def __aenter__(self) -> Self:
        # gRPC cannot choose its source address; what it sends through the relay comes from there.
        self._relay = await Relay(self.target.host, self.target.port, source=self.source).__aenter__()
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._task is not None
        assert self._relay is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        await self._relay.__aexit__(kind, error, trace)

    @property
    def summary(self) -> str:
        p95 = statistics.quantiles(self.latencies, n=20)[-1] if len(self.latencies) > 1 else float("nan")
        return f"{len(self.latencies)} answered, p95 {p95 * 1000:.0f} ms, max {max(self.latencies, default=0) * 1000:.0f} ms"

    async def _run(self) -> None:
        async with self._channel() as kept:
            while True:
                await self._call(kept)
                async with self._channel() as fresh:
                    await self._call(fresh)
                await asyncio.sleep(PAUSE_SECONDS)

    async def _call(self, channel: grpc.aio.Channel) -> None:
        began = time.monotonic()
        try:
            call: Any = channel.unary_unary(self.target.path)
            await call(self.request, timeout=CALL_SECONDS, metadata=tuple((self.target.metadata or {}).items()))
            answer = "OK"
        except grpc.aio.AioRpcError as error:
            refusal = Refusal.of(error)
            answer = refusal.reason or f"{refusal.code.name}: {refusal.message}"
        if answer in self.answers:
            self.latencies.append(time.monotonic() - began)
        else:
            self.lost.append(f"{answer} after {time.monotonic() - began:.2f} s")

    def _channel(self) -> grpc.aio.Channel:
        assert self._relay is not None
        target = self.target
        credentials = grpc.ssl_channel_credentials(
            Path(target.root).read_bytes(),
            Path(target.key).read_bytes() if target.key else None,
            Path(target.certificate).read_bytes() if target.certificate else None,
        )
        options = (("grpc.ssl_target_name_override", target.server_name), ("grpc.use_local_subchannel_pool", 1))
        return grpc.aio.secure_channel(self._relay.address, credentials, options)
