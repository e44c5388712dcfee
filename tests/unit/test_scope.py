"""The scope document: every mistake at once, and nothing that is silently repaired."""

import json
from typing import Any, Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mosaic_common.errors import Layer, Reason, ScopeRefused
from mosaic_common.resources import REGISTRY
from mosaic_common.scope import MAX_DOCUMENT_BYTES, Scope, parse_scope, parse_scope_json, scope_json_schema
from pydantic import ValidationError

from tests.support.mutations import FUZZ, mutated, mutated_text

TEAM: Final = "0c6d8a52-6f0e-4d1b-9a53-0f5b8f6d7e11"
OTHER_TEAM: Final = "7b1e2f90-11aa-4c7d-8e21-5a4b3c2d1e0f"


def scope(**changes: object) -> dict[str, Any]:
    """The example of the contract, with some of its members replaced."""
    return {
        "resources": ["tasks", "notes", "memory"],
        "filters": {
            "tasks": {"include_teams": [TEAM, OTHER_TEAM], "include_personal": True},
            "notes": {"include_personal": True, "include_teams": []},
            "memory": {"include_personal": True},
        },
        "excluded_resources": ["credentials", "api_keys"],
        "max_rows_per_query": 500,
        **changes,
    }


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in scope().items() if name not in names}


def problems(document: object) -> dict[str, str]:
    with pytest.raises(ScopeRefused) as refused:
        parse_scope(document)
    assert refused.value.reason is Reason.SCOPE_INVALID
    assert refused.value.layer is Layer.SCOPE
    return {violation.field: violation.description for violation in refused.value.violations}


def test_accepts_the_example_of_the_contract() -> None:
    """What contracts.md shows is a scope, and is understood as written there."""
    accepted = parse_scope(scope())
    assert accepted.resources == ("tasks", "notes", "memory")
    assert accepted.excluded_resources == ("credentials", "api_keys")
    assert [str(team) for team in accepted.filters["tasks"].include_teams] == [TEAM, OTHER_TEAM]
    assert accepted.filters["memory"].include_teams == ()
    assert accepted.max_rows_per_query == 500


def test_fills_in_the_defaults() -> None:
    """The shortest scope: nothing excluded, nothing filtered; an empty filter shows personal rows and no team's."""
    shortest = parse_scope({"resources": ["tasks"], "max_rows_per_query": 1})
    assert (shortest.excluded_resources, dict(shortest.filters)) == ((), {})
    rule = parse_scope(scope(filters={"tasks": {}})).filters["tasks"]
    assert (rule.include_teams, rule.include_personal) == ((), True)


