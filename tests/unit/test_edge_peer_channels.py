"""One channel per connection and key."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from mosaic_federation_edge.adapters.peer_channels import IDLE_SECONDS, MAX_CHANNELS, PeerChannels
from mosaic_federation_edge.domain.connections import Connection

WORK = Connection(
    peer_id=UUID(int=1),
    name="work",
    remote_gateway="work",
    endpoint="work.example.com:7443",
    key_pem=b"a key",
    chain_pem=b"a certificate",
    trust_bundle_pem=b"a root",
)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def channels(clock: Clock) -> AsyncIterator[PeerChannels]:
    channels = PeerChannels(clock)
    yield channels
    await channels.close()


async def test_a_connection_keeps_its_channel(channels: PeerChannels) -> None:
    """Pooled: what is asked twice is asked over one handshake, until it is dropped."""
    first = channels.get(WORK)
    assert channels.get(replace(WORK)) is first
    channels.drop(WORK)
    assert channels.get(WORK) is not first


@pytest.mark.parametrize(
    "renewed",
    [
        pytest.param({"chain_pem": b"another certificate"}, id="certificate"),
        pytest.param({"key_pem": b"another key"}, id="key"),
        pytest.param({"trust_bundle_pem": b"another root"}, id="root"),
        pytest.param({"endpoint": "work.example.com:7444"}, id="endpoint"),
        pytest.param({"remote_gateway": "lab"}, id="gateway"),
        pytest.param({"peer_id": UUID(int=2)}, id="another user's"),
    ],
)
async def test_whatever_changes_makes_another_channel(channels: PeerChannels, renewed: dict[str, Any]) -> None:
    """A renewed certificate is used at once, although the old one is still accepted for a day; no channel serves two users."""
    assert channels.get(replace(WORK, **renewed)) is not channels.get(WORK)


async def test_what_is_not_used_is_closed(channels: PeerChannels, clock: Clock) -> None:
    """A channel holds a key: a minute without a query and it goes; one that is in use stays."""
    unused, used = channels.get(WORK), channels.get(replace(WORK, peer_id=UUID(int=2)))
    clock.now = IDLE_SECONDS
    assert channels.get(replace(WORK, peer_id=UUID(int=2))) is used
    clock.now += 0.1
    channels.sweep()
    assert channels.get(replace(WORK, peer_id=UUID(int=2))) is used
    assert channels.get(WORK) is not unused


async def test_channels_are_bounded(channels: PeerChannels) -> None:
    """The one that was used longest ago gives way."""
    opened = [channels.get(replace(WORK, peer_id=UUID(int=number))) for number in range(MAX_CHANNELS)]
    assert channels.get(replace(WORK, peer_id=UUID(int=0))) is opened[0]
    channels.get(replace(WORK, peer_id=UUID(int=MAX_CHANNELS)))
    assert channels.get(replace(WORK, peer_id=UUID(int=0))) is opened[0]
    assert channels.get(replace(WORK, peer_id=UUID(int=1))) is not opened[1]
