"""The program `mosaic`."""

from mosaic_cli.app import app
from mosaic_cli.output import survive_narrow_encodings


def main() -> None:
    survive_narrow_encodings()
    app(prog_name="mosaic")


if __name__ == "__main__":
    main()
