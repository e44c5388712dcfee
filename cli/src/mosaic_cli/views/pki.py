"""The service PKI, as a person reads it."""

from collections.abc import Iterator
from datetime import datetime

from mosaic_common.pki import IdentityDescription, PkiDescription
from rich.console import RenderableType
from rich.text import Text

from mosaic_cli.tables import Cell, details, exactly, identifier, plain, rows, section, stacked, when


def pki_sheet(pki: PkiDescription, now: datetime) -> RenderableType:
    title = Text.assemble(("Service PKI of ", "bold"), plain(pki.gateway), ("  at ", "dim"), plain(pki.public_host))
    return stacked(
        details(
            title,
            [
                ("folder", str(pki.root_certificate.parent.parent)),
                ("root", str(pki.root_certificate)),
                ("fingerprint", identifier(pki.root_fingerprint_sha256)),
                ("valid until", exactly(pki.root_not_after, now)),
            ],
        ),
        section("Identities", _identities(pki, now)),
    )


def _identities(pki: PkiDescription, now: datetime) -> RenderableType:
    return rows(
        ("IDENTITY", "LEAF", "VALID UNTIL", "NAMES"),
        (line for identity in pki.identities for line in _leaves(identity, now)),
        empty="No identities.",
        whole=("IDENTITY", "LEAF", "VALID UNTIL"),
    )


def _leaves(identity: IdentityDescription, now: datetime) -> Iterator[tuple[Cell, ...]]:
    yield (
        identity.name,
        "internal",
        when(identity.internal.not_after, now),
        ", ".join(identity.internal.names),
    )
    if identity.public is not None:
        yield (
            "",
            "public",
            when(identity.public.not_after, now),
            ", ".join(identity.public.names),
        )
