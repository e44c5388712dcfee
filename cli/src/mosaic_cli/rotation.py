"""Where a rotation of the sealing secret stands, in words.

It has three phases, so that at no moment a replica meets a row that it cannot open: the new secret becomes readable everywhere,
then the current one everywhere, and only then are the rows sealed anew and the old secret taken away.
"""

from dataclasses import dataclass

from mosaic.grants.v1.grants_pb2 import GetSealStatusResponse, Replica


@dataclass(frozen=True, slots=True)
class Stage:
    """What a rotation is at.

    Attributes:
        phase: 1 readable everywhere, 2 promoted, 3 rows sealed anew; None where none is under way, or the keys alone do not tell.
        situation: one sentence.
        next: what to do, in one sentence; None where nothing is.
        healthy: no row and no replica is shut out.
    """

    phase: int | None
    situation: str
    next: str | None
    healthy: bool = True


def stage_of(status: GetSealStatusResponse) -> Stage:
    current = {replica.current_key_id for replica in status.replicas} or {status.current_key_id}
    return (
        _find_unreadable_rows(status)
        or _find_blind_replicas(status, current)
        or _promotion(status, current)
        or _resealing(status)
        or _at_rest(status)
    )


def _find_unreadable_rows(status: GetSealStatusResponse) -> Stage | None:
    readable = {key for replica in status.replicas for key in replica.readable_key_ids} | set(status.readable_key_ids)
    lost = [key for key in status.keys if key.rows and key.key_id not in readable]
    if not lost:
        return None
    count, names = sum(key.rows for key in lost), ", ".join(key.key_id for key in lost)
    return Stage(
        None,
        f"{_rows(count)} sealed under {names}, which no replica can read: the connections they belong to do not work.",
        "Give every replica the secret that was taken away, as _PREVIOUS, and restart it; connections whose secret is lost need a "
        "new key (`mosaic federation peer add --reenroll`).",
        healthy=False,
    )


def _find_blind_replicas(status: GetSealStatusResponse, current: set[str]) -> Stage | None:
    """Replicas that cannot open what the others seal at this moment, or what is stored."""
    needed = current | {key.key_id for key in status.keys if key.rows}
    blind = [replica for replica in status.replicas if needed - set(replica.readable_key_ids)]
    if not blind:
        return None
    missing = ", ".join(sorted({key for replica in blind for key in needed - set(replica.readable_key_ids)}))
    return Stage(
        2 if len(current) > 1 else None,
        f"{_of(len(blind), status)} cannot read rows under {missing}: {_names(blind)}.",
        "Give every replica the missing secret (as _NEXT or _PREVIOUS), restart it, and look here again before anything else.",
        healthy=False,
    )


def _promotion(status: GetSealStatusResponse, current: set[str]) -> Stage | None:
    if len(current) < 2:
        return None
    each = " and ".join(
        f"{sum(replica.current_key_id == key for replica in status.replicas)} under {key}" for key in sorted(current)
    )
    return Stage(
        2,
        f"The new secret is being promoted: of {len(status.replicas)} replicas {each} seal now.",
        "Restart the others with the new secret as the current one and the old one as _PREVIOUS, then look here again.",
    )


def _resealing(status: GetSealStatusResponse) -> Stage | None:
    if not status.rows_to_reseal:
        return None
    return Stage(
        3,
        f"Every replica seals under {status.current_key_id}; {_rows(status.rows_to_reseal)} still sealed under another key.",
        "Run `mosaic seal rotate`; keep _PREVIOUS until it has finished.",
    )


def _at_rest(status: GetSealStatusResponse) -> Stage:
    others = {key for replica in status.replicas for key in replica.readable_key_ids} | set(status.readable_key_ids)
    spare = sorted(others - {status.current_key_id})
    if not spare:
        return Stage(
            None,
            "No rotation is under way: every row is sealed under the current key, and no other one is configured.",
            None,
        )
    able = [replica for replica in status.replicas if set(spare) <= set(replica.readable_key_ids)]
    further = "promote it, with today's as _PREVIOUS" if len(able) == len(status.replicas) else "give it to the others as _NEXT"
    # A key id tells nothing about its secret, so neither whether it is the next one or the previous one.
    return Stage(
        None,
        f"Every row is sealed under the current key; {_of(len(able), status)} can also read {', '.join(spare)}.",
        f"If that is the new secret (_NEXT), {further}; if it is the old one (_PREVIOUS), take it away: the rotation is complete.",
    )


def _rows(count: int) -> str:
    return "1 row is" if count == 1 else f"{count:,} rows are"


def _of(count: int, status: GetSealStatusResponse) -> str:
    return f"{count} of {len(status.replicas)} replicas"


def _names(replicas: list[Replica]) -> str:
    return ", ".join(replica.id for replica in replicas)
