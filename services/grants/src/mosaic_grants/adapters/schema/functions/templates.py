"""The SQL files: whole functions beside this module, what they share in parts."""

from importlib import resources


def function(name: str, **values: str) -> str:
    """A file with what differs filled in. Nothing that is filled in comes from outside the code."""
    return _fill(f"{name}.sql", values)


def part(name: str, **values: str) -> str:
    return _fill(f"parts/{name}.sql", values)


def _fill(path: str, values: dict[str, str]) -> str:
    text = resources.files(__package__).joinpath(*path.split("/")).read_text(encoding="utf-8")
    return text.format(**values).rstrip("\n")
