"""What the embedded authority revoked, and the list that says so.

revoked/              one empty file per serial, named by its decimal text
revocation-list.der   the last list that was published; its number is the memory that the next one counts from
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from mosaic_common.clock import Clock

from mosaic_ca_broker.adapters.embedded_ca_folder import EmbeddedCaFolder

_LIST_LIFETIME: Final = timedelta(hours=24)
_LIST_RENEWAL: Final = timedelta(minutes=15)


class EmbeddedRevocations:
    """One folder, which several processes may share."""

    def __init__(self, folder: EmbeddedCaFolder, clock: Clock) -> None:
        self._folder = folder
        self._clock = clock
        self._published = folder.path / "revocation-list.der"

    def add(self, serial: int) -> None:
        """Revoke a serial; again changes nothing. Raises OSError where the folder cannot be written."""
        (self._folder.path / "revoked" / str(serial)).touch()

    def publish(self) -> bytes:
        """Return a current list in DER, the last one while it says all and is fresh. Raises OSError like ``add``."""
        with self._alone():
            last = self._find_last()
            revoked = self._revoked()
            if last is not None and self._is_fresh(last) and {entry.serial_number for entry in last} == revoked.keys():
                return last.public_bytes(Encoding.DER)
            number = 0 if last is None else last.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number + 1
            der = self._sign(number, revoked)
            # Kept before anybody sees it, whole or not at all: a number that was shown is never given again.
            unfinished = self._published.with_suffix(".new")
            unfinished.write_bytes(der)
            unfinished.replace(self._published)
            return der

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the folder against other processes, and other threads of this one."""
        descriptor = os.open(self._folder.path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _find_last(self) -> x509.CertificateRevocationList | None:
        return x509.load_der_x509_crl(self._published.read_bytes()) if self._published.exists() else None

    def _revoked(self) -> dict[int, datetime]:
        files = (self._folder.path / "revoked").iterdir()
        return {int(file.name): datetime.fromtimestamp(int(file.stat().st_mtime), UTC) for file in files}

    def _is_fresh(self, last: x509.CertificateRevocationList) -> bool:
        return timedelta() <= self._clock.now() - last.last_update_utc < _LIST_RENEWAL

    def _sign(self, number: int, revoked: dict[int, datetime]) -> bytes:
        now, key = self._clock.now().replace(microsecond=0), self._folder.key
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._folder.intermediate.subject)
            .last_update(now)
            .next_update(now + _LIST_LIFETIME)
            .add_extension(x509.CRLNumber(number), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        )
        for serial, since in sorted(revoked.items()):
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(since).build()
            builder = builder.add_revoked_certificate(entry)
        return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