@pytest.mark.parametrize(
    ("document", "at"),
    [
        pytest.param(None, {""}, id="null"),
        pytest.param([], {""}, id="a list"),
        pytest.param("{}", {""}, id="text"),
        pytest.param({}, {"/resources", "/max_rows_per_query"}, id="empty: both required fields are named"),
        pytest.param(without("resources"), {"/resources"}, id="no resources"),
        pytest.param(scope(resources=None), {"/resources"}, id="resources null"),
        pytest.param(scope(resources="tasks"), {"/resources"}, id="resources as text"),
        pytest.param(scope(resources=("tasks", "notes", "memory")), {"/resources"}, id="resources as a tuple: no JSON makes one"),
        pytest.param(scope(resources=[], filters={}), {"/resources"}, id="resources empty"),
        pytest.param(scope(resources=["users"], filters={}), {"/resources/0"}, id="unknown resource is one problem"),
        pytest.param(scope(resources=["Tasks"], filters={}), {"/resources/0"}, id="resource in another spelling"),
        pytest.param(scope(resources=["tasks", 1], filters={}), {"/resources/1"}, id="resource as a number"),
        pytest.param(scope(resources=["tasks", "notes", "tasks"], filters={}), {"/resources/2"}, id="resource twice"),
        pytest.param(scope(excluded_resources=None), {"/excluded_resources"}, id="exclusions null"),
        pytest.param(scope(excluded_resources=["x"]), {"/excluded_resources/0"}, id="unknown exclusion"),
        pytest.param(scope(excluded_resources=["api_keys"] * 2), {"/excluded_resources/1"}, id="exclusion twice"),
        pytest.param(scope(excluded_resources=["tasks"]), {"/excluded_resources/0"}, id="excluded and granted"),
        pytest.param(scope(filters=None), {"/filters"}, id="filters null"),
        pytest.param(scope(filters=[]), {"/filters"}, id="filters as a list"),
        pytest.param(scope(filters={"credentials": {}}), {"/filters/credentials"}, id="filter of what is not granted"),
        pytest.param(scope(filters={"users": {}}), {"/filters/users"}, id="filter of an unknown resource"),
        pytest.param(scope(filters={"tasks": None}), {"/filters/tasks"}, id="filter null"),
        pytest.param(scope(filters={"tasks": {"teams": []}}), {"/filters/tasks/teams"}, id="unknown key in a filter"),
        pytest.param(scope(filters={"tasks": {"[key]": []}}), {"/filters/tasks/[key]"}, id="a key named like pydantic's mark"),
        pytest.param(
            scope(filters={"tasks": {"include_teams": None}}), {"/filters/tasks/include_teams"}, id="teams null, not everything"
        ),
        pytest.param(
            scope(filters={"tasks": {"include_teams": [TEAM.upper()]}}), {"/filters/tasks/include_teams/0"}, id="upper-case UUID"
        ),
        pytest.param(
            scope(filters={"tasks": {"include_teams": [TEAM + "\n"]}}),
            {"/filters/tasks/include_teams/0"},
            id="UUID, line break",
        ),
        pytest.param(
            scope(filters={"tasks": {"include_teams": [f"{{{TEAM}}}"]}}), {"/filters/tasks/include_teams/0"}, id="UUID in braces"
        ),
        pytest.param(scope(filters={"tasks": {"include_teams": [TEAM] * 2}}), {"/filters/tasks/include_teams/1"}, id="team twice"),
        pytest.param(scope(filters={"tasks": {"include_personal": 1}}), {"/filters/tasks/include_personal"}, id="1 is not true"),
        pytest.param(
            scope(filters={"tasks": {"include_personal": "true"}}), {"/filters/tasks/include_personal"}, id="'true' is not true"
        ),
        pytest.param(without("max_rows_per_query"), {"/max_rows_per_query"}, id="no cap"),
        pytest.param(scope(max_rows_per_query=None), {"/max_rows_per_query"}, id="cap null"),
        pytest.param(scope(max_rows_per_query=True), {"/max_rows_per_query"}, id="true is not 1"),
        pytest.param(scope(max_rows_per_query=500.0), {"/max_rows_per_query"}, id="500.0 is not 500"),
        pytest.param(scope(max_rows_per_query="500"), {"/max_rows_per_query"}, id="'500' is not 500"),
        pytest.param(scope(max_rows_per_query=float("nan")), {"/max_rows_per_query"}, id="NaN"),
        pytest.param(scope(max_rows_per_query=0), {"/max_rows_per_query"}, id="cap 0"),
        pytest.param(scope(max_rows_per_query=-1), {"/max_rows_per_query"}, id="cap negative"),
        pytest.param(scope(max_rows_per_query=10_001), {"/max_rows_per_query"}, id="cap 10001"),
        pytest.param(scope(max_rows_per_query=10**40), {"/max_rows_per_query"}, id="cap beyond any integer type"),
        pytest.param(scope(rows=1), {"/rows"}, id="unknown key"),
        pytest.param(scope(**{"a/b~c": 1}), {"/a~1b~0c"}, id="unknown key, escaped as RFC 6901 says"),
        pytest.param(dict([*scope().items(), (1, 2)]), {"/1"}, id="a key that is no text"),
    ],
)
def test_refuses_and_says_where(document: object, at: set[str]) -> None:
    """Each rule of the contract, by itself, is one violation with the JSON Pointer of the place."""
    assert set(problems(document)) == at


def test_reports_all_problems_in_one_refusal() -> None:
    """Shape and relations together: whoever writes a scope corrects it once, not once per mistake."""
    found = problems(
        {
            "resources": ["tasks", "users", "tasks", "notes"],
            "excluded_resources": ["notes", "api_keys", "api_keys"],
            "filters": {"memory": {}, "tasks": {"include_teams": [TEAM, "x", TEAM], "include_personal": 0, "depth": 1}},
            "max_rows_per_query": False,
            "comment": "",
        }
    )
    assert found == {
        "/resources/1": "must be one of tasks, notes, memory, credentials, api_keys",
        "/resources/2": "repeats /resources/0",
        "/excluded_resources/0": "is in resources too",
        "/excluded_resources/2": "repeats /excluded_resources/1",
        "/filters/memory": "filters a resource that is not in resources",
        "/filters/tasks/include_teams/1": "must be a team id: a UUID of 36 lower-case characters",
        "/filters/tasks/include_teams/2": "repeats /filters/tasks/include_teams/0",
        "/filters/tasks/include_personal": "must be true or false",
        "/filters/tasks/depth": "is not a key of a scope",
        "/max_rows_per_query": "must be a whole number from 1 to 10000",
        "/comment": "is not a key of a scope",
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("", "must be JSON", id="empty"),
        pytest.param('{"resources": ["tasks"], }', "line 1, column 2", id="where the JSON breaks"),
        pytest.param(b"\xff\xfe{\x00}\x00", "must be UTF-8 text", id="UTF-16"),
        pytest.param('{"a": "\ud800"}', "must be UTF-8 text", id="text that has no encoding"),
        pytest.param('{"\\ud800": 1}', "half of a surrogate pair", id="escaped half of a surrogate pair"),
        pytest.param("[" * 50_000, "far too large", id="nesting as deep as the document"),
        pytest.param("1" * 50_000, "far too large", id="an integer of 50,000 digits"),
        pytest.param(" " * (MAX_DOCUMENT_BYTES + 1), "at most 64 KiB", id="too long"),
        pytest.param("NaN", "must be an object", id="NaN is what Python's decoder takes, not JSON"),
    ],
)
def test_refuses_text_that_is_no_document(text: str | bytes, says: str) -> None:
    """What no decoder should repair is refused with a sentence that says what is wrong with the text."""
    with pytest.raises(ScopeRefused) as refused:
        parse_scope_json(text)
    assert says in refused.value.violations[0].description


