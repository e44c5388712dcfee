"""`python -m mosaic_cli.reference DIR` writes the generated reference documents into a folder."""

import sys
from pathlib import Path

from mosaic_cli.reference.commands import commands_reference
from mosaic_cli.reference.scope import scope_reference

DOCUMENTS = {"cli.md": commands_reference, "scope.md": scope_reference}


def main(folder: Path) -> None:
    for name, generate in DOCUMENTS.items():
        (folder / name).write_text(generate(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
