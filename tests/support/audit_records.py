"""The audit log as its readers find it: one row per call, and chains that can be verified with the public key."""

from dataclasses import dataclass
from typing import Any

from mosaic_common.audit import AuditRow, Chain, Event, Head, HeadVerifier, Outcome, SealedRow, SignedHead, Verified, verify_chain
from mosaic_common.decision import Verb
from mosaic_common.errors import Layer, Reason
from mosaic_common.identity import OPERATOR

from tests.support.gateway import Gateway
from tests.support.peers import Refusal


def record_of(gateway: Gateway, refused: Refusal) -> dict[str, Any]:
    """The one row of a refused call, found by the request id that the caller was told."""
    [record] = [row for row in gateway.audit() if str(row["request_id"]) == refused.metadata["request_id"]]
    return record


def reads_of(gateway: Gateway, grant_id: str) -> list[dict[str, Any]]:
    """The reads under one grant, oldest first."""
    return [row for row in gateway.audit("read") if str(row["grant_id"]) == grant_id]


def assert_recorded(gateway: Gateway, refused: Refusal, layer: Layer, *, outcome: Outcome = Outcome.DENIED) -> None:
    """The refusal has a row that gives the same reason, and says that nothing was given."""
    record = record_of(gateway, refused)
    told = (record["outcome"], record["denied_layer"], record["denied_reason"], record["status_code"])
    assert told == (outcome, layer, refused.reason, refused.code.value[0])
    assert (record["result_count"], record["bytes_out"]) == (0, 0)


@dataclass(frozen=True, slots=True)
class WrittenChain:
    """One writer's chain as it lies in the database."""

    start: Chain
    rows: list[SealedRow]
    heads: list[SignedHead]

    def verify(self) -> Verified:
        """Raises ChainBroken."""
        return verify_chain(self.rows, self.start, self.heads)


def chains_of(gateway: Gateway, writer: str) -> list[WrittenChain]:
    """Every chain that a service opened, oldest first; the signatures are verified on the way.

    Raises:
        HeadForged: an opening or a head was not countersigned by this gateway.
    """
    verifier = HeadVerifier((gateway.pki / OPERATOR / "audit.pub").read_bytes())
    openings = gateway.rows(
        """SELECT chain_id, chain_number, opening_hash, opened_at_us, opening_signature
           FROM federation.federation_audit_chains WHERE writer = %s ORDER BY chain_number""",
        writer,
    )
    chains = []
    for chain_id, number, opening_hash, opened_at_us, signature in openings:
        verifier.verify(Head(chain_id, number, 0, opening_hash, opened_at_us), signature)
        start = Chain.opened(chain_id, number, opened_at_us)
        assert start.head == opening_hash
        # Heads first: a row that comes meanwhile is then unsealed, not missing.
        heads = gateway.rows(
            "SELECT seq, hash, time_us, signature FROM federation.federation_audit_heads WHERE chain_id = %s ORDER BY seq", chain_id
        )
        signed = [verifier.verify(Head(chain_id, number, seq, hash_, time_us), own) for seq, hash_, time_us, own in heads]
        rows = [row for row in gateway.audit() if row["chain_id"] == chain_id]
        chains.append(WrittenChain(start, [_sealed(row) for row in sorted(rows, key=lambda row: int(row["seq"]))], signed))
    return chains


def _sealed(record: dict[str, Any]) -> SealedRow:
    place = {name: record[name] for name in ("chain_id", "seq", "prev_hash", "hash")}
    said = {name: value for name, value in record.items() if name not in place}
    for name, kind in {"event": Event, "outcome": Outcome, "verb": Verb, "denied_layer": Layer, "denied_reason": Reason}.items():
        if said[name] is not None:
            said[name] = kind(said[name])
    return SealedRow(AuditRow(**said), **place)
