"""Everything that speaks gRPC. The one place that imports grpc.

TLS 1.3 only: the Python API has no minimum version, and every listener here has an EC key. With nothing but an RSA
suite offered for TLS 1.2, no 1.2 handshake finds a usable suite; 1.3 suites are not affected. The C core reads the
variable once, when grpc is imported, so it is set here, before anything of this package imports grpc.
"""

import logging
import os

os.environ["GRPC_SSL_CIPHER_SUITES"] = "ECDHE-RSA-AES128-GCM-SHA256"
# Bytes that are not TLS would otherwise be written to the log, line by line, before anyone is authenticated.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
# Nor what the other side sent and the library cannot read, with a traceback, past our own log and what it redacts.
logging.getLogger("grpc").setLevel(logging.CRITICAL + 1)
