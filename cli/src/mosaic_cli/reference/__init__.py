"""The reference documents that are generated: nothing that a command needs."""
