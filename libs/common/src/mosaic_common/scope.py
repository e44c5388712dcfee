"""What a grant shows: the scope document, checked completely.

The shape is a pydantic model, which also gives the published JSON Schema. What relates two places of the document (duplicates,
overlap, filters without a resource) is looked for in the raw document as well, because a model's own validator never runs once a
field has failed, and the author of a scope wants every mistake at once.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, Final, NoReturn, Self
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from mosaic_common.errors import Layer, Reason, ScopeRefused, Violation
from mosaic_common.resources import REGISTRY, SENSITIVE

MAX_ROWS_PER_QUERY: Final = 10_000
MAX_DOCUMENT_BYTES: Final = 64 * 1024

_UUID_PATTERN: Final = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_RULE: Final = "scope_rule"
_CONTRADICTION: Final = "scope_contradiction"


def _refuse(sentence: str) -> NoReturn:
    raise PydanticCustomError(_RULE, "{sentence}", {"sentence": sentence})


def _known_resource(value: str) -> str:
    if value not in REGISTRY:
        _refuse(f"must be one of {', '.join(REGISTRY)}")
    return value


def _canonical_uuid(value: object) -> UUID:
    """One spelling only: two spellings of one team would pass for two."""
    if isinstance(value, str) and re.fullmatch(_UUID_PATTERN, value):
        return UUID(value)
    _refuse("must be a team id: a UUID of 36 lower-case characters")


def _array(value: object) -> tuple[object, ...]:
    if isinstance(value, list):
        return tuple(value)
    _refuse("must be a list")


def _filled_array(value: object) -> tuple[object, ...]:
    """Not left to min_length, which counts what is left after the unknown names and so reports one mistake as two."""
    return _array(value) or _refuse("must name at least one resource")


ResourceName = Annotated[str, AfterValidator(_known_resource), WithJsonSchema({"type": "string", "enum": list(REGISTRY)})]
TeamId = Annotated[
    UUID,
    BeforeValidator(_canonical_uuid),
    WithJsonSchema({"type": "string", "format": "uuid", "pattern": f"^{_UUID_PATTERN}$"}),
]
_UNIQUE: Final[dict[str, JsonValue]] = {"uniqueItems": True}


class Filter(BaseModel):
    """Narrows one resource to some of what the subject natively sees."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    include_teams: Annotated[tuple[TeamId, ...], BeforeValidator(_array)] = Field(
        default=(),
        description="Teams whose rows are shown; absent or empty shows no team's rows.",
        json_schema_extra=_UNIQUE,
    )
    include_personal: bool = Field(default=True, description="Whether rows that the subject owns and that have no team are shown.")


class Scope(BaseModel):
    """An accepted scope. Obtained from parse_scope or parse_scope_json."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        json_schema_extra={"title": "Grant scope", "description": "What a federation grant shows."},
    )

    resources: Annotated[tuple[ResourceName, ...], BeforeValidator(_filled_array)] = Field(
        description="What the grant shows.", json_schema_extra={**_UNIQUE, "minItems": 1}
    )
    excluded_resources: Annotated[tuple[ResourceName, ...], BeforeValidator(_array)] = Field(
        default=(), description="What it must never show; none of them may be in resources.", json_schema_extra=_UNIQUE
    )
    filters: Annotated[Mapping[ResourceName, Filter], AfterValidator(MappingProxyType)] = Field(
        default_factory=lambda: MappingProxyType({}),
        description="Per resource; each key must be in resources. A resource without a filter shows everything the subject sees.",
    )
    max_rows_per_query: int = Field(ge=1, le=MAX_ROWS_PER_QUERY, description="Bounds one query over all its pages.")

    @model_validator(mode="after")
    def _hold_together(self) -> Self:
        if any(_relations(self.to_document())):
            raise PydanticCustomError(_CONTRADICTION, "must not contradict itself")
        return self

    @property
    def sensitive_resources(self) -> tuple[str, ...]:
        """Those that need an explicit approval, in scope order."""
        return tuple(name for name in self.resources if name in SENSITIVE)

    def grants(self, resource: str) -> bool:
        return resource in self.resources and resource not in self.excluded_resources

    def team_references(self) -> Iterator[tuple[str, UUID]]:
        """Every team that the scope names, each with the JSON Pointer at which it stands in the document."""
        for resource, rule in self.filters.items():
            for position, team in enumerate(rule.include_teams):
                yield _pointer("filters", resource, "include_teams", position), team

    def to_document(self) -> dict[str, object]:
        """The canonical document: every default written out, keys in a fixed order, lists in the author's."""
        return {
            "resources": list(self.resources),
            "excluded_resources": list(self.excluded_resources),
            "filters": {
                resource: {
                    "include_teams": [str(team) for team in self.filters[resource].include_teams],
                    "include_personal": self.filters[resource].include_personal,
                }
                for resource in REGISTRY
                if resource in self.filters
            },
            "max_rows_per_query": self.max_rows_per_query,
        }

    def to_json(self) -> str:
        """The canonical document as compact ASCII JSON."""
        return json.dumps(self.to_document(), separators=(",", ":"))


def parse_scope(document: object) -> Scope:
    """Return the scope that a decoded JSON document describes.

    Raises:
        ScopeRefused: with every violation of shape and of relation; nothing else is raised.
    """
    try:
        return Scope.model_validate(document)
    except ValidationError as refused:
        raise scope_refused([*_shape(refused), *_relations(document)]) from None


