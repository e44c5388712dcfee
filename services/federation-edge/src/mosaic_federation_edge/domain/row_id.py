"""The id of a row, as a caller names it."""

from uuid import UUID

from mosaic_common.errors import InvalidInput, Layer, Reason, Violation


def parse_row_id(unverified: str) -> UUID:
    """Read the id of a get.

    Raises:
        InvalidInput: REQUEST_INVALID, not a UUID in canonical text.
    """
    try:
        row_id = UUID(unverified)
    except ValueError:
        row_id = None
    if row_id is None or str(row_id) != unverified:
        raise InvalidInput(
            Reason.REQUEST_INVALID,
            "There is no such id.",
            layer=Layer.REQUEST,
            violations=[Violation("id", "must be a UUID in canonical text, 36 lower-case characters")],
        )
    return row_id
