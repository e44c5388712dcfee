"""Clients that read without a pause over connections that stay open, from a process per edge, and when each of their calls began.

    async with Hammers.on(doors, gateway) as hammers:
        hammers.begin(client, requests)
        await hammers.heard(client, lambda call: call.ok, since_ns=0)
        calls = hammers.calls[client]

Times are of CLOCK_MONOTONIC, which all processes of a machine share: a call that began after a moment of this process did so.
"""

import asyncio
import json
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Final, Self

import grpc
from google.protobuf.message import Message
from mosaic.federation.v1 import federation_pb2
from mosaic_common.identity import EDGE_INBOUND, dns_name

from tests.support.gateway import Gateway
from tests.support.peers import PeerClient, Refusal

CALL_SECONDS: Final = 10.0
HEARD_SECONDS: Final = 60.0
# Between two rounds of all reads: so a client stays below its grant's limit, which a round takes 25 of.
PAUSE_SECONDS: Final = 0.1
LINE_BYTES: Final = 1024 * 1024


class Read(StrEnum):
    """What a client asks, in this order, again and again."""

    LIST = "list"
    NEXT_PAGE = "next page"
    GET = "get"
    GET_OF_TEAM = "get of a team"
    SEARCH = "search by words"
    NEAREST = "search by embedding"
    CAPABILITIES = "capabilities"

    @property
    def method(self) -> str:
        return _METHODS[self][0]

    def rows_of(self, encoded: bytes) -> list[str]:
        """Ids of the rows in an answer."""
        _, answer, rows = _METHODS[self]
        return [row.id for row in rows(answer.FromString(encoded))]


_Method = tuple[str, Any, Callable[[Any], Sequence[Any]]]
_LIST: Final[_Method] = ("ListResources", federation_pb2.ListResourcesResponse, lambda answer: answer.resources)
_GET: Final[_Method] = ("GetResource", federation_pb2.GetResourceResponse, lambda answer: [answer.resource])
_SEARCH: Final[_Method] = (
    "SearchResources",
    federation_pb2.SearchResourcesResponse,
    lambda answer: [hit.resource for hit in answer.hits],
)
_CAPABILITIES: Final[_Method] = ("GetCapabilities", federation_pb2.GetCapabilitiesResponse, lambda _: [])
_METHODS: Final[Mapping[Read, _Method]] = {
    Read.LIST: _LIST,
    Read.NEXT_PAGE: _LIST,
    Read.GET: _GET,
    Read.GET_OF_TEAM: _GET,
    Read.SEARCH: _SEARCH,
    Read.NEAREST: _SEARCH,
    Read.CAPABILITIES: _CAPABILITIES,
}


@dataclass(frozen=True, slots=True)
class Call:
    """One call and its answer.

    Attributes:
        edge: number of the replica that was asked.
        rows: ids.
        refused: code and reason; empty for an answer.
    """

    edge: int
    read: Read
    began_ns: int
    ended_ns: int
    rows: tuple[str, ...]
    refused: str


@dataclass(frozen=True, slots=True)
class Client:
    """What one process needs to be this client.

    Attributes:
        requests: by read, serialized, hexadecimal.
    """

    name: str
    key: str
    chain: str
    requests: Mapping[str, str]


