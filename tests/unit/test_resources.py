"""The registry that SQL, scope and decision are rendered from."""

import re

import pytest
from mosaic_common.resources import BASE_COLUMNS, REGISTRY, SENSITIVE, Resource

EVERY = pytest.mark.parametrize("resource", REGISTRY.values(), ids=list(REGISTRY))


def test_lists_the_five_resources_in_their_order() -> None:
    """Every list of resources is shown in the order of the contract, and the two with secrets are the sensitive ones."""
    assert list(REGISTRY) == ["tasks", "notes", "memory", "credentials", "api_keys"]
    assert {"credentials", "api_keys"} == SENSITIVE


@EVERY
def test_never_returns_nor_reads_a_secret_column(resource: Resource) -> None:
    """A secret is in no list from which a function or a privilege is rendered, and it is not searchable either."""
    secret = {column.name for column in resource.secret}
    assert resource.sensitive == bool(secret)
    assert not secret & {column.name for column in resource.returned}
    assert not secret & {column.name for column in resource.searchable}
    assert not secret & set(resource.readable)


@EVERY
def test_reads_what_visibility_order_and_answers_need(resource: Resource) -> None:
    """The definer may read the base columns, everything returned and the embedding: a missing one would break the read function."""
    needed = {column.name for column in (*BASE_COLUMNS, *resource.returned, *resource.searchable)} | {resource.title}
    embedding = {resource.embedding.column} if resource.embedding else set()
    assert set(resource.readable) == needed | embedding


@EVERY
def test_tells_no_peer_who_owns_a_row(resource: Resource) -> None:
    """Owner and team decide about visibility; they are not part of any row that leaves."""
    assert not {"owner_id", "team_id"} & {column.name for column in resource.returned}


@EVERY
def test_holds_only_names_that_need_no_quoting(resource: Resource) -> None:
    """SQL is rendered from these names, so each is a plain lower-case identifier, the table with its schema."""
    names = [column.name for column in resource.columns]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z][a-z_]*", name) for name in [resource.name, *names])
    assert re.fullmatch(r"[a-z_]+\.[a-z_]+", resource.table)


def test_cannot_be_changed() -> None:
    """What is registered at start is what is registered: no code adds a resource at run time."""
    with pytest.raises(TypeError):
        REGISTRY["users"] = REGISTRY["tasks"]  # type: ignore[index]
