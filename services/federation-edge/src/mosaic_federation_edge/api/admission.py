"""Step 0 of a federated read: who is calling, and does he call too often.

A limit is only looked at while the call has sent no message, and spent from once its message is there: otherwise silent or reset
streams, which cost their sender nothing, would spend what an honest caller behind the same address needs.
"""

from typing import Final

from mosaic_common.clock import Clock
from mosaic_common.errors import CertificateRefused, Layer, Reason
from mosaic_common.identity import PeerCertificate, PeerCertificates
from mosaic_common.rpc.call import Call, Transport
from mosaic_common.source_address import source_key

from mosaic_federation_edge.api.handshakes import Handshakes
from mosaic_federation_edge.domain.rate_limit import RateLimiter


class Admission:
    """Authenticates the calls of the peer listener."""

    def __init__(
        self,
        certificates: PeerCertificates,
        handshakes: Handshakes,
        clock: Clock,
        *,
        sources: RateLimiter,
        fingerprints: RateLimiter,
    ) -> None:
        self._certificates: Final = certificates
        self._handshakes: Final = handshakes
        self._clock: Final = clock
        self._sources: Final = sources
        self._fingerprints: Final = fingerprints

    def authenticate(self, call: Call, transport: Transport) -> PeerCertificate:
        """Return what the client certificate says; TLS has verified its chain to the federation root.

        Raises:
            RateLimited: the source or the certificate has called too often, layer SOURCE.
            CertificateRefused: no client certificate of a peer, or not valid now.
        """
        self._handshakes.made_a_call(call.connection)
        source = source_key(call.source_address)
        self._sources.check(source)
        try:
            certificate = self._read(transport)
        except CertificateRefused:
            self._sources.spend(source)  # this refusal leaves a row of its own, whether a message comes or not
            raise
        call.caller = certificate
        call.facts.grant_id = certificate.grant_id
        call.facts.subject_user_id = certificate.subject_user_id
        self._fingerprints.check(certificate.fingerprint.hex())
        return certificate

    def admit(self, call: Call) -> PeerCertificate:
        """Take what this call costs from both limits, now that its message is there.

        Raises:
            RateLimited: layer SOURCE.
        """
        assert isinstance(call.caller, PeerCertificate)
        self._sources.spend(source_key(call.source_address))
        self._fingerprints.spend(call.caller.fingerprint.hex())
        return call.caller

    def _read(self, transport: Transport) -> PeerCertificate:
        if transport.certificate_pem is None:
            raise CertificateRefused(
                Reason.CERTIFICATE_NOT_ACCEPTED, "No client certificate was presented.", layer=Layer.CERTIFICATE
            )
        return self._certificates.get(transport.certificate_pem, self._clock.now())