def test_refuses_a_key_that_is_given_twice() -> None:
    """Of two contradicting values a decoder keeps the last; a reviewer may have read the first."""
    text = (
        '{"resources": ["tasks"], "filters": {"tasks": {"include_personal": false, "include_personal": true}},'
        ' "max_rows_per_query": 0, "max_rows_per_query": 10}'
    )
    with pytest.raises(ScopeRefused) as refused:
        parse_scope_json(text)
    assert {violation.field for violation in refused.value.violations} == {
        "/filters/tasks/include_personal",
        "/max_rows_per_query",
    }


def test_bounds_what_it_repeats_of_the_document() -> None:
    """A violation goes into an answer and onto terminals: a key of the author's choice is shortened, and encodable."""
    (field,) = problems(scope(**{"k" * 10_000: 1}))
    assert len(field) < 100


def test_holds_no_scope_that_contradicts_itself() -> None:
    """The model refuses by itself too, so that no other door than parse_scope leads around the relations."""
    with pytest.raises(ValidationError, match="contradict"):
        Scope.model_validate({"resources": ["tasks"], "excluded_resources": ["tasks"], "max_rows_per_query": 1})


def test_cannot_be_changed() -> None:
    """What was approved is what is kept."""
    accepted = parse_scope(scope())
    with pytest.raises(ValidationError):
        accepted.max_rows_per_query = 10_000  # type: ignore[misc]
    with pytest.raises(TypeError):
        accepted.filters["notes"] = accepted.filters["tasks"]  # type: ignore[index]


def test_grants_what_is_named_and_nothing_else() -> None:
    """Only a resource in `resources` is granted; the sensitive ones among them are told, for the approval."""
    accepted = parse_scope({"resources": ["notes", "api_keys"], "max_rows_per_query": 1})
    assert [name for name in (*REGISTRY, "users", "") if accepted.grants(name)] == ["notes", "api_keys"]
    assert accepted.sensitive_resources == ("api_keys",)


def test_points_at_every_team() -> None:
    """A gateway that does not know a team can say at which place of the document it stands."""
    pointers = {pointer: str(team) for pointer, team in parse_scope(scope()).team_references()}
    assert pointers == {"/filters/tasks/include_teams/0": TEAM, "/filters/tasks/include_teams/1": OTHER_TEAM}


def test_publishes_a_schema_that_agrees_with_the_model() -> None:
    """The published JSON Schema names the fields, the resources, the bounds, and forbids unknown keys at every level."""
    schema = scope_json_schema()
    assert schema["required"] == ["resources", "max_rows_per_query"]
    assert schema["additionalProperties"] is schema["$defs"]["Filter"]["additionalProperties"] is False
    properties = schema["properties"]
    assert properties["resources"]["items"]["enum"] == properties["filters"]["propertyNames"]["enum"] == list(REGISTRY)
    assert (properties["resources"]["minItems"], properties["resources"]["uniqueItems"]) == (1, True)
    assert (properties["max_rows_per_query"]["minimum"], properties["max_rows_per_query"]["maximum"]) == (1, 10_000)
    assert "pattern" in schema["$defs"]["Filter"]["properties"]["include_teams"]["items"]


NAMES: Final = st.sampled_from([*REGISTRY, "users", "resources", "include_teams", "[key]", "\ud800", ""])
SCALARS: Final = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | NAMES | st.just(TEAM)
JSON_VALUES: Final = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES | st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)
NO_JSON: Final = st.binary() | st.sets(st.integers()) | st.tuples(st.text()) | st.dictionaries(st.integers(), st.text())
ANYTHING: Final = JSON_VALUES | NO_JSON
FILTER_LIKE: Final = st.fixed_dictionaries(
    {},
    optional={
        "include_teams": st.lists(st.uuids().map(str)) | ANYTHING,
        "include_personal": st.booleans() | ANYTHING,
    },
)
SCOPE_LIKE: Final = st.fixed_dictionaries(
    {"resources": st.lists(NAMES, max_size=5) | ANYTHING, "max_rows_per_query": st.integers(-1, 10_001) | ANYTHING},
    optional={
        "excluded_resources": st.lists(NAMES, max_size=3) | ANYTHING,
        "filters": st.dictionaries(NAMES, FILTER_LIKE | ANYTHING) | ANYTHING,
    },
)


