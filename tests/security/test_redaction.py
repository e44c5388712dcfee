"""Acceptance 6 of the enrollment: no secret is left anywhere but where it belongs.

Tokens, keys, signing requests, proofs, warrants, passwords and sealing secrets are driven through every success and every failure
(tests/support/secret_stories.py) of two gateways of processes that say all they can; then everything that these and their operator
left is searched, and what was searched is listed in the report of the test. Traces are not among it: this release configures no
exporter.
"""

import re
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

import pytest

from tests.support.canaries import RUN, Canary, Found, Search, spellings
from tests.support.harvest import secrets_of
from tests.support.places import Kind
from tests.support.secret_stories import everything
from tests.support.talkative_pair import new_secret, talkative_pair

SERVICES: Final = ("ca-broker", "grants", "enrollment", "edge-inbound", "edge-outbound", "postgres", "valkey")
EXPECTED_FILES: Final = (
    *(f"{gateway}/logs/{service}.log" for gateway in ("home", "work") for service in SERVICES),
    *(f"{gateway}/logs/db-{verb}.log" for gateway in ("home", "work") for verb in ("bootstrap", "upgrade")),
    *(f"{gateway}/valkey/dump.rdb" for gateway in ("home", "work")),
    "work/logs/step-ca.log",
    "work/logs/step-ca-init.log",
    "contexts.json",
)
EXPECTED_REASONS: Final = frozenset(
    [
        "ENROLLMENT_TOKEN_UNKNOWN",
        "ENROLLMENT_TOKEN_VOIDED",
        "ENROLLMENT_TOKEN_EXPIRED",
        "ENROLLMENT_TOKEN_USED",
        "CSR_MALFORMED",
        "CSR_SIGNATURE_INVALID",
        "CSR_KEY_NOT_ACCEPTED",
        "CSR_COMMON_NAME_MISMATCH",
        "WARRANT_INVALID",
        "CA_REFUSED",
        "CA_UNREACHABLE",
        "AUTH_TOKEN_MISSING",
        "AUTH_TOKEN_INVALID",
        "ROLE_REQUIRED",
        "SCOPE_INVALID",
        "PEER_NOT_FOUND",
        "GRANT_NOT_FOUND",
        "GRANT_NOT_ACTIVE",
        "PAGE_TOKEN_INVALID",
        "SUBJECT_NOT_ELIGIBLE",
        "RATE_LIMITED",
        "DEPENDENCY_UNAVAILABLE",
        "REQUEST_INVALID",
        "INTERNAL",
    ]
)
# What no canary could be made of, because only services ever have it, gives itself away by its form.
FORMS: Final = {
    "a private key": re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "a signing request": re.compile(rb"-----BEGIN (NEW )?CERTIFICATE REQUEST-----"),
    "a signed token": re.compile(rb"eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{43,}"),
    "an enrollment URL": re.compile(rb"[#&]token=[\w-]{20,}"),
}
FORMS_BY_DESIGN: Final = (
    ("a private key", "*.key"),
    ("a private key", "owner/*/key.pem"),
    ("a private key", "work/step-ca/secrets/*_key"),
    ("a signed token", "stdout of mosaic -c home auth token"),
    ("an enrollment URL", "stdout of mosaic -c work federation grant"),
    ("an enrollment URL", "*mosaic_cli -c home federation peer add https:*"),
    # step-ca logs its one-time tokens whole (trap 4 of spec/step-ca.md) and keeps them, so that each is spent once.
    ("a signed token", "work/logs/step-ca.log"),
    ("a signed token", "work/step-ca/db/*"),
    # What was pasted into wrong fields is told back to whoever sent it, and was bound to statements.
    ("*", "refused: *"),
    ("an enrollment URL", "stderr of mosaic -c work federation *"),
    ("an enrollment URL", "*mosaic_cli -c work federation * show *"),
    ("*", "*/logs/postgres.log"),
)


