"""What the documents say about variables and tests is what the code has."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest
from mosaic_ca_broker.config import Config as BrokerConfig
from mosaic_common.config import KNOWN_VARIABLES, CommonConfig
from mosaic_common.config.sources import ALIASES
from mosaic_common.errors import Reason
from mosaic_common.identity import SERVICES
from mosaic_enrollment.config import Config as EnrollmentConfig
from mosaic_federation_edge.config import InboundConfig, OutboundConfig
from mosaic_grants.__main__ import BootstrapConfig, UpgradeConfig
from mosaic_grants.config import Config as GrantsConfig
from pydantic import BaseModel
from pydantic.fields import FieldInfo

ROOT: Final = Path(__file__).parents[2]
DOCS: Final = ROOT / "docs"

MODELS: Final[Mapping[str, type[BaseModel]]] = {
    "Every service": CommonConfig,
    "ca-broker": BrokerConfig,
    "grants": GrantsConfig,
    "enrollment": EnrollmentConfig,
    "edge-inbound": InboundConfig,
    "edge-outbound": OutboundConfig,
    "python -m mosaic_grants db bootstrap": BootstrapConfig,
    "python -m mosaic_grants db upgrade": UpgradeConfig,
}
# Read by programs that have no model.
OTHERS: Final = ("The CLI", "Every program")


def sections(page: str) -> dict[str, str]:
    """Heading → what stands under it."""
    parts = re.split(r"^## (.*)$", (DOCS / page).read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def rows(section: str) -> list[tuple[str, ...]]:
    """The cells of every table in a section, without heads."""
    tables = [line for line in section.splitlines() if line.startswith("|")]
    cells = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in tables]
    heads = [number - 1 for number, row in enumerate(cells) if set("".join(row)) <= set("-:")]
    return [row for number, row in enumerate(cells) if number not in heads and number - 1 not in heads]


@pytest.mark.parametrize("section", MODELS)
def test_every_variable_stands_with_default_and_description(section: str) -> None:
    """Exactly the fields of the program's configuration, in their order, in the words of its own error sentence."""
    model = MODELS[section]
    inherited = CommonConfig.model_fields.keys() if model is not CommonConfig and issubclass(model, CommonConfig) else ()
    expected = [
        (f"`{name.upper()}`", _default(field), field.description)
        for name, field in model.model_fields.items()
        if name not in inherited
    ]
    assert rows(sections("reference/environment.md")[section]) == expected


def test_no_other_variable_stands_there() -> None:
    """What no model has is what the loader and the CLI read, and nothing is known that is not documented."""
    fields = {name.upper().removesuffix("_FILE") for model in MODELS.values() for name in model.model_fields}
    found = sections("reference/environment.md")
    others = [variable.strip("`") for section in OTHERS for variable, *_ in rows(found[section])]
    assert sorted(others) == sorted(KNOWN_VARIABLES - fields)
    assert found.keys() == {*MODELS, *OTHERS, "infra/step-ca/init.sh"}
    for variable, other in ALIASES.items():
        assert f"`{variable}` may be spelled `{other}`" in (DOCS / "reference" / "environment.md").read_text()


def test_the_variables_of_the_authoritys_script_stand_there() -> None:
    """Those that its head lists."""
    head = re.findall(r"^#   ([A-Z_]+) ", (ROOT / "infra" / "step-ca" / "init.sh").read_text(), re.MULTILINE)
    documented = [variable.strip("`") for variable, *_ in rows(sections("reference/environment.md")["infra/step-ca/init.sh"])]
    assert documented == head


def test_every_cell_of_the_break_in_table_names_its_test() -> None:
    """A service, what a break-in there gives or does not give, and tests that exist; each service has both."""
    table = rows(sections("threat-model.md")["What a break-in yields at most"])
    yields: dict[str, set[str]] = {}
    for service, gives, cell, tests in table:
        assert _named(tests), f"{service}: {cell}"
        yields.setdefault(service.strip("*"), set()).add(gives)
    assert yields.keys() == {*SERVICES, "Valkey", "step-ca"}
    assert all(gives == {"yes", "no"} for gives in yields.values()), yields


def test_every_test_that_the_threat_model_names_exists() -> None:
    """A lock whose test is gone is not one."""
    named = _named((DOCS / "threat-model.md").read_text())
    assert len(named) > 30
    for file, test in named:
        assert re.search(rf"^\s*(async )?def {test}\(", (ROOT / "tests" / file).read_text(), re.MULTILINE), f"{file}::{test}"


@pytest.mark.parametrize(
    "reason",
    [
        reason
        for reason in Reason
        if reason.name.startswith(("ENROLLMENT_", "CSR_", "CA_", "WARRANT_", "AUTH_", "GRANT_", "PEER_", "SUBJECT_"))
    ],
)
def test_every_refusal_of_an_enrollment_has_its_symptom(reason: Reason) -> None:
    """Whoever is refused finds the reason's name, and what to do."""
    assert f"`{reason}`" in (DOCS / "troubleshooting.md").read_text()


def test_every_page_is_listed() -> None:
    """The index leads to each page, and every link between pages leads somewhere."""
    index = (DOCS / "README.md").read_text()
    for page in (*DOCS.glob("*.md"), *DOCS.glob("reference/*.md")):
        assert page.name == "README.md" or f"]({page.relative_to(DOCS)})" in index, page
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
            assert target.startswith("https://") or (page.parent / target).exists(), f"{page.name}: {target}"


def _default(field: FieldInfo) -> str:
    match field.default:
        case _ if field.is_required():
            return "needed"
        case None:
            return "–"
        case bool(value):
            return f"`{str(value).lower()}`"
        case value:
            return f"`{value}`"


def _named(text: str) -> list[tuple[str, str]]:
    """Tests named as `folder/test_file.py::test_name`."""
    return re.findall(r"`(\w+/test_\w+\.py)::(test_\w+)`", text)
