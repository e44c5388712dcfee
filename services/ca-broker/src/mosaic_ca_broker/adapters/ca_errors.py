"""Typed errors of an authority, each with a remedy, each saying whether a certificate may exist now.

ca_may_have_signed = false   a refusal that cannot have signed, or nothing was sent: the claim may be let go
ca_may_have_signed = true    everything else: the claim stays with its CSR, the serial goes to the revocation outbox
"""

from mosaic_common.errors import CA_MAY_HAVE_SIGNED, CaLied, CaRefused, CaUnreachable, Layer, Reason


def refused(message: str, *, remedy: str, may_have_signed: bool) -> CaRefused:
    return CaRefused(
        Reason.CA_REFUSED,
        message,
        remedy=remedy,
        layer=Layer.CA,
        metadata={CA_MAY_HAVE_SIGNED: "true" if may_have_signed else "false"},
    )


def unreachable(message: str, *, remedy: str, may_have_signed: bool = True) -> CaUnreachable:
    return CaUnreachable(
        Reason.CA_UNREACHABLE,
        message,
        remedy=remedy,
        layer=Layer.CA,
        metadata={CA_MAY_HAVE_SIGNED: "true" if may_have_signed else "false"},
    )


def lied(message: str, *, remedy: str) -> CaLied:
    return CaLied(Reason.CA_LIED, message, remedy=remedy, layer=Layer.CA, metadata={CA_MAY_HAVE_SIGNED: "true"})