@dataclass(frozen=True, slots=True)
class Searched:
    """What was looked for, where, and what was found."""

    canaries: tuple[Canary, ...]
    spellings: int
    places: list[tuple[Kind, str, int]]
    found: list[tuple[Found, Kind, str]]
    forms: list[tuple[str, Kind, str]]
    reasons: frozenset[str]

    @property
    def leaks(self) -> list[str]:
        return sorted(
            {
                f"{found.canary.name} ({found.spelling}) in {kind}: {place}"
                for found, kind, place in self.found
                if not found.canary.lives_in(place)
            }
        )

    @property
    def strange_forms(self) -> list[str]:
        return sorted(
            {
                f"{form} in {kind}: {place}"
                for form, kind, place in self.forms
                if not any(fnmatchcase(form, known) and fnmatchcase(place, home) for known, home in FORMS_BY_DESIGN)
            }
        )

    def __str__(self) -> str:
        sizes, numbers = Counter[Kind](), Counter[Kind]()
        names: defaultdict[Kind, set[str]] = defaultdict(set)
        for kind, name, size in self.places:
            sizes[kind] += size
            numbers[kind] += 1
            names[kind].add(_shown(kind, name))
        lines = [f"{len(self.canaries)} canaries in {self.spellings} spellings, by any {RUN} bytes of each"]
        lines += [
            f"  {name} × {number}"
            for name, number in sorted(Counter(each.name.partition(":")[0] for each in self.canaries).items())
        ]
        for kind in Kind:
            lines.append(f"{kind}: {numbers[kind]} places, {sizes[kind]:,} bytes")
            lines += [f"  {name}" for name in sorted(names[kind])]
        return "\n".join([*lines, "traces: none, no exporter configured in this release"])


def _shown(kind: Kind, name: str) -> str:
    """Tables rather than columns, folders rather than files that have numbers for names, programs rather than arguments."""
    match kind:
        case Kind.COLUMN:
            return name.rpartition(".")[0]
        case Kind.DATABASE_FILE:
            return name.rpartition("/")[0]
        case Kind.ARGUMENTS:
            return name.partition(" ")[0]
        case _:
            return name


@pytest.fixture(scope="module")
async def searched(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Searched]:
    async with talkative_pair(tmp_path_factory.mktemp("talkative")) as pair:
        canaries = (*await everything(pair), *secrets_of(pair))
        search = Search(canaries)
        places, found, forms = [], [], []
        for place in pair.places():
            places.append((place.kind, place.name, len(place.content)))
            found += [(each, place.kind, place.name) for each in search.find(place.content)]
            forms += [(form, place.kind, place.name) for form, pattern in FORMS.items() if pattern.search(place.content)]
        yield Searched(search.canaries, search.spellings, places, found, forms, frozenset(pair.reasons))


@pytest.mark.stepca
async def test_no_secret_is_left_where_it_does_not_belong(searched: Searched, request: pytest.FixtureRequest) -> None:
    """None is in any log, audit row, error text or file outside the sealed column and its owner's own files."""
    request.node.add_report_section("call", "searched", str(searched))
    assert searched.leaks == []


@pytest.mark.stepca
async def test_everything_was_done_and_everything_was_searched(searched: Searched) -> None:
    """A place that vanished, and a denial that never happened, would make the search mean less than it says."""
    filled = {name for _, name, size in searched.places if size}
    assert [name for name in EXPECTED_FILES if name not in filled] == []
    assert {kind for kind, _, _ in searched.places} == set(Kind)
    assert EXPECTED_REASONS - searched.reasons == frozenset()


@pytest.mark.stepca
async def test_what_is_there_is_found(searched: Searched) -> None:
    """A word that was planted is seen in every kind of place, and every secret that lies somewhere by design is seen there."""
    by_kind = {kind for found, kind, _ in searched.found if found.canary.name.startswith("planted")}
    assert by_kind == set(Kind)
    seen = {found.canary for found, _, _ in searched.found}
    assert [canary.name for canary in searched.canaries if canary.homes and canary not in seen] == []


@pytest.mark.stepca
async def test_nothing_has_the_form_of_a_secret(searched: Searched) -> None:
    """Nor is a secret anywhere that only services ever held, and of which no canary could be made."""
    assert searched.strange_forms == []


@pytest.mark.parametrize("spelling", spellings(bytes(range(100, 148))))
@pytest.mark.parametrize("cut", [pytest.param(False, id="whole"), pytest.param(True, id="all but 15 bytes of it are missing")])
def test_the_search_finds(spelling: str, cut: bool) -> None:
    """Every spelling, wherever it begins, and any 15 bytes of it."""
    canary = Canary("any", bytes(range(100, 148)))
    search, written = Search([canary]), spellings(canary.secret)[spelling]
    for start in range(8):
        content = bytes(start) + (written[start : start + RUN] if cut else written) + b"."
        found = {spellings(canary.secret)[each.spelling] for each in search.find(content)}
        assert written in found, "under this name or another that spells it the same"


def test_the_search_finds_nothing_that_is_not_there() -> None:
    """Fourteen bytes are no secret yet, and another secret is another one."""
    canary = Canary("any", new_secret().encode())
    search = Search([canary])
    assert search.find(canary.secret[: RUN - 1] + b"!" + new_secret().encode()) == set()
