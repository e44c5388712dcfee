"""What the parser does with hostile DER.

`cryptography` parses lazily and raises whatever went wrong, at attribute access too. Whoever touches an unverified certificate or
CSR catches UNPARSABLE around it and says what it means there.
"""

from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

UNPARSABLE: Final = (
    ValueError,
    TypeError,
    OverflowError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    # Its hints (an over-long name, a serial of zero) are exceptions wherever warnings are errors.
    UserWarning,
)
