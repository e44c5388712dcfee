"""The schema that this release reads and writes."""

from typing import Final

SCHEMA_VERSION: Final = "0008"
"""The newest migration. A service refuses to start when federation.schema_version() answers anything else."""
