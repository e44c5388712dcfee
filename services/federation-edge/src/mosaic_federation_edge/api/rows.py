"""Rows of the database to messages: one function per resource.

Fields are set one by one; a keyword constructor costs a quarter of the call (docs/adr). A text that an application's own table left
null is empty.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Final

from google.protobuf.internal.containers import RepeatedCompositeFieldContainer
from google.protobuf.message import Message
from mosaic.federation.v1.federation_pb2 import SearchHit
from mosaic.federation.v1.resources_pb2 import Resource

from mosaic_federation_edge.domain.pages import MAX_PAGE_BYTES
from mosaic_federation_edge.domain.reads import Matches, Row
from mosaic_federation_edge.domain.search import by_position

Rows = RepeatedCompositeFieldContainer[Resource]
Hits = RepeatedCompositeFieldContainer[SearchHit]


def add_rows(into: Rows, rows: Sequence[Row], resource: str, source: str) -> None:
    """Append one message per row.

    Args:
        source: where the rows were read.
    """
    add, fill = into.add, _FILL[resource]
    for row in rows:
        # As set_row does, without a call for each: fifty of them are a part of every list.
        message = add()
        message.id = row[0]
        message.source = source
        message.updated_at_us = row[1]
        message.owner_id = row[2]
        if row[3] is not None:
            message.team_id = row[3]
        fill(message, row)


def set_row(message: Resource, row: Row, resource: str, source: str) -> None:
    """Set every field of an empty message."""
    message.id = row[0]
    message.source = source
    message.updated_at_us = row[1]
    message.owner_id = row[2]
    if row[3] is not None:
        message.team_id = row[3]
    _FILL[resource](message, row)


def add_hits(into: Hits, matches: Iterable[tuple[str, Matches]], source: str, *, most: int) -> None:
    """Append one message per match, by position, up to so many.

    Args:
        matches: by resource.
    """
    named = [[(resource, match) for match in found.rows] for resource, found in matches]
    for resource, match in islice(by_position(named), most):
        hit = into.add()
        set_row(hit.resource, match.row, resource, source)
        hit.rank = match.rank
        hit.snippet = match.snippet
        if match.distance is not None:
            hit.distance = match.distance


def fitting_rows(page: Message, rows: Rows | Hits) -> int:
    """How many rows, from the first, make at most MAX_PAGE_BYTES; at least one when there is any.

    Args:
        page: the message that holds the rows; asking it for its size is four times cheaper than asking each of them.
    """
    if page.ByteSize() <= MAX_PAGE_BYTES:
        return len(rows)
    room = MAX_PAGE_BYTES
    for count, row in enumerate(rows):
        room -= row.ByteSize()
        if room < 0:
            return max(count, 1)
    return len(rows)


def _fill_task(message: Resource, row: Row) -> None:
    task = message.task
    task.title = row[4] or ""
    task.description = row[5] or ""
    task.status = row[6] or ""
    if row[7] is not None:
        task.due_at_us = row[7]


def _fill_note(message: Resource, row: Row) -> None:
    note = message.note
    note.title = row[4] or ""
    note.body = row[5] or ""


def _fill_memory(message: Resource, row: Row) -> None:
    memory = message.memory
    memory.kind = row[4] or ""
    memory.content = row[5] or ""


def _fill_credential(message: Resource, row: Row) -> None:
    credential = message.credential
    credential.label = row[4] or ""
    credential.provider = row[5] or ""
    credential.created_at_us = row[6] or 0
    if row[7] is not None:
        credential.expires_at_us = row[7]


def _fill_api_key(message: Resource, row: Row) -> None:
    key = message.api_key
    key.label = row[4] or ""
    key.provider = row[5] or ""
    key.created_at_us = row[6] or 0
    if row[7] is not None:
        key.last_used_at_us = row[7]


_FILL: Final[Mapping[str, Callable[[Resource, Row], None]]] = {
    "tasks": _fill_task,
    "notes": _fill_note,
    "memory": _fill_memory,
    "credentials": _fill_credential,
    "api_keys": _fill_api_key,
}
