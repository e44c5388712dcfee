"""The reference of the scope document, read from its JSON Schema."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from mosaic_common.resources import REGISTRY
from mosaic_common.scope import scope_json_schema

from mosaic_cli.reference.markdown import GENERATED, code, paragraphs, table

EXAMPLE: Final[Mapping[str, Any]] = {
    "resources": ["tasks", "notes", "memory"],
    "excluded_resources": ["credentials", "api_keys"],
    "filters": {
        "tasks": {"include_teams": ["0d6c1f52-3f0e-4c34-9b61-8a1f7a2c9e10"], "include_personal": True},
        "notes": {"include_teams": [], "include_personal": False},
    },
    "max_rows_per_query": 500,
}
_INTRODUCTION: Final = """\
What a grant shows: one JSON object in UTF-8, at most 64 KiB. Unknown keys, repeated keys and nulls are refused at every level, and
all problems are reported at once, each with its place. `mosaic federation scope validate FILE` checks a document without a gateway,
`mosaic federation scope schema` prints the JSON Schema that this page is made from. `grant create` also refuses a team that this
gateway does not know, or that the subject is no member of."""


def scope_reference() -> str:
    schema = scope_json_schema()
    return paragraphs(
        GENERATED,
        "# Scope",
        _INTRODUCTION,
        table(("Field", "Type", "Rule", "Example"), _fields(schema, schema["$defs"])),
        "## Resources",
        table(("Resource", "What a peer may get of a row", ""), _resources()),
        "Every row also carries its `id` and `updated_at`. A secret column is never read. A sensitive resource needs "
        "`grant create --approve-sensitive`, which is recorded with who approved.",
        "## Example",
        f"```json\n{json.dumps(EXAMPLE, indent=2)}\n```",
    )


def _fields(schema: Mapping[str, Any], definitions: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, field in schema["properties"].items():
        place = (*path, name)
        yield code(".".join(place)), _type(field), _rule(field, required=name in schema.get("required", ())), _example(place)
        if member := field.get("additionalProperties"):
            yield from _fields(definitions[member["$ref"].rpartition("/")[2]], definitions, (*place, "*"))


def _type(field: Mapping[str, Any]) -> str:
    match field:
        case {"type": "array", "items": {"enum": _}}:
            return "list of resources"
        case {"type": "array", "items": {"format": "uuid"}}:
            return "list of team ids: UUIDs, 36 lower-case characters"
        case {"type": "object"}:
            return "object: resource → filter"
        case {"type": "integer"}:
            return "whole number"
        case _:
            return str(field["type"])


def _rule(field: Mapping[str, Any], *, required: bool) -> str:
    facts = [
        "required" if required else f"default {code(json.dumps(field.get('default', {})))}",
        *(["not empty"] if field.get("minItems") else []),
        *(["no duplicates"] if field.get("uniqueItems") else []),
        *([f"{field['minimum']:,} to {field['maximum']:,}"] if "minimum" in field else []),
    ]
    return f"{field['description']} ({', '.join(facts)})"


def _example(place: tuple[str, ...]) -> str:
    value: Any = EXAMPLE
    for step in place:
        value = next(iter(value.values())) if step == "*" else value[step]
    return code(json.dumps(value)) if not isinstance(value, dict) else "below"


def _resources() -> Iterator[tuple[str, ...]]:
    for resource in REGISTRY.values():
        columns = ", ".join(code(column.name) for column in resource.returned)
        yield code(resource.name), columns, "sensitive" if resource.sensitive else ""
