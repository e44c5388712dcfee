"""Under which key rows are sealed, and which keys the replicas of grants can read."""

from mosaic_grants.adapters.ledger.statements import Statements


class Seals:
    def __init__(self, statements: Statements) -> None:
        self._sql = statements
