"""A ledger that answers late, and says so itself: what others make of its answer."""

from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import psycopg
import pytest
from mosaic.federation.v1 import federation_pb2, query_pb2

from tests.support.gateway import Gateway, Pair
from tests.support.peers import refusal

SUBJECT = "maya@example.com"


@contextmanager
def locked(gateway: Gateway, table: str) -> Iterator[None]:
    """Nobody reads the table meanwhile, so grants itself answers that it cannot, typed."""
    with psycopg.connect(gateway.database.url("mosaic_owner")) as connection:
        connection.execute(f"LOCK TABLE federation.{table} IN ACCESS EXCLUSIVE MODE".encode())
        yield


async def test_a_peer_hears_that_the_gateway_cannot_answer_and_nothing_of_why(pair: Pair) -> None:
    """Without a view the inbound edge answers DEPENDENCY_UNAVAILABLE, whatever grants said to it, and records that."""
    peer = await pair.work.enroll(user=SUBJECT, peer="home")
    with locked(pair.work, "federation_grants"):
        refused = await refusal(peer.list("tasks"))
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE")
    assert "grants" not in str(refused)
    last = next(row for row in pair.work.audit("read")[::-1] if str(row["request_id"]) == refused.metadata["request_id"])
    assert (last["outcome"], last["denied_layer"], last["denied_reason"]) == ("error", "dependency", "DEPENDENCY_UNAVAILABLE")


@pytest.mark.parametrize("seconds", [1.0, 2.0, 7.0])
async def test_all_answers_with_what_is_here_when_connections_are_not_released_in_time(pair: Pair, seconds: float) -> None:
    """A slow ledger of one's own costs the other sources, never one's own rows, however short the caller's deadline is."""
    [(user_id,)] = pair.home.rows("SELECT id FROM public.users WHERE email = %s", SUBJECT)
    query = query_pb2.QueryRequest(verb=federation_pb2.VERB_LIST, resources=["tasks"], source="all", page_size=5)
    with locked(pair.home, "federation_peers"):
        answer = await pair.home.queries.Query(query, metadata=pair.home.user_metadata(user_id), timeout=seconds)
    assert answer.partial
    assert [row.source for row in answer.rows] == ["local"] * 5
    statuses = {each.source: each.status for each in answer.sources}
    assert statuses == {"local": query_pb2.SOURCE_STATUS_OK, "federated:*": query_pb2.SOURCE_STATUS_UNAVAILABLE}
