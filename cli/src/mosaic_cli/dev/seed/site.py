"""The shape of a site's content: who is there, what they are busy with, in which words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Person:
    """A user. The part before the @ is how content refers to them."""

    email: str
    name: str
    active: bool = True


@dataclass(frozen=True, slots=True)
class Frame:
    """A sentence pattern: `{slot}` is filled with one of the topic's words for it."""

    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Topic:
    """What a team, or everybody for themselves, is busy with.

    Attributes:
        team: None for rows that belong to no team.
        members: emails of those who are in the team now.
        authors: emails of those who own rows; one of them may have left.
        words: slot → what may stand there.
        memories: title is the kind, text the content.
    """

    team: str | None
    members: Sequence[str]
    authors: Sequence[str]
    words: Mapping[str, Sequence[str]]
    tasks: Sequence[Frame]
    notes: Sequence[Frame]
    memories: Sequence[Frame]
    amounts: Mapping[str, int]
    oldest_days: int = 200
    newest_days: int = 0


@dataclass(frozen=True, slots=True)
class Secret:
    """A credential or an API key: only label, provider and times ever leave the gateway."""

    owner: str
    label: str
    provider: str
    team: str | None = None


@dataclass(frozen=True, slots=True)
class Site:
    """Everything that one gateway starts with."""

    name: str
    people: Sequence[Person]
    topics: Sequence[Topic]
    credentials: Sequence[Secret] = field(default=())
    api_keys: Sequence[Secret] = field(default=())
