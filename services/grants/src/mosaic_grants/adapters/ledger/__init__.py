"""The ledger in PostgreSQL: one module for each kind of row. Every transition is one UPDATE whose WHERE clause is its guard.

Rows are locked in one order everywhere, peer → grant → token → certificate, so that no two transactions wait for each other.
"""
