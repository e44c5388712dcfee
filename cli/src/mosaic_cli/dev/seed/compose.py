"""From a site's frames and words to rows: the same rows every time, at times relative to the moment given."""

import math
import random
import re
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Final
from uuid import NAMESPACE_DNS, UUID, uuid5

from mosaic_common.resources import REGISTRY

from mosaic_cli.dev.seed.site import Frame, Secret, Site, Topic

Row = dict[str, object]

_SLOT: Final = re.compile(r"\{(\w+)\}")
_OPEN_STATES: Final = ("open", "open", "open", "in progress", "waiting")


class Composer:
    """Composes one site."""

    def __init__(self, site: Site, now: datetime) -> None:
        self._site = site
        self._now = now
        self._namespace: Final = uuid5(NAMESPACE_DNS, f"{site.name}.mosaic.example.com")

    def id_of(self, kind: str, name: str) -> UUID:
        """The same for the same site, kind and name, in every run."""
        return uuid5(self._namespace, f"{kind}/{name}")

    def users(self) -> list[Row]:
        return [
            {"id": self.id_of("user", person.email), "email": person.email, "name": person.name, "active": person.active}
            for person in self._site.people
        ]

    def teams(self) -> list[Row]:
        return [{"id": self.id_of("team", topic.team), "name": topic.team} for topic in self._site.topics if topic.team]

    def memberships(self) -> list[Row]:
        return [
            {"user_id": self.id_of("user", email), "team_id": self.id_of("team", topic.team)}
            for topic in self._site.topics
            if topic.team
            for email in topic.members
        ]

    def resource(self, name: str) -> list[Row]:
        match name:
            case "tasks":
                return [row for topic in self._site.topics for row in self._tasks(topic)]
            case "notes":
                return [row for topic in self._site.topics for row in self._notes(topic)]
            case "memory":
                return [row for topic in self._site.topics for row in self._memories(topic)]
            case "credentials":
                return [self._credential(secret) for secret in self._site.credentials]
            case "api_keys":
                return [self._api_key(secret) for secret in self._site.api_keys]
        raise ValueError(f"no content for {name}")

    def _tasks(self, topic: Topic) -> Iterator[Row]:
        for base, title, text, chance in self._written(topic, "tasks", topic.tasks):
            updated_at = base["updated_at"]
            assert isinstance(updated_at, datetime)
            done = chance.random() < min(0.9, (self._now - updated_at) / timedelta(days=90))
            due_at = (
                updated_at + timedelta(days=chance.randint(2, 40), hours=chance.randint(0, 9)) if chance.random() < 0.6 else None
            )
            status = "done" if done else chance.choice(_OPEN_STATES)
            yield {**base, "title": title, "description": text, "status": status, "due_at": due_at}

    def _notes(self, topic: Topic) -> Iterator[Row]:
        for base, title, text, _ in self._written(topic, "notes", topic.notes):
            yield {**base, "title": title, "body": text}

    def _memories(self, topic: Topic) -> Iterator[Row]:
        for base, title, text, _ in self._written(topic, "memory", topic.memories):
            yield {**base, "kind": title.lower(), "content": text, "embedding": embed(text)}

    def _written(self, topic: Topic, resource: str, frames: Sequence[Frame]) -> Iterator[tuple[Row, str, str, random.Random]]:
        """Base columns, title, text, and the dice for what else a row needs; nothing twice within a topic."""
        chance = random.Random(f"{self._site.name}/{topic.team}/{resource}")  # noqa: S311 — content, not secrets
        seen: set[tuple[str, str]] = set()
        while len(seen) < topic.amounts[resource]:
            frame = chance.choice(frames)
            words = {slot: chance.choice(choices) for slot, choices in topic.words.items()}
            title, text = _fill(frame.title, words), _fill(frame.text, words)
            if (title, text) in seen:
                continue
            seen.add((title, text))
            owner = chance.choice(topic.authors)
            yield self._base(resource, f"{topic.team}/{title}/{text}", owner, topic, chance), title, text, chance

    def _base(self, resource: str, name: str, owner: str, topic: Topic, chance: random.Random) -> Row:
        # Squared: most of what people touch, they touched lately.
        days = topic.newest_days + chance.random() ** 2 * (topic.oldest_days - topic.newest_days)
        return {
            "id": self.id_of(resource, name),
            "owner_id": self.id_of("user", owner),
            "team_id": self.id_of("team", topic.team) if topic.team else None,
            "updated_at": self._now - timedelta(days=days, minutes=1, microseconds=chance.randint(0, 999_999)),
        }

    def _credential(self, secret: Secret) -> Row:
        base, age = self._secret_base("credentials", secret)
        created_at = self._now - age * 3
        expires_at = created_at + timedelta(days=365) if age.days % 2 else None
        return {**base, "created_at": created_at, "expires_at": expires_at, "secret_value": self._secret_text(secret)}

    def _api_key(self, secret: Secret) -> Row:
        base, age = self._secret_base("api_keys", secret)
        last_used_at = self._now - age / 10 if age.days % 3 else None
        return {**base, "created_at": self._now - age * 2, "last_used_at": last_used_at, "key_hash": self._secret_text(secret)}

    def _secret_base(self, resource: str, secret: Secret) -> tuple[Row, timedelta]:
        row_id = self.id_of(resource, secret.label)
        age = timedelta(days=5 + row_id.int % 90, seconds=row_id.int % 86_400)
        base: Row = {
            "id": row_id,
            "owner_id": self.id_of("user", secret.owner),
            "team_id": self.id_of("team", secret.team) if secret.team else None,
            "updated_at": self._now - age,
            "label": secret.label,
            "provider": secret.provider,
        }
        return base, age

    def _secret_text(self, secret: Secret) -> str:
        """Looks like a secret and is none; nobody may ever see it through a gateway."""
        return sha256(f"{self._site.name}/{secret.label}/not to be seen".encode()).hexdigest()


def embed(text: str) -> str:
    """A pgvector literal: words hashed into the registry's dimension, unit length.

    No language model: texts that share words are near each other, which is all that a demonstration of cosine distance needs.
    """
    embedding = REGISTRY["memory"].embedding
    assert embedding is not None
    vector = [0.0] * embedding.dimension
    for word in re.findall(r"\w+", text.lower()):
        digest = sha256(word.encode()).digest()
        vector[int.from_bytes(digest[:4], "big") % embedding.dimension] += 1.0 if digest[4] % 2 else -1.0
    length = math.sqrt(sum(value * value for value in vector)) or 1.0
    return "[" + ",".join(f"{value / length:.5g}" for value in vector) + "]"


def _fill(pattern: str, words: dict[str, str]) -> str:
    """Sentences begin with a capital, whatever word came first."""
    filled = _SLOT.sub(lambda slot: words[slot[1]], pattern)
    return re.sub(r"(^|[.?!] )(\w)", lambda start: start[1] + start[2].upper(), filled)
