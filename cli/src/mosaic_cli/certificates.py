"""The certificate that an enrollment brought, whether it is in our hands or our gateway tells of it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Self

from mosaic.grants.v1.types_pb2 import CERTIFICATE_STATE_ACTIVE, Peer
from mosaic_common.x509 import IssuedCertificate

from mosaic_cli.times import moment


@dataclass(frozen=True, slots=True)
class EnrolledCertificate:
    """What two operators compare on the phone.

    Attributes:
        grant_id, subject_user_id: what its two OIDs bear.
        fingerprint: SHA-256 of the DER, hex.
        serial: decimal.
    """

    grant_id: str
    subject_user_id: str
    fingerprint: str
    serial: str
    not_before: datetime
    not_after: datetime

    @classmethod
    def of(cls, issued: IssuedCertificate) -> Self:
        return cls(
            str(issued.grant_id),
            str(issued.subject_user_id),
            issued.fingerprint.hex(),
            str(issued.serial),
            issued.not_before,
            issued.not_after,
        )

    @classmethod
    def find_active(cls, connection: Peer) -> Self | None:
        """The one that this connection presents, as our gateway verified and recorded it."""
        for each in connection.certificates:
            if each.state == CERTIFICATE_STATE_ACTIVE:
                return cls(
                    connection.remote_grant_id,
                    connection.remote_subject_user_id,
                    each.fingerprint.hex(),
                    each.serial,
                    moment(each.not_before_us),
                    moment(each.not_after_us),
                )
        return None
