"""Fixtures of the real servers."""

from tests.support.postgres import database, module_database, postgres_server

__all__ = ["database", "module_database", "postgres_server"]