def parse_scope_json(text: str | bytes) -> Scope:
    """Return the scope that UTF-8 JSON text of at most 64 KiB describes.

    Raises:
        ScopeRefused: also for what a decoder would silently repair: a key given twice is the author's contradiction.
    """
    try:
        unicode_text = text.decode() if isinstance(text, bytes) else text
        size = len(unicode_text.encode())
    except UnicodeError:
        raise scope_refused([Violation("", "must be UTF-8 text")]) from None
    if size > MAX_DOCUMENT_BYTES:
        raise scope_refused([Violation("", "must be at most 64 KiB")])
    try:
        document: object = json.loads(unicode_text, object_pairs_hook=_Object)
    except json.JSONDecodeError as bad:
        where = f"line {bad.lineno}, column {bad.colno}"
        raise scope_refused([Violation("", f"must be JSON: {bad.msg.lower()} at {where}")]) from None
    except (ValueError, RecursionError):  # an integer of thousands of digits, a nesting of thousands of levels
        raise scope_refused([Violation("", "must be JSON of sane size: a number or the nesting is far too large")]) from None
    repeated = list(_repeated_keys(document))
    try:
        scope = parse_scope(document)
    except ScopeRefused as refused:
        raise scope_refused([*repeated, *refused.violations]) from None
    if repeated:
        raise scope_refused(repeated)
    return scope


def scope_refused(violations: Sequence[Violation]) -> ScopeRefused:
    """The refusal for these violations, for what only a gateway can know (a team that does not exist) too."""
    problems = "1 problem" if len(violations) == 1 else f"{len(violations)} problems"
    return ScopeRefused(
        Reason.SCOPE_INVALID,
        f"The scope has {problems}.",
        remedy="Correct what is listed and check it with `mosaic federation scope validate FILE`.",
        layer=Layer.SCOPE,
        violations=violations,
    )


def scope_json_schema() -> dict[str, Any]:
    """JSON Schema, draft 2020-12. It cannot say that filters and exclusions must agree with resources; parse_scope does."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Scope.model_json_schema()}


def _pointer(*path: str | int) -> str:
    """RFC 6901. Keys come from whoever wrote the document: bounded, and a lone surrogate, which no message can carry, escaped."""
    return "".join(f"/{_readable(str(step)).replace('~', '~0').replace('/', '~1')}" for step in path)


def _readable(key: str) -> str:
    shown = key if len(key) <= 64 else f"{key[:63]}…"
    return shown.encode("utf-8", "backslashreplace").decode()


def _shape(refused: ValidationError) -> Iterator[Violation]:
    for error in refused.errors(include_url=False, include_input=False):
        if error["type"] == _CONTRADICTION:
            continue  # _relations says where
        at_key = error["loc"][-1:] == ("[key]",) and error["type"] != "extra_forbidden"
        path = error["loc"][:-1] if at_key else error["loc"]
        yield Violation(_pointer(*path), _sentence(error["type"], error["msg"], path))


_SENTENCES: Final[Mapping[str, str]] = {
    "missing": "is required",
    "extra_forbidden": "is not a key of a scope",
    "invalid_key": "is not a key of a scope",
    "string_unicode": "must be Unicode text: it holds half of a surrogate pair",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "mapping_type": "must be an object",
    "dict_type": "must be an object",
    "string_type": f"must be one of {', '.join(REGISTRY)}",
    "bool_type": "must be true or false",
}


def _sentence(kind: str, message: str, path: Sequence[str | int]) -> str:
    if kind == _RULE:
        return message
    if kind in _SENTENCES:
        return _SENTENCES[kind]
    if path == ("max_rows_per_query",):
        return f"must be a whole number from 1 to {MAX_ROWS_PER_QUERY}"
    return "has a value that a scope cannot hold"


def _relations(document: object) -> Iterator[Violation]:
    """What two places of the document say against each other. Takes any value; what has the wrong shape is not compared."""
    resources = _strings(document, "resources")
    excluded = _strings(document, "excluded_resources")
    yield from _duplicates(resources, "resources")
    yield from _duplicates(excluded, "excluded_resources")
    named = set(resources.values())
    for position, name in excluded.items():
        if name in named:
            yield Violation(_pointer("excluded_resources", position), "is in resources too")
    filters = _member(document, "filters")
    if not isinstance(filters, dict):
        return
    for key, rule in filters.items():
        if named and key in REGISTRY and key not in named:
            yield Violation(_pointer("filters", key), "filters a resource that is not in resources")
        yield from _duplicates(_strings(rule, "include_teams"), "filters", str(key), "include_teams")


def _member(document: object, key: str) -> object:
    return document.get(key) if isinstance(document, dict) else None


def _strings(document: object, key: str) -> dict[int, str]:
    """The strings of a list, by position; empty when it is no list."""
    values = _member(document, key)
    return {position: value for position, value in enumerate(values) if isinstance(value, str)} if isinstance(values, list) else {}


def _duplicates(values: Mapping[int, str], *path: str) -> Iterator[Violation]:
    first: dict[str, int] = {}
    for position, value in values.items():
        if value in first:
            yield Violation(_pointer(*path, position), f"repeats {_pointer(*path, first[value])}")
        first.setdefault(value, position)


class _Object(dict[str, object]):
    """A JSON object that remembers which of its keys were given more than once."""

    def __init__(self, pairs: Sequence[tuple[str, object]]) -> None:
        super().__init__(pairs)
        self.repeated = [key for key, times in Counter(key for key, _ in pairs).items() if times > 1]


def _repeated_keys(document: object) -> Iterator[Violation]:
    pending: list[tuple[tuple[str | int, ...], object]] = [((), document)]
    while pending:  # no recursion: the nesting is the author's choice
        path, value = pending.pop()
        if isinstance(value, _Object):
            yield from (Violation(_pointer(*path, key), "is given more than once") for key in value.repeated)
            pending.extend(((*path, key), member) for key, member in value.items())
        elif isinstance(value, list):
            pending.extend(((*path, position), member) for position, member in enumerate(value))
