"""One transaction over the whole ledger."""

from datetime import datetime
from typing import Any

from mosaic_common.audit import AuditRow

from mosaic_grants.adapters.ledger.audit_export import AuditExport
from mosaic_grants.adapters.ledger.audit_rows import AuditRows
from mosaic_grants.adapters.ledger.certificates import Certificates
from mosaic_grants.adapters.ledger.connections import Connections
from mosaic_grants.adapters.ledger.grants import Grants
from mosaic_grants.adapters.ledger.outbox import Outbox
from mosaic_grants.adapters.ledger.peers import Peers
from mosaic_grants.adapters.ledger.received_heads import ReceivedHeads
from mosaic_grants.adapters.ledger.records import Records
from mosaic_grants.adapters.ledger.revocation_lists import RevocationLists
from mosaic_grants.adapters.ledger.seals import Seals
from mosaic_grants.adapters.ledger.sight import Sight
from mosaic_grants.adapters.ledger.statements import Statements
from mosaic_grants.adapters.ledger.tokens import Tokens
from mosaic_grants.adapters.ledger.users import Users


class LedgerTransaction:
    """Adapter of ports.Transaction. ``now`` is the database's clock at its beginning."""

    def __init__(self, connection: Any, now: datetime) -> None:
        statements = Statements(connection)
        self.now = now
        self.audit_rows: list[AuditRow] = []
        self.users = Users(statements)
        self.peers = Peers(statements)
        self.grants = Grants(statements)
        self.tokens = Tokens(statements)
        self.certificates = Certificates(statements)
        self.connections = Connections(statements, self.peers)
        self.outbox = Outbox(statements)
        self.revocation_lists = RevocationLists(statements)
        self.records = Records(statements)
        self.received_heads = ReceivedHeads(statements)
        self.seals = Seals(statements)
        self.audit_log = AuditRows(statements)
        self.audit_export = AuditExport(statements)
        self.sight = Sight(statements)

    def audit(self, row: AuditRow) -> None:
        """Have this row appended in the same transaction."""
        self.audit_rows.append(row)
