"""The reference documents are what the commands and the schema say now."""

from pathlib import Path

import pytest
from mosaic_cli.reference.__main__ import DOCUMENTS
from mosaic_cli.reference.scope import EXAMPLE
from mosaic_common.scope import parse_scope

FOLDER = Path(__file__).parents[2] / "docs" / "reference"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_committed_document_is_the_generated_one(name: str) -> None:
    """A command or a field that changes without its reference fails here: `make reference`."""
    assert (FOLDER / name).read_text(encoding="utf-8") == DOCUMENTS[name]()


def test_the_example_of_the_scope_reference_is_a_scope() -> None:
    """Whoever copies it gets what it shows."""
    assert parse_scope(dict(EXAMPLE)).to_document() == EXAMPLE


def test_every_command_has_a_sentence_and_every_option_a_meaning() -> None:
    """Nothing is listed without being explained."""
    sections = DOCUMENTS["cli.md"]().split("\n## mosaic ")[1:]
    assert len(sections) > 30
    for section in sections:
        assert section.split("\n\n")[1].rstrip(".:)").split()[0][0].isupper(), section
        assert not [line for line in section.splitlines() if line.startswith("| `") and line.endswith("|  |")], section
