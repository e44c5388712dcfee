"""Redemptions sent at the same moment, from processes of their own: a race inside one event loop is none.

    answers = await race([Racer(doors=(…), root=…, server_name=…, in_flight=25, requests=(…)), …])

Each process gets its requests ready made, connects, says so, and sends when all others are ready too.
"""

import asyncio
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle
from typing import Any, Final

import grpc
from mosaic.enrollment.v1 import enrollment_pb2

from tests.support.peers import Refusal

ENROLL: Final = "/mosaic.enrollment.v1.EnrollmentService/Enroll"
CALL_SECONDS: Final = 20.0
READY: Final = b"ready\n"


@dataclass(frozen=True, slots=True)
class Racer:
    """One process and what it sends.

    Attributes:
        doors: host:port of the replicas; each request goes to the next.
        root: PEM.
        in_flight: calls at any moment, over all doors; beyond a hundred per door the server refuses some.
        requests: serialized EnrollRequests, hexadecimal.
    """

    doors: Sequence[str]
    root: str
    server_name: str
    in_flight: int
    requests: Sequence[str]


@dataclass(frozen=True, slots=True)
class Answer:
    """What one request got: a certificate (DER, hexadecimal), or code and reason of its refusal."""

    request: str
    certificate: str = ""
    refused: str = ""


async def race(racers: Sequence[Racer]) -> list[Answer]:
    """Start every racer, let all go at once, return all answers."""
    processes = [await _start(racer) for racer in racers]
    try:
        for process in processes:
            assert process.stdout is not None
            assert await process.stdout.readline() == READY
        answers = await asyncio.gather(*(process.communicate(b"go\n") for process in processes))
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
                await process.wait()
    return [Answer(**answer) for out, _ in answers for answer in json.loads(out)]


async def _start(racer: Racer) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.racers"), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(asdict(racer)).encode() + b"\n")
    await process.stdin.drain()
    return process


async def _run(racer: Racer) -> list[Answer]:
    credentials = grpc.ssl_channel_credentials(racer.root.encode())
    options = (("grpc.ssl_target_name_override", racer.server_name), ("grpc.use_local_subchannel_pool", 1))
    channels = [grpc.aio.secure_channel(door, credentials, options=options) for door in racer.doors]
    await asyncio.gather(*(channel.channel_ready() for channel in channels))
    sys.stdout.buffer.write(READY)
    sys.stdout.buffer.flush()
    sys.stdin.buffer.readline()
    calls: Iterator[Any] = cycle([channel.unary_unary(ENROLL) for channel in channels])
    waiting = iter(zip(calls, racer.requests, strict=False))
    answers: list[Answer] = []

    async def send() -> None:
        for call, request in waiting:
            try:
                raw = await call(bytes.fromhex(request), timeout=CALL_SECONDS)
            except grpc.aio.AioRpcError as error:
                refused = Refusal.of(error)
                answers.append(Answer(request, refused=f"{refused.code.name} {refused.reason or refused.message}"))
            else:
                answers.append(Answer(request, enrollment_pb2.EnrollResponse.FromString(raw).certificate_der.hex()))

    await asyncio.gather(*(send() for _ in range(racer.in_flight)))
    for channel in channels:
        await channel.close()
    return answers


def main() -> None:
    racer = Racer(**json.loads(sys.stdin.buffer.readline()))
    answers = asyncio.run(_run(racer))
    sys.stdout.write(json.dumps([asdict(answer) for answer in answers]))


if __name__ == "__main__":
    main()