@dataclass(slots=True)
class Hammers:
    """A process for each edge, in which every client has a connection of its own and a call under way.

    Attributes:
        calls: by client, as their answers came.
    """

    calls: defaultdict[str, list[Call]] = field(default_factory=lambda: defaultdict(list))
    _processes: list[asyncio.subprocess.Process] = field(default_factory=list)
    _news: defaultdict[str, asyncio.Event] = field(default_factory=lambda: defaultdict(asyncio.Event))

    @classmethod
    @asynccontextmanager
    async def on(cls, edges: Sequence[str], gateway: Gateway) -> AsyncIterator[Self]:
        """Hammer the edges at these addresses."""
        hammers = cls()
        target = {"server_name": dns_name(EDGE_INBOUND, gateway.name), "root": gateway.service_root.decode()}
        listening = []
        try:
            for number, edge in enumerate(edges):
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "tests.support.hammers"),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    limit=LINE_BYTES,
                )
                hammers._processes.append(process)
                hammers._tell(process, {"edge": edge, **target})
                listening.append(asyncio.create_task(hammers._listen(number, process)))
            yield hammers
        finally:
            for process in hammers._processes:
                assert process.stdin is not None
                process.stdin.close()
            for process in hammers._processes:
                await process.wait()
            await asyncio.gather(*listening)

    def begin(self, name: str, client: PeerClient, requests: Mapping[Read, Message]) -> None:
        encoded = {str(read): request.SerializeToString().hex() for read, request in requests.items()}
        for process in self._processes:
            self._tell(process, {"begin": asdict(Client(name, client.key.decode(), client.chain.decode(), encoded))})

    def end(self, name: str) -> None:
        for process in self._processes:
            self._tell(process, {"end": name})

    async def heard(self, name: str, wanted: Callable[[Call], bool], *, since_ns: int) -> None:
        """Return once every read got such an answer from every edge, to a call that began after this moment."""
        missing = {(edge, read) for edge in range(len(self._processes)) for read in Read}
        seen = 0
        try:
            async with asyncio.timeout(HEARD_SECONDS):
                while missing:
                    self._news[name].clear()
                    calls = self.calls[name]
                    missing -= {(each.edge, each.read) for each in calls[seen:] if each.began_ns > since_ns and wanted(each)}
                    seen = len(calls)
                    if missing:
                        await self._news[name].wait()
        except TimeoutError:
            last = self.calls[name][-len(missing) :]
            raise AssertionError(f"{name} was not answered so: {sorted(missing)}, but {last}") from None

    @staticmethod
    def _tell(process: asyncio.subprocess.Process, order: object) -> None:
        assert process.stdin is not None
        process.stdin.write(json.dumps(order).encode() + b"\n")

    async def _listen(self, edge: int, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            name, read, began_ns, ended_ns, rows, refused = json.loads(line)
            self.calls[name].append(Call(edge, Read(read), began_ns, ended_ns, tuple(rows), refused))
            self._news[name].set()


# ── the process ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _hammer(client: Client, target: Mapping[str, str]) -> None:
    credentials = grpc.ssl_channel_credentials(target["root"].encode(), client.key.encode(), client.chain.encode())
    options = (("grpc.ssl_target_name_override", target["server_name"]), ("grpc.use_local_subchannel_pool", 1))
    async with grpc.aio.secure_channel(target["edge"], credentials, options=options) as channel:
        calls: dict[Read, Any] = {
            read: channel.unary_unary(f"/mosaic.federation.v1.FederationService/{read.method}") for read in Read
        }
        while True:
            for read, call in calls.items():
                await _ask(client.name, read, call(bytes.fromhex(client.requests[read]), timeout=CALL_SECONDS))
            await asyncio.sleep(PAUSE_SECONDS)


async def _ask(name: str, read: Read, call: Any) -> None:
    rows: list[str] = []
    refused, wait_seconds = "", 0.0
    began_ns = time.monotonic_ns()
    try:
        rows = read.rows_of(await call)
    except grpc.aio.AioRpcError as error:
        refusal = Refusal.of(error)
        refused = f"{refusal.code.name} {refusal.reason or refusal.message}"
        wait_seconds = refusal.retry_after_seconds or 0.0
    told = json.dumps([name, read, began_ns, time.monotonic_ns(), rows, refused])
    sys.stdout.write(f"{told}\n")
    sys.stdout.flush()
    await asyncio.sleep(wait_seconds)


async def _run() -> None:
    loop = asyncio.get_running_loop()
    orders = asyncio.StreamReader(limit=LINE_BYTES)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    target = json.loads(await orders.readline())
    hammering: dict[str, asyncio.Task[None]] = {}
    async for line in orders:
        order = json.loads(line)
        if begun := order.get("begin"):
            client = Client(**begun)
            hammering[client.name] = asyncio.create_task(_hammer(client, target))
        else:
            hammering.pop(order["end"]).cancel()
    for task in hammering.values():
        task.cancel()
    await asyncio.gather(*hammering.values(), return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(_run())
