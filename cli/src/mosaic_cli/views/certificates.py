"""Certificates, as a person reads them."""

from collections.abc import Sequence
from datetime import datetime

from mosaic.grants.v1.types_pb2 import Certificate
from mosaic_common.oids import GRANT_ID_OID, SUBJECT_USER_ID_OID
from rich.console import RenderableType

from mosaic_cli.certificates import EnrolledCertificate
from mosaic_cli.documents import state_of
from mosaic_cli.tables import Cell, exactly, identifier, rows, state, when
from mosaic_cli.times import moment


def enrolled_lines(certificate: EnrolledCertificate, now: datetime) -> list[tuple[str, Cell]]:
    """The certificate that an enrollment brought."""
    return [
        ("grant id", identifier(certificate.grant_id) + f"   (OID {GRANT_ID_OID})"),
        ("subject user id", identifier(certificate.subject_user_id) + f"   (OID {SUBJECT_USER_ID_OID})"),
        ("fingerprint", identifier(certificate.fingerprint)),
        ("serial", certificate.serial),
        ("valid from", exactly(certificate.not_before, now)),
        ("valid until", exactly(certificate.not_after, now)),
    ]


def certificate_rows(certificates: Sequence[Certificate], now: datetime) -> RenderableType:
    return rows(
        ("FINGERPRINT", "STATE", "VALID FROM", "VALID UNTIL", "ENDED"),
        (
            (
                identifier(each.fingerprint.hex()),
                state(state_of(each, "state")),
                when(moment(each.not_before_us), now),
                when(moment(each.not_after_us), now),
                when(_ended(each), now),
            )
            for each in certificates
        ),
        empty="No certificate yet.",
        whole=("FINGERPRINT", "STATE", "VALID FROM", "VALID UNTIL", "ENDED"),
    )


def _ended(certificate: Certificate) -> datetime | None:
    """When it was revoked or superseded; it may have expired without either."""
    for field in ("revoked_at_us", "superseded_at_us"):
        if certificate.HasField(field):
            return moment(getattr(certificate, field))
    return None
