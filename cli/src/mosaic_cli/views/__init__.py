"""The tables of each group of commands."""
