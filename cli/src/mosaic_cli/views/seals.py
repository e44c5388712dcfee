"""The sealing of private keys, as a person reads it."""

from datetime import datetime

from mosaic.grants.v1.grants_pb2 import GetSealStatusResponse, SealingKey
from rich.console import RenderableType
from rich.text import Text

from mosaic_cli.rotation import Stage
from mosaic_cli.tables import details, identifier, plain, properties, quiet, rows, section, stacked, when
from mosaic_cli.times import moment


def seal_sheet(status: GetSealStatusResponse, stage: Stage, now: datetime) -> RenderableType:
    phase = f"Phase {stage.phase} of 3. " if stage.phase else ""
    return stacked(
        details(
            Text.assemble(("Sealing  ", "bold"), ("current key ", "dim"), identifier(status.current_key_id)),
            [
                ("now", Text(f"{phase}{plain(stage.situation)}", style="" if stage.healthy else "red")),
                ("next", plain(stage.next) if stage.next else quiet("nothing to do")),
            ],
        ),
        section("Keys", _keys(status)) if status.keys else None,
        section("Replicas", _replicas(status, now)),
    )


def _keys(status: GetSealStatusResponse) -> RenderableType:
    return properties((each.key_id, _rows_under(each, current=each.key_id == status.current_key_id)) for each in status.keys)


def _rows_under(key: SealingKey, *, current: bool) -> Text:
    count = f"{key.rows:,} {'row' if key.rows == 1 else 'rows'}"
    return Text.assemble(count, "" if current else ("  to reseal", "yellow"))


def _replicas(status: GetSealStatusResponse, now: datetime) -> RenderableType:
    return rows(
        ("REPLICA", "SEALS UNDER", "CAN READ", "SEEN"),
        (
            (
                plain(replica.id),
                identifier(replica.current_key_id),
                Text("\n").join(map(identifier, replica.readable_key_ids)),
                when(moment(replica.seen_at_us), now),
            )
            for replica in status.replicas
        ),
        empty="None was seen in the last 30 seconds.",
        whole=("REPLICA", "SEALS UNDER", "CAN READ", "SEEN"),
    )