@FUZZ
@given(SCOPE_LIKE | ANYTHING)
@example({"\ud800": 1})
@example({"filters": {"tasks": {"include_teams": [[], {}, TEAM]}}})
def test_raises_nothing_but_its_refusal(document: object) -> None:
    """Whatever is put in, out comes a scope that round-trips or a refusal with at least one violation that can be sent."""
    try:
        accepted = parse_scope(document)
    except ScopeRefused as refused:
        sendable = [(violation.field + violation.description).encode() for violation in refused.violations]
    else:
        sendable = [accepted.to_json().encode()]
        assert parse_scope_json(accepted.to_json()) == accepted
    assert sendable


GRANTED: Final = st.lists(st.sampled_from(list(REGISTRY)), min_size=1, unique=True)
FILTERS: Final = st.fixed_dictionaries(
    {}, optional={"include_teams": st.lists(st.uuids().map(str), max_size=3, unique=True), "include_personal": st.booleans()}
)


@FUZZ
@given(st.data(), GRANTED, st.integers(1, 10_000))
def test_round_trips_every_scope(data: st.DataObject, granted: list[str], cap: int) -> None:
    """The canonical document means what the author's meant, and is its own canonical document."""
    others = [name for name in REGISTRY if name not in granted]
    document = {
        "resources": granted,
        "excluded_resources": data.draw(st.lists(st.sampled_from(others), unique=True)) if others else [],
        "filters": data.draw(st.dictionaries(st.sampled_from(granted), FILTERS)),
        "max_rows_per_query": cap,
    }
    accepted = parse_scope(document)
    canonical = accepted.to_json()
    assert parse_scope_json(canonical) == accepted
    assert parse_scope_json(canonical.encode()).to_json() == canonical
    assert json.loads(canonical) == accepted.to_document()


JSON_SCALARS: Final = st.sampled_from(
    [
        *("null", "true", "1", "500", "-0", "1e3", "500.0", "NaN", "-Infinity", "1" * 5000, "01", ""),
        *('"tasks"', f'"{TEAM}"', '"\\ud800"', '"\ud800"'),
    ]
)
JSON_KEYS: Final = st.sampled_from(
    ['"resources"', '"resource\\u0073"', '"filters"', '"tasks"', '"max_rows_per_query"', '"include_teams"', '"\\ud800"', '""', "1"]
)
JSON_TEXT: Final = st.recursive(
    JSON_SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4).map(lambda items: f"[{', '.join(items)}]")
        # Pairs, not a dictionary: a key may come twice.
        | st.lists(st.tuples(JSON_KEYS, inner), max_size=5).map(lambda pairs: f"{{{', '.join(map(': '.join, pairs))}}}")
    ),
    max_leaves=12,
)
VALID: Final = json.dumps(scope())


@FUZZ
@given(mutated(VALID.encode()) | mutated_text(VALID) | JSON_TEXT | st.text() | st.binary())
@example(VALID)
@example(VALID.replace('"resources"', '"resource\\u0073"', 1))
@example(VALID.replace('"resources"', '"resources": ["api_keys"], "resources"', 1))
@example(VALID.replace('"include_personal"', '"include_personal": true, "include\\u005fpersonal"', 1))
@example(VALID.replace("500", "5e2"))
@example(VALID.replace("500", "9" * 5000))
@example(VALID.replace("500", "NaN"))
@example(VALID.encode("utf-16"))
@example(b"\xef\xbb\xbf" + VALID.encode())
def test_raises_nothing_but_its_refusal_on_text(text: str | bytes) -> None:
    """The same for text: it is refused, or is a scope that says what the text says, with no key twice, and that round-trips."""
    try:
        accepted = parse_scope_json(text)
    except ScopeRefused as refused:
        sendable = [(violation.field + violation.description).encode() for violation in refused.violations]
    else:
        sendable = [accepted.to_json().encode()]
        assert parse_scope_json(accepted.to_json()) == accepted
        assert parse_scope_json(accepted.to_json()).to_json() == accepted.to_json()
        assert parse_scope(without_repetition(text)) == accepted
    assert sendable


def without_repetition(text: str | bytes) -> object:
    """The document, in which every object holds as many members as its text has pairs."""

    def members(pairs: list[tuple[str, object]]) -> dict[str, object]:
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    return json.loads(text, object_pairs_hook=members)
