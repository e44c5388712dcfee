"""What a local user may ask of every source alike."""

from dataclasses import dataclass
from uuid import UUID

from mosaic_common.decision import Verb

from mosaic_federation_edge.domain.search import Search


@dataclass(frozen=True, slots=True)
class ListRows:
    """The rows of one resource, newest first, so many per source and page."""

    resource: str
    page_size: int

    verb = Verb.LIST

    @property
    def resources(self) -> tuple[str, ...]:
        return (self.resource,)


@dataclass(frozen=True, slots=True)
class GetRow:
    """One row by its id; a source that has none answers without rows."""

    resource: str
    row_id: UUID

    verb = Verb.GET

    @property
    def resources(self) -> tuple[str, ...]:
        return (self.resource,)


@dataclass(frozen=True, slots=True)
class SearchRows:
    """The best hits, so many per source; there is one page."""

    search: Search
    page_size: int

    verb = Verb.SEARCH

    @property
    def resources(self) -> tuple[str, ...]:
        return self.search.resources


@dataclass(frozen=True, slots=True)
class GetCapabilities:
    """What the source lets the caller ask."""

    verb = Verb.CAPABILITIES

    @property
    def resources(self) -> tuple[str, ...]:
        return ()


Question = ListRows | GetRow | SearchRows | GetCapabilities
