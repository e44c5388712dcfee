"""The certificate that an enrollment brought, as a person reads it."""

from collections.abc import Sequence
from datetime import datetime

from mosaic.grants.v1.types_pb2 import Certificate
from mosaic_common.oids import GRANT_ID_OID, SUBJECT_USER_ID_OID
from mosaic_common.x509 import IssuedCertificate
from rich.console import RenderableType

from mosaic_cli.documents import state_of
from mosaic_cli.tables import Cell, exactly, identifier, rows, state, when
from mosaic_cli.times import moment


def issued_lines(certificate: IssuedCertificate, now: datetime) -> list[tuple[str, Cell]]:
    return [
        ("grant id", identifier(str(certificate.grant_id)) + f"   (OID {GRANT_ID_OID})"),
        ("subject user id", identifier(str(certificate.subject_user_id)) + f"   (OID {SUBJECT_USER_ID_OID})"),
        ("fingerprint", identifier(certificate.fingerprint.hex())),
        ("serial", str(certificate.serial)),
        ("valid from", exactly(certificate.not_before, now)),
        ("valid until", exactly(certificate.not_after, now)),
    ]


def certificate_rows(certificates: Sequence[Certificate], now: datetime) -> RenderableType:
    return rows(
        ("FINGERPRINT", "STATE", "VALID FROM", "VALID UNTIL"),
        (
            (
                identifier(each.fingerprint.hex()),
                state(state_of(each, "state")),
                when(moment(each.not_before_us), now),
                when(moment(each.not_after_us), now),
            )
            for each in certificates
        ),
        empty="No certificate yet.",
        whole=("FINGERPRINT", "STATE", "VALID FROM", "VALID UNTIL"),
    )
