"""The offline service PKI of one gateway."""

from mosaic_common.pki.authority import init, issue
from mosaic_common.pki.inventory import IdentityDescription, LeafDescription, PkiDescription, describe
from mosaic_common.pki.layout import IdentityFolder, PkiDirectory

__all__ = [
    "IdentityDescription",
    "IdentityFolder",
    "LeafDescription",
    "PkiDescription",
    "PkiDirectory",
    "describe",
    "init",
    "issue",
]
