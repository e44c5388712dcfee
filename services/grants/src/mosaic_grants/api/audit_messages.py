"""The record as messages."""

from dataclasses import fields
from typing import Final
from uuid import UUID

from mosaic.audit.v1 import audit_pb2
from mosaic_common.audit import AuditRow, Head, SealedRow
from mosaic_common.audit_heads import SignedGrantHead, SignedMonthEnd

from mosaic_grants.api.messages import grant_head_message
from mosaic_grants.domain.audit_reading import Opening, ReceivedHead

_COLUMNS: Final = tuple(each.name for each in fields(AuditRow))


def row_message(sealed: SealedRow) -> audit_pb2.AuditRow:
    message = audit_pb2.AuditRow(chain_id=sealed.chain_id, seq=sealed.seq, prev_hash=sealed.prev_hash, hash=sealed.hash)
    for name in _COLUMNS:
        value = getattr(sealed.row, name)
        if value is not None:
            setattr(message, name, str(value) if isinstance(value, UUID) else value)
    return message


def opening_record(opening: Opening) -> audit_pb2.ExportRecord:
    return audit_pb2.ExportRecord(
        opening=audit_pb2.AuditChainOpening(
            chain_id=opening.chain_id,
            chain_number=opening.chain_number,
            writer=opening.writer,
            opened_at_us=opening.opened_at_us,
            opening_hash=opening.opening_hash,
            signature=opening.signature,
        )
    )


def row_record(sealed: SealedRow) -> audit_pb2.ExportRecord:
    return audit_pb2.ExportRecord(row=row_message(sealed))


def head_record(head: Head, signature: bytes) -> audit_pb2.ExportRecord:
    return audit_pb2.ExportRecord(
        head=audit_pb2.AuditHead(
            chain_id=head.chain_id,
            chain_number=head.chain_number,
            seq=head.seq,
            hash=head.hash,
            time_us=head.time_us,
            signature=signature,
        )
    )


def month_end_record(signed: SignedMonthEnd) -> audit_pb2.ExportRecord:
    end = signed.end
    return audit_pb2.ExportRecord(
        month_end=audit_pb2.AuditMonthEnd(
            chain_id=end.chain_id,
            chain_number=end.chain_number,
            seq=end.seq,
            hash=end.hash,
            ends_us=end.ends_us,
            time_us=end.time_us,
            signature=signed.signature,
        )
    )


def grant_head_record(signed: SignedGrantHead) -> audit_pb2.ExportRecord:
    return audit_pb2.ExportRecord(grant_head=grant_head_message(signed))


def received_record(received: ReceivedHead) -> audit_pb2.ExportRecord:
    return audit_pb2.ExportRecord(
        received_head=audit_pb2.ReceivedGrantHead(
            peer_id=str(received.peer_id),
            connection=received.connection,
            received_at_us=received.received_at_us,
            head=grant_head_message(received.signed),
        )
    )
