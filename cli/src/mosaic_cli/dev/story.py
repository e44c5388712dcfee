"""The whole line, told by the commands that an operator would type: from an empty folder to a federated answer.

Every step checks what it shows, against the databases where that is possible, and the story ends at the first one that
does not hold. Nothing is called in process: each command is a `mosaic` of its own, each service a process.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol

import psycopg
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from mosaic_common.oids import GRANT_ID_OID, SUBJECT_USER_ID_OID, parse_extensions, parse_federation_ids
from mosaic_common.scope import Scope, parse_scope

from mosaic_cli.contexts import CONTEXTS_VARIABLE, Context
from mosaic_cli.dev.authority import AuthorityKind
from mosaic_cli.dev.folder_lock import FolderLock
from mosaic_cli.dev.health import HealthClient
from mosaic_cli.dev.processes import CHILD, inherited_environment
from mosaic_cli.dev.seed import SITES, Summary, seed
from mosaic_cli.dev.steps import StepDone
from mosaic_cli.dev.supervisor import Supervisor

USER: Final = "maya@example.com"
READS: Final = ("tasks", "notes", "memory")
COMMAND_SECONDS: Final = 60.0
PAGE: Final = 100
CAP: Final = 10
SHOWN_CHARACTERS: Final = 60


class StoryFailed(Exception):
    """A step did not hold. One sentence, and what the command said."""


class Teller(Protocol):
    """Where the story is told while it happens."""

    def begin(self, name: str) -> None: ...
    def detail(self, text: str) -> None: ...
    def command(self, line: str) -> None: ...
    def end(self, told: "Told") -> None: ...


@dataclass(frozen=True, slots=True)
class Told:
    """One step of the story, done.

    Attributes:
        result: what was found to hold, in a sentence.
    """

    name: str
    seconds: float
    result: str


@dataclass(slots=True)
class Story:
    """Two gateways in a fresh folder.

    Args:
        folder: removed and made anew.
    """

    folder: Path
    kind: AuthorityKind
    teller: Teller
    told: list[Told] = field(default_factory=list)
    _gateways: Mapping[str, Any] = field(default_factory=dict)
    _seeded: dict[str, Summary] = field(default_factory=dict)
    _scope: Scope | None = None
    _url: str = ""
    _grant_id: str = ""

    def tell(self) -> list[Told]:
        """Tell it to the end. Nothing is left running, however it ends.

        Raises:
            StoryFailed: a step did not hold.
            ProcessFailed, FolderInUse: something did not start.
        """
        _empty(self.folder)
        supervisor = Supervisor(self.folder, kind=self.kind, on_step=lambda done: self.teller.detail(_line(done)))
        with self._step("Start two gateways: PKI, databases, authority, services"):
            supervisor.start()
        try:
            self._gateways = supervisor.status()["gateways"]
            self._tell(supervisor)
        finally:
            supervisor.stop()
        return self.told

    def _tell(self, supervisor: Supervisor) -> None:
        chapters: Sequence[tuple[str, Callable[[], str]]] = (
            ("PKI of each gateway", self._show_pki),
            ("Services are healthy", lambda: self._show_health(supervisor)),
            ("People, teams and rows on each side", self._seed),
            ("work: a peer and a grant for it", self._grant),
            ("work: an enrollment token", self._token),
            ("home: peer add", self._add_peer),
            ("The certificate says who", self._show_certificate),
            ("home lists work: exactly what the grant and Maya's own rights allow", self._compare),
            ("home lists everywhere: merged, each row with its source", self._merge),
            ("A scope cuts: a second grant for notes alone", self._cut),
            ("The cap holds", self._cap),
            ("The token opens nothing a second time", self._redeem_again),
            ("work's edge is down: a partial answer that says so", lambda: self._outage(supervisor)),
        )
        for name, chapter in chapters:
            with self._step(name) as result:
                result(chapter())

    # --- chapters

    def _show_pki(self) -> str:
        identities = 0
        for name in SITES:
            folder = self.folder / name / "pki"
            identities += len(json.loads(self._mosaic("pki", "show", "--dir", str(folder)))["identities"])
            _hold(_private_keys_lie_once(folder), f"a private key of {name} lies in two folders")
        return f"a root per gateway, {identities} identities, every private key in one folder alone"

    def _show_health(self, supervisor: Supervisor) -> str:
        services = [each for gateway in supervisor.status()["gateways"].values() for each in gateway["services"].values()]
        _hold(all(each["state"] == "running" for each in services), "a service does not run")
        answering = [identity for gateway in supervisor.gateways.values() for identity in _answering(gateway.context())]
        return f"{len(services)} processes; {len(answering)} services say on internal mTLS that they serve"

    def _seed(self) -> str:
        now = datetime.now(UTC)
        for name in SITES:
            self._seeded[name] = seed(self._database(name), name, now=now)
        return "; ".join(
            f"{name}: {len(site.users)} users, {len(site.teams)} teams, " + ", ".join(f"{site.rows[each]} {each}" for each in READS)
            for name, site in self._seeded.items()
        )

    def _grant(self) -> str:
        platform = str(self._seeded["work"].teams["Platform"])
        document = {
            "resources": list(READS),
            "filters": {
                "tasks": {"include_teams": [platform], "include_personal": True},
                "notes": {"include_teams": [], "include_personal": True},
            },
            "max_rows_per_query": 500,
        }
        self._scope = parse_scope(document)
        self._on("work", "federation", "peer", "create", "home")
        self._grant_id = self._create_grant(document)
        return f"grant {self._grant_id}, pending: Maya's tasks of her own and of Platform, her own notes, all memory that she sees"

    def _token(self) -> str:
        answer = self._on("work", "federation", "grant", "token", self._grant_id)
        self._url = answer["url"]
        return f"token {answer['token_id'][:16]}…, a URL for one redemption within 15 minutes"

    def _add_peer(self) -> str:
        peer = self._on("home", "federation", "peer", "add", "--user", USER, stdin=self._url)
        _hold(peer["state"] == "active", "the connection is not active")
        return f"connection {peer['name']} is active: key made and sealed at home, certificate from work"

    def _show_certificate(self) -> str:
        [(der, subject)] = self._rows(
            "work",
            """SELECT c.der, g.subject_user_id FROM federation.federation_certificates c
               JOIN federation.federation_grants g ON g.id = c.grant_id WHERE g.id = %s""",
            self._grant_id,
        )
        certificate = x509.load_der_x509_certificate(bytes(der))
        ids = parse_federation_ids(parse_extensions(certificate))
        _hold(str(ids.grant_id) == self._grant_id and ids.subject_user_id == subject, "the certificate names another grant or user")
        key = certificate.public_key()
        _hold(isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == "secp256r1", "the key is not P-256")
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        _hold(list(usages) == [ExtendedKeyUsageOID.CLIENT_AUTH], "the certificate is good for more than clientAuth")
        self.teller.detail(f"subject      {certificate.subject.rfc4514_string()}, issued by {certificate.issuer.rfc4514_string()}")
        self.teller.detail(f"grant        {GRANT_ID_OID} = {ids.grant_id}")
        self.teller.detail(f"subject user {SUBJECT_USER_ID_OID} = {ids.subject_user_id}")
        return f"P-256, clientAuth only, until {certificate.not_valid_after_utc:%Y-%m-%d}, and both OIDs name grant and user"

    def _compare(self) -> str:
        assert self._scope is not None
        found = []
        for resource in READS:
            rows, _ = self._query(resource, "federated:work")
            ids, expected = {row["id"] for row in rows}, self._expected(resource, self._scope)
            _hold(len(ids) == len(rows), f"a row of {resource} came twice")
            _hold(ids == expected, f"{len(ids - expected)} rows of {resource} too many, {len(expected - ids)} missing")
            found.append(f"{len(ids)} of {self._seeded['work'].rows[resource]} {resource}")
        return ", ".join(found) + ": the same ids as a query of our own on work's database"

    def _merge(self) -> str:
        answer = self._ask("tasks", "all")
        sources = {source: sum(row["_source"] == source for row in answer["rows"]) for source in ("local", "federated:work")}
        _hold(not answer["_partial"] and all(sources.values()), "a source is missing")
        times = [row["updated_at"] for row in answer["rows"]]
        _hold(times == sorted(times, reverse=True), "the rows are not in order")
        return f"{sources['local']} rows from here and {sources['federated:work']} from work on one page, newest first"

    def _cut(self) -> str:
        document = {"resources": ["notes"], "max_rows_per_query": CAP}
        answer = self._on("work", "federation", "grant", "token", self._create_grant(document))
        self._on("home", "federation", "peer", "add", "--user", USER, "--name", "work-notes", stdin=answer["url"])
        refused = self._ask("tasks", "federated:work-notes")["sources"][0]
        _hold(refused["status"] == "denied" and refused["reason"] == "RESOURCE_NOT_GRANTED", "tasks are not refused")
        return "tasks through it are denied: RESOURCE_NOT_GRANTED"

    def _cap(self) -> str:
        rows, answer = self._query("notes", "federated:work-notes")
        _hold(len(rows) == CAP and answer["sources"][0]["truncated"], f"{len(rows)} rows came")
        visible = len(self._expected("notes", parse_scope({"resources": ["notes"], "max_rows_per_query": CAP})))
        return f"{CAP} of {visible} notes, and the answer says that it is cut"

    def _redeem_again(self) -> str:
        folder = self.folder / "stranger"
        refused = self._refused("federation", "enroll", "-", "--out", str(folder), stdin=self._url)
        _hold(refused["reason"] == "ENROLLMENT_TOKEN_USED", f"refused with {refused['reason']}")
        return f"{refused['reason']}: {refused['message']}"

    def _outage(self, supervisor: Supervisor) -> str:
        self.teller.command("mosaic dev stop work edge-inbound")
        supervisor.stop_service("work", "edge-inbound")
        answer = self._ask("tasks", "all")
        sources = {source["source"]: source for source in answer["sources"]}
        down = [sources["federated:work"], sources["federated:work-notes"]]
        _hold(
            answer["_partial"] and all(each["status"] == "unavailable" for each in down), "the answer does not say what is missing"
        )
        _hold(sources["local"]["status"] == "ok" and sources["local"]["rows"] > 0, "our own rows are missing")
        return f"_partial, work unavailable, {sources['local']['rows']} rows from here all the same"

    # --- how it is told

    @contextmanager
    def _step(self, name: str) -> Iterator[Callable[[str], None]]:
        self.teller.begin(name)
        started, results = time.monotonic(), ["ready"]
        try:
            yield lambda result: results.__setitem__(0, result)
        except StoryFailed as failed:
            raise StoryFailed(f"{name}: {failed}") from None
        self.told.append(Told(name, round(time.monotonic() - started, 2), results[0]))
        self.teller.end(self.told[-1])

    # --- commands, as an operator types them

    def _create_grant(self, document: Mapping[str, object]) -> str:
        scope_file = self.folder / "scope.json"
        scope_file.write_text(json.dumps(document, indent=2))
        arguments = ("grant", "create", "--user", USER, "--peer", "home", "--scope", str(scope_file))
        return str(self._on("work", "federation", *arguments)["id"])

    def _query(self, resource: str, source: str) -> tuple[list[Mapping[str, Any]], Mapping[str, Any]]:
        """Every page of one query; the rows, and the last answer."""
        answer = self._ask(resource, source)
        rows = list(answer["rows"])
        while answer["next_page_token"]:
            answer = self._ask(resource, source, "--page", answer["next_page_token"])
            rows += answer["rows"]
        return rows, answer

    def _ask(self, resource: str, source: str, *further: str) -> Mapping[str, Any]:
        arguments = ("query", resource, "--source", source, "--user", USER, "--limit", str(PAGE), *further)
        return self._on("home", "federation", *arguments)

    def _on(self, gateway: str, *arguments: str, stdin: str = "") -> Mapping[str, Any]:
        document: Mapping[str, Any] = json.loads(self._mosaic("-c", gateway, *arguments, stdin=stdin))
        return document

    def _mosaic(self, *arguments: str, stdin: str = "") -> str:
        done = self._run(arguments, stdin)
        if done.returncode != 0:
            raise StoryFailed(
                f"`{_shown(arguments)}` ended with status {done.returncode}: {done.stderr.strip() or done.stdout.strip()}"
            )
        return done.stdout

    def _refused(self, *arguments: str, stdin: str = "") -> Mapping[str, Any]:
        done = self._run(arguments, stdin)
        _hold(done.returncode == 1, f"`{_shown(arguments)}` was not refused")
        error: Mapping[str, Any] = json.loads(done.stdout or done.stderr)["error"]
        return error

    def _run(self, arguments: Sequence[str], stdin: str) -> "subprocess.CompletedProcess[str]":
        self.teller.command(_shown(arguments))
        # Through child.py, so that a command that is under way ends with this process too.
        wrapper = [sys.executable, "-I", "-S", str(CHILD), str(os.getpid()), str(int(signal.SIGKILL)), "same-user"]
        argv = [*wrapper, sys.executable, "-P", "-m", "mosaic_cli", "--output", "json", *arguments]
        environment = inherited_environment() | {CONTEXTS_VARIABLE: str(self.folder / "contexts.json"), "TMPDIR": str(self.folder)}
        return subprocess.run(  # noqa: S603 - our own program
            argv,
            input=stdin,
            capture_output=True,
            text=True,
            env=environment,
            cwd=self.folder,
            timeout=COMMAND_SECONDS,
            check=False,
        )

    # --- what the databases hold, asked without any of our functions

    def _database(self, gateway: str) -> str:
        return str(self._gateways[gateway]["database_url"]["mosaic_owner"])

    def _rows(self, gateway: str, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self._database(gateway)) as connection:
            return connection.execute(statement.encode(), values).fetchall()

    def _expected(self, resource: str, scope: Scope) -> set[str]:
        """Ids at work that Maya natively sees and the scope includes (contracts.md "Native RBAC")."""
        maya = self._seeded["work"].users[USER]
        rows = self._rows("work", f"SELECT id::text, owner_id, team_id FROM public.{resource}")  # noqa: S608 - one of READS
        teams = {team for (team,) in self._rows("work", "SELECT team_id FROM public.team_members WHERE user_id = %s", maya)}
        chosen = scope.filters.get(resource)
        return {
            row_id
            for row_id, owner, team in rows
            if (owner == maya or team in teams)
            and (chosen is None or (chosen.include_personal and team is None and owner == maya) or team in chosen.include_teams)
        }


def document_of(kind: AuthorityKind, told: Sequence[Told]) -> Mapping[str, object]:
    """The story as one JSON document."""
    return {"ca": str(kind), "seconds": round(sum(each.seconds for each in told), 2), "steps": [asdict(each) for each in told]}


def _hold(held: bool, otherwise: str) -> None:
    if not held:
        raise StoryFailed(otherwise)


def _private_keys_lie_once(pki: Path) -> bool:
    keys = [content for file in pki.glob("*/*.key") if b"PRIVATE KEY" in (content := file.read_bytes())]
    return len(keys) == len(set(keys)) > 0


def _answering(context: Context) -> Sequence[str]:
    """The services of a gateway, each of which has said that it serves.

    Raises:
        StoryFailed: one has not.
    """
    assert context.pki_dir is not None
    for identity, address in context.internal.items():
        health = HealthClient(address, identity=identity, gateway=context.gateway, operator_pki=context.pki_dir)
        _hold(health.serves(), f"{context.gateway}/{identity} does not say that it serves")
    return list(context.internal)


def _empty(folder: Path) -> None:
    """Make the folder anew, unless something works in it.

    Raises:
        FolderInUse: it does.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    FolderLock(folder).release()
    shutil.rmtree(folder)
    folder.mkdir(mode=0o700)


def _line(done: StepDone) -> str:
    return f"{done.name} {done.seconds:.1f} s"


def _shown(arguments: Sequence[str]) -> str:
    return f"mosaic {shlex.join(each if len(each) <= SHOWN_CHARACTERS else f'{each[:SHOWN_CHARACTERS]}…' for each in arguments)}"
