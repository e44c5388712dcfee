"""Names that roles.sql, privileges.sql and the migrations spell out and code must not spell otherwise."""

from typing import Final

SCHEMA: Final = "federation"
APPLICATION_SCHEMA: Final = "public"

OWNER: Final = "mosaic_owner"
READ_DEFINER: Final = "mosaic_read_definer"
AUDIT_DEFINER: Final = "mosaic_audit_definer"
SERVICE_ROLES: Final = ("mosaic_grants", "mosaic_edge_inbound", "mosaic_edge_outbound")
LOGIN_ROLES: Final = (OWNER, *SERVICE_ROLES)
