"""What is done with secrets between two gateways: everything that succeeds, and everything that is refused or fails.

Each story returns the canaries that it made; what lies on disk in the end is harvested afterwards (harvest.py).
"""

import asyncio
import base64
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final
from uuid import UUID, uuid4

from mosaic.ca.v1 import certificate_authority_pb2, certificate_authority_pb2_grpc
from mosaic.enrollment.v1 import enrollment_pb2
from mosaic.federation.v1 import federation_pb2, query_pb2
from mosaic.grants.v1 import grants_pb2, ledger_pb2, ledger_pb2_grpc
from mosaic_common.auth import Role, operate_audience, query_audience
from mosaic_common.errors import Reason
from mosaic_common.identity import CA_BROKER, EDGE_INBOUND, EDGE_OUTBOUND, ENROLLMENT, GRANTS
from mosaic_common.keys import private_pem
from mosaic_common.tokens import EnrollmentToken, EnrollmentUrl, token_id

from tests.support.attacked import COMMANDS
from tests.support.canaries import Canary
from tests.support.csrs import REFUSED, redemption_with
from tests.support.gateway import TASKS_NOTES_MEMORY, Gateway
from tests.support.harvest import bound_values_of, connection_of, csr_canary, jws_canary, key_canary, proof_canary, token_canary
from tests.support.peers import Redeemed, Redemption
from tests.support.talkative_pair import Start, TalkativePair, new_secret

USER: Final = "maya@example.com"
SENSITIVE: Final = {"resources": ["tasks", "credentials"], "max_rows_per_query": 50}
TRIES_UNTIL_LIMITED: Final = 400
Canaries = list[Canary]


async def everything(pair: TalkativePair) -> Canaries:
    """All stories, in an order in which each finds what it needs."""
    pair.chosen.sealing["home"]["MOSAIC_SEALING_KEY_NEXT"] = coming = new_secret()
    pair.chosen.sealing_ever["home"] = {"coming sealing secret": coming, **pair.chosen.sealing_ever["home"]}
    return [canary for story in STORIES for canary in await story(pair)]


# ── what succeeds ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def connecting(pair: TalkativePair) -> Canaries:
    """`peer add` by pipe, by argument, by prompt and as a re-enrollment; then queries through the connection."""
    canaries = []
    await pair.mosaic("-c", "work", "federation", "peer", "create", "home")
    grant_id = await pair.work.create_grant(user=USER, peer="home", scope=SENSITIVE, approve_sensitive=True)
    for way in ("pipe", "argument", "prompt"):
        grant_id = grant_id if way == "pipe" else await pair.work.create_grant(user=USER, peer="home", scope=TASKS_NOTES_MEMORY)
        url = await _url_of(pair, grant_id)
        add = ("-c", "home", "federation", "peer", "add")
        options = ("--user", USER, "--name", way)
        homes = ["stdout of mosaic -c work federation grant"]
        if way == "pipe":
            await pair.mosaic(*add, *options, typed=url.format())
            await pair.mosaic(*add, *options, typed=url.format())
        elif way == "argument":
            await pair.mosaic(*add, url.format(), *options)
            # By design: the command warns, and nobody can take it back from the process list.
            homes.append(f"*mosaic_cli {' '.join(add)} https:*")
        else:
            await pair.mosaic(*add, *options, prompted=url.format())
        csr_der, redemption_id = connection_of(pair.home, way)
        canaries += [token_canary(f"redeemed by {way}", url.token, *homes)]
        canaries += [proof_canary(f"by {way}", url.token.prove(csr_der, redemption_id, url.pin))]
    again = await _url_of(pair, grant_id, "--reenroll")
    await pair.mosaic(
        "-c", "home", "federation", "peer", "add", "--reenroll", "--user", USER, "--name", "prompt", typed=again.format()
    )
    canaries.append(token_canary("re-enrollment", again.token, "stdout of mosaic -c work federation grant"))
    for source in ("local", "federated:pipe", "all"):
        await pair.mosaic("-c", "home", "federation", "query", "tasks", "--source", source, "--user", USER, "-o", "json")
    return [*canaries, *await _application_secret(pair)]


async def _url_of(pair: TalkativePair, grant_id: str, *options: str) -> EnrollmentUrl:
    made = await pair.mosaic("-c", "work", "federation", "grant", "token", grant_id, *options)
    return EnrollmentUrl.parse(made.out.strip())


async def _application_secret(pair: TalkativePair) -> Canaries:
    """A password that the application keeps: its row is granted and read, the column never is."""
    secret = new_secret()
    user_id = _user_id(pair.work)
    pair.work.execute(
        """INSERT INTO public.credentials (id, owner_id, updated_at, created_at, secret_value, label, provider)
           VALUES (%s, %s, now(), now(), %s, 'label', 'provider')""",
        uuid4(),
        user_id,
        secret,
    )
    answer = await pair.mosaic(
        "-c", "home", "federation", "query", "credentials", "-s", "federated:pipe", "--user", USER, "-o", "json"
    )
    assert json.loads(answer.out)["rows"], "nothing was read"
    return [Canary("password: that the application keeps", secret.encode(), bound_values_of(pair.work, "credentials.secret_value"))]


async def enrolling_without_a_gateway(pair: TalkativePair) -> Canaries:
    """`enroll --out`: the key never leaves its folder."""
    url = await _offer(pair.work)
    await pair.mosaic("federation", "enroll", "--out", str(pair.owner / "enrolled"), typed=url.format())
    return [token_canary("enroll --out", url.token)]


async def a_stranger(pair: TalkativePair) -> Canaries:
    """A client of its own: redeems, repeats, reads, is refused, loses the grant."""
    work = pair.work
    grant_id = await work.create_grant(user=USER, peer="stranger", scope=TASKS_NOTES_MEMORY)
    url = await work.create_token(grant_id)
    redemption = Redemption.of(url)
    first = await pair.ask(work.enrollment.Enroll(redemption.request))
    assert first == await pair.ask(work.enrollment.Enroll(redemption.request))
    peer = work.peer_client(Redeemed(redemption, first))
    page = await pair.ask(peer.list("tasks", page_size=1))
    await pair.ask(peer.list("tasks", page_size=1, page_token=page.next_page_token))
    await pair.refused(peer.list("credentials"), Reason.RESOURCE_NOT_GRANTED)
    await pair.refused(peer.list("tasks", page_size=-1), Reason.PAGE_SIZE_INVALID)
    await pair.refused(peer.list("tasks", page_token=url.token.encode()), Reason.PAGE_TOKEN_INVALID)
    await pair.refused(peer.list(url.format()), Reason.RESOURCE_UNKNOWN)
    await pair.ask(work.grants.RevokeGrant(grants_pb2.RevokeGrantRequest(id=grant_id), metadata=work.operator_metadata()))
    await pair.refused(peer.capabilities(), Reason.GRANT_NOT_ACTIVE)
    return [token_canary("a stranger's", url.token), *_of(redemption, "a stranger's")]


def _of(redemption: Redemption, name: str) -> Canaries:
    return [
        key_canary(f"private key: {name}", private_pem(redemption.key)),
        csr_canary(name, redemption.request.csr_der),
        proof_canary(name, redemption.request.proof),
    ]


async def orders_to_sign(pair: TalkativePair) -> Canaries:
    """Warrants, asked for and handed in as enrollment does it: altered, good, used again."""
    work, url = pair.work, await _offer(pair.work)
    redemption = Redemption.of(url)
    ledger: Any = ledger_pb2_grpc.EnrollmentLedgerServiceStub(work.internal_channel(GRANTS, caller=ENROLLMENT))
    broker: Any = certificate_authority_pb2_grpc.CertificateAuthorityServiceStub(
        work.internal_channel(CA_BROKER, caller=ENROLLMENT)
    )
    request = redemption.request
    claim = ledger_pb2.ClaimEnrollmentRequest(
        token_public_key=request.token_public_key,
        csr_der=request.csr_der,
        redemption_id=request.redemption_id,
        proof=request.proof,
        source_address="127.0.0.1",
        signer_reachable=True,
    )
    attempt = (await pair.ask(ledger.ClaimEnrollment(claim), secret=True)).attempt
    order = certificate_authority_pb2.IssueCertificateRequest(csr_der=request.csr_der, warrant=attempt.warrant)
    await pair.refused(
        work.enrollment.Enroll(Redemption.of(url).request), Reason.ENROLLMENT_TOKEN_USED, Reason.ENROLLMENT_IN_PROGRESS
    )
    for warrant in (attempt.warrant[:-4] + "AAAA", attempt.warrant[:-20], f"{attempt.warrant}.x", url.token.encode()):
        altered = certificate_authority_pb2.IssueCertificateRequest(csr_der=request.csr_der, warrant=warrant)
        await pair.refused(broker.IssueCertificate(altered), Reason.WARRANT_INVALID)
    issued = await pair.ask(broker.IssueCertificate(order))
    await pair.refused(broker.IssueCertificate(order), Reason.CA_REFUSED)
    completion = ledger_pb2.CompleteEnrollmentRequest(
        token_id=attempt.token_id,
        attempt=attempt.number,
        certificate_der=issued.certificate_der,
        chain_der=issued.chain_der,
        source_address="127.0.0.1",
    )
    await pair.ask(ledger.CompleteEnrollment(completion))
    return [token_canary("of a warrant", url.token), *_of(redemption, "of a warrant"), jws_canary("warrant", attempt.warrant)]


async def operating(pair: TalkativePair) -> Canaries:
    """Everything else that an operator types; `auth token` prints what it made."""
    pki = str(pair.owner / "pki")
    at = ("-c", "home")
    made = await pair.mosaic(*at, "auth", "token", "--subject", "otto", "--role", "admin")
    token = made.out.strip()
    await pair.mosaic("pki", "init", "--dir", pki, "--gateway", "spare", "--public-host", "localhost")
    await pair.mosaic("pki", "issue", "grants", "--dir", pki)
    owner_url = {"DATABASE_URL_FILE": str(pair.folder / "work" / "services" / "owner" / "database-url"), "MOSAIC_ENV": "dev"}
    grant_id = await pair.work.create_grant(user=USER, peer="short-lived", scope=TASKS_NOTES_MEMORY)
    await asyncio.gather(
        pair.mosaic("pki", "show", "--dir", pki),
        pair.mosaic("db", "upgrade", variables=owner_url),
        pair.mosaic(*at, "federation", "peer", "show", "pipe", variables={"MOSAIC_TOKEN": token}),
        pair.mosaic(*at, "federation", "peer", "list", "-o", "json"),
        pair.mosaic("-c", "work", "federation", "grant", "list", "-o", "json"),
        pair.mosaic("-c", "work", "federation", "grant", "show", grant_id, "-o", "json"),
        pair.mosaic("context", "list"),
    )
    await pair.mosaic("-c", "work", "federation", "grant", "delete", grant_id)
    for verb in ("suspend", "resume", "revoke"):
        await pair.mosaic("-c", "work", "federation", "peer", verb, "home")
        await pair.mosaic(*at, "federation", "query", "tasks", "-s", "federated:pipe", "--user", USER)
    await pair.mosaic(*at, "federation", "peer", "show", "pipe", "-o", "json")
    return [jws_canary("bearer token: of `auth token`", token, "stdout of mosaic -c home auth token")]


async def rotating(pair: TalkativePair) -> Canaries:
    """The coming sealing secret is promoted, wrong ones refused, and every row sealed anew."""
    home, sealing = pair.home, pair.chosen.sealing["home"]
    await pair.stop(home, GRANTS)
    wrong = new_secret()
    environment = {name: value for name, value in pair.chosen.environments["home", GRANTS].items() if "SEALING" not in name}
    await pair.fail_starts([Start("mosaic_grants", ("serve",), environment | {"MOSAIC_SEALING_KEY": wrong}, "not the right one")])
    sealing["MOSAIC_SEALING_KEY_PREVIOUS"] = sealing["MOSAIC_SEALING_KEY"]
    sealing["MOSAIC_SEALING_KEY"] = sealing.pop("MOSAIC_SEALING_KEY_NEXT")
    await pair.start(home, GRANTS)
    await pair.settled(home, GRANTS, "postgres")
    await pair.mosaic("-c", "home", "seal", "status")
    rotated = await pair.mosaic("-c", "home", "seal", "rotate", "-o", "json")
    assert json.loads(rotated.out)["resealed"], rotated
    return [Canary("sealing secret: wrong", wrong.encode())]


# ── what is refused ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def bad_tokens(pair: TalkativePair) -> Canaries:
    """Unknown, wrongly proved, voided, expired, used; hammered until there is a limit."""
    work = pair.work
    expired, used = await _offer(work), await _offer(work)
    grant_id = await work.create_grant(user=USER, peer="two-tokens", scope=TASKS_NOTES_MEMORY)
    voided, _ = await work.create_token(grant_id), await work.create_token(grant_id)
    work.execute(
        "UPDATE federation.federation_enrollment_tokens SET expires_at = now() - interval '1 second' WHERE token_id = %s",
        token_id(expired.token.public_key),
    )
    unknown = used.with_token(EnrollmentToken.generate())
    tries = {
        unknown: Reason.ENROLLMENT_TOKEN_UNKNOWN,
        voided: Reason.ENROLLMENT_TOKEN_VOIDED,
        expired: Reason.ENROLLMENT_TOKEN_EXPIRED,
    }
    canaries = [token_canary(reason, url.token) for url, reason in tries.items()]
    for url, reason in tries.items():
        redemption = Redemption.of(url)
        await pair.refused(work.enrollment.Enroll(redemption.request), reason)
        canaries += _of(redemption, reason)
    good = Redemption.of(used)
    for field, value in {
        "proof": good.request.proof[:-1] + bytes([good.request.proof[-1] ^ 1]),
        "redemption_id": str(uuid4()),
        "csr_der": Redemption.of(used).request.csr_der,
        "token_public_key": used.token.seed,
    }.items():
        altered = enrollment_pb2.EnrollRequest.FromString(good.request.SerializeToString())
        setattr(altered, field, value)
        await pair.refused(work.enrollment.Enroll(altered), Reason.ENROLLMENT_TOKEN_UNKNOWN)
    short = enrollment_pb2.EnrollRequest.FromString(good.request.SerializeToString())
    short.proof = good.request.proof[:40]
    await pair.refused(work.enrollment.Enroll(short))
    await pair.ask(work.enrollment.Enroll(good.request))
    taken = Redemption.of(used)
    await pair.refused(work.enrollment.Enroll(taken.request), Reason.ENROLLMENT_TOKEN_USED)
    stub = work.enrollment
    # Its own budget counts from when enrollment has heard of the token, which may take a second.
    for _ in range(TRIES_UNTIL_LIMITED):
        if (await pair.refused(stub.Enroll(taken.request))).reason == Reason.RATE_LIMITED:
            break
    return [*canaries, token_canary("used", used.token), *_of(good, "used"), *_of(taken, "too late")]


async def bad_requests_to_sign(pair: TalkativePair) -> Canaries:
    """Every row of the table of signing requests that nobody signs."""
    url, canaries = await _offer(pair.work), []
    stub = pair.work.enrollment
    for row in REFUSED:
        make, reason = row.values
        csr_der = make(url.common_name)  # type: ignore[operator]
        request = redemption_with(url, csr_der)
        await pair.refused(stub.Enroll(request), reason, Reason.MESSAGE_MALFORMED, Reason.REQUEST_INVALID)  # type: ignore[arg-type]
        canaries.append(proof_canary(f"for {row.id}", request.proof))
        if len(csr_der) > 100:
            canaries.append(csr_canary(str(row.id), csr_der))
    return [*canaries, token_canary("for bad requests", url.token)]


async def bearer_tokens(pair: TalkativePair) -> Canaries:
    """Tokens of operators and users: good, altered, of another audience, role, gateway; in the wrong header."""
    work, home = pair.work, pair.home
    user_id = _user_id(home)
    good = work.token("otto", Role.ADMIN, audience=operate_audience("work"))
    tokens = {
        "good": good,
        "altered": good[:-6] + "AAAAAA",
        "for queries": work.token(str(user_id), Role.QUERY, audience=query_audience("work")),
        "of home": home.token("otto", Role.ADMIN, audience=operate_audience("home")),
        "of a reader": work.token("otto", Role.READ, audience=operate_audience("work")),
        "of home's user": home.token(str(user_id), Role.QUERY, audience=query_audience("home")),
    }
    create = grants_pb2.CreatePeerRequest(name="never")
    for name in ("altered", "for queries", "of home", "of a reader"):
        metadata = (("authorization", f"Bearer {tokens[name]}"),)
        await pair.refused(work.peers.CreatePeer(create, metadata=metadata), Reason.AUTH_TOKEN_INVALID, Reason.ROLE_REQUIRED)
    for header in (good, f"Basic {good}", f"Bearer  {good}", f"Bearer {good} {good}"):
        refused = work.peers.CreatePeer(create, metadata=(("authorization", header),))
        await pair.refused(refused, Reason.AUTH_TOKEN_INVALID, Reason.AUTH_TOKEN_MISSING)
    await pair.refused(work.peers.CreatePeer(create), Reason.AUTH_TOKEN_MISSING)
    query = query_pb2.QueryRequest(verb=federation_pb2.VERB_LIST, resources=["tasks"], source="local")
    users = tokens["of home's user"]
    await pair.ask(home.queries.Query(query, metadata=(("authorization", f"Bearer {users}"),)))
    await pair.refused(home.queries.Query(query, metadata=(("authorization", f"Bearer {good}"),)), Reason.AUTH_TOKEN_INVALID)
    credentials: Any = ledger_pb2_grpc.PeerCredentialServiceStub(home.internal_channel(GRANTS, caller=EDGE_OUTBOUND))
    for name in ("altered", "good"):
        request = ledger_pb2.GetPeerCredentialRequest(user_token=tokens[name])
        await pair.refused(credentials.GetPeerCredential(request), Reason.AUTH_TOKEN_INVALID)
    request = ledger_pb2.GetPeerCredentialRequest(user_token=users)
    assert (await pair.ask(credentials.GetPeerCredential(request), secret=True)).credentials, "no key was released"
    for bad in (tokens["altered"], good, new_secret()):
        await pair.mosaic("-c", "work", "federation", "peer", "list", code=None, variables={"MOSAIC_TOKEN": bad})
    return [jws_canary(f"bearer token: {name}", token) for name, token in tokens.items() if name != "altered"]


async def secrets_in_wrong_fields(pair: TalkativePair) -> Canaries:
    """What somebody pastes where it does not belong. It is told back to whoever sent it, and kept nowhere."""
    work, home = pair.work, pair.home
    admin = work.operator_metadata()
    token, key = EnrollmentToken.generate(), Redemption.of(await _offer(work))
    url = (await _offer(work)).with_token(token).format()
    pem, jws = private_pem(key.key).decode(), work.token("otto", Role.ADMIN, audience=operate_audience("work"))
    pasted = {"token": token.encode(), "url": url, "key": pem, "jws": jws}
    for secret in (*pasted.values(), f"\x00{token.encode()}", f"see {url} ", token.encode() * 40, pem * 100):
        scope = json.dumps({"resources": [secret], secret: secret, "filters": {secret: {}}, "max_rows_per_query": secret})
        calls = [
            work.peers.CreatePeer(grants_pb2.CreatePeerRequest(name=secret), metadata=admin),
            work.peers.GetPeer(grants_pb2.GetPeerRequest(peer=secret), metadata=admin),
            work.peers.SuspendPeer(grants_pb2.SuspendPeerRequest(peer=secret), metadata=admin),
            work.peers.ListPeers(grants_pb2.ListPeersRequest(user=secret), metadata=admin),
            work.peers.ListPeers(grants_pb2.ListPeersRequest(page_token=secret), metadata=admin),
            work.grants.GetGrant(grants_pb2.GetGrantRequest(id=secret), metadata=admin),
            work.grants.ListGrants(grants_pb2.ListGrantsRequest(peer=secret), metadata=admin),
            work.grants.RevokeGrant(grants_pb2.RevokeGrantRequest(id=str(uuid4()), reason=secret), metadata=admin),
            work.grants.CreateGrant(grants_pb2.CreateGrantRequest(user=secret, peer="home", scope_json="{}"), metadata=admin),
            work.grants.CreateGrant(grants_pb2.CreateGrantRequest(user=USER, peer=secret, scope_json="{}"), metadata=admin),
            work.grants.CreateGrant(grants_pb2.CreateGrantRequest(user=USER, peer="home", scope_json=scope), metadata=admin),
            work.grants.CreateGrant(grants_pb2.CreateGrantRequest(user=USER, peer="home", scope_json=secret), metadata=admin),
            home.peers.PrepareConnection(_connection(name=secret), metadata=home.operator_metadata()),
            home.peers.PrepareConnection(_connection(remote_gateway=secret), metadata=home.operator_metadata()),
            home.peers.PrepareConnection(_connection(enrollment_address=secret), metadata=home.operator_metadata()),
            home.queries.Query(_query(resources=[secret]), metadata=home.user_metadata(_user_id(home))),
            home.queries.Query(_query(source=f"federated:{secret}"), metadata=home.user_metadata(_user_id(home))),
            home.queries.Query(_query(page_token=secret), metadata=home.user_metadata(_user_id(home))),
            work.enrollment.Enroll(enrollment_pb2.EnrollRequest(redemption_id=secret, token_public_key=bytes(31) + b"\x05")),
        ]
        for call in calls:
            await pair.refused(call)
        header = secret.replace("\n", " ").replace("\x00", "")[:200]
        await pair.ask(
            work.peers.ListPeers(grants_pb2.ListPeersRequest(), metadata=(*admin, ("x-request-id", header), ("user-agent", header)))
        )
    for secret in (token.encode(), url):
        await pair.mosaic("-c", "work", "federation", "peer", "show", secret, code=1)
        await pair.mosaic("-c", "work", "federation", "grant", "show", secret, code=1)
    # By whoever sent it, it is read again; the process list has it, because it was typed there.
    # PostgreSQL was told to show what is bound.
    told_back = (
        "refused: *",
        "stderr of mosaic -c work federation *",
        "*mosaic_cli -c work federation * show *",
        "*/logs/postgres.log",
    )
    return [
        token_canary("pasted into wrong fields", token, *told_back),
        key_canary("private key: pasted into wrong fields", pem.encode(), *told_back),
        jws_canary("bearer token: pasted into wrong fields", jws, *told_back),
    ]


def _connection(**changed: str) -> grants_pb2.PrepareConnectionRequest:
    fields: dict[str, Any] = {
        "user": USER,
        "name": "new",
        "remote_gateway": "work",
        "common_name": "home",
        "enrollment_address": "https://localhost:1",
    }
    return grants_pb2.PrepareConnectionRequest(token_id=os.urandom(32), **(fields | changed))


def _query(**changed: Any) -> query_pb2.QueryRequest:
    fields: dict[str, Any] = {"verb": federation_pb2.VERB_LIST, "resources": ["tasks"], "source": "local"}
    return query_pb2.QueryRequest(**(fields | changed))


async def wrong_urls(pair: TalkativePair) -> Canaries:
    """URLs that are cut, altered, of another gateway or pin, redeemed already; with --debug too."""
    url = await _offer(pair.work)
    text, token = url.format(), url.token.encode()
    wrong = {
        "cut": text[:-4],
        "longer": text + "AAAA",
        "padded": text + "=",
        "http": text.replace("https", "http", 1),
        "in the query": text.replace("#", "?", 1),
        "in the path": text.replace("#", f"/{token}#", 1),
        "as the host": text.replace("//", f"//{token}@", 1),
        "twice": f"{text}&token={token}",
        "a port": text.replace("localhost", f"localhost:{token}", 1).replace("127.0.0.1", f"127.0.0.1:{token}", 1),
        "the token alone": token,
        "two lines": text.replace("token=", "token=\n"),
    }
    add = ("federation", "peer", "add", "--user", USER, "--name", "wrong")
    await asyncio.gather(*(pair.mosaic("-c", "home", *add, typed=each, code=2) for each in wrong.values()))
    other_pin = replace(url, pin=bytes(32)).format()
    other_gateway = replace(url, gateway="elsewhere").format()
    for each in (other_pin, other_gateway):
        await pair.mosaic("--debug", "-c", "home", *add, typed=each, code=1)
        await pair.mosaic("federation", "enroll", "--out", str(pair.owner / f"out-{uuid4()}"), typed=each, code=1)
    return [token_canary("in wrong URLs", url.token)]


# ── what fails ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def defects(pair: TalkativePair) -> Canaries:
    """Exceptions that nobody foresaw, on the way of a token, of a key, of a request and of a certificate."""
    url, canaries = await _offer(pair.work), []
    redemption = Redemption.of(url)
    async with _broken(pair.home, "federation_peer_keys"):
        ran = await pair.mosaic(
            "-c", "home", "federation", "peer", "add", "--user", USER, "--name", "defect", typed=url.format(), code=1
        )
        assert "INTERNAL" in ran.err
    async with _broken(pair.work, "federation_certificates"):
        await pair.refused(pair.work.enrollment.Enroll(redemption.request), Reason.INTERNAL)
    async with _broken(pair.work, "federation_enrollment_tokens"):
        grant_id = await pair.work.create_grant(user=USER, peer="defect", scope=TASKS_NOTES_MEMORY)
        request = grants_pb2.CreateEnrollmentTokenRequest(grant_id=grant_id, token_public_key=EnrollmentToken.generate().public_key)
        await pair.refused(pair.work.grants.CreateEnrollmentToken(request, metadata=pair.work.operator_metadata()), Reason.INTERNAL)
    canaries += [token_canary("met by defects", url.token), *_of(redemption, "met by defects")]
    return canaries


@asynccontextmanager
async def _broken(gateway: Gateway, table: str) -> AsyncIterator[None]:
    """Nothing can be written to a table, for a reason that no code expects."""
    gateway.execute(f"ALTER TABLE federation.{table} ADD CONSTRAINT unforeseen CHECK (false) NOT VALID")
    try:
        yield
    finally:
        gateway.execute(f"ALTER TABLE federation.{table} DROP CONSTRAINT unforeseen")


async def outages(pair: TalkativePair) -> Canaries:
    """step-ca, the broker, Valkey, grants and PostgreSQL are away while somebody redeems."""
    work, canaries = pair.work, []
    away = {
        "step-ca": (Reason.CA_UNREACHABLE, Reason.DEPENDENCY_UNAVAILABLE),
        CA_BROKER: (Reason.DEPENDENCY_UNAVAILABLE,),
        "postgres": (Reason.DEPENDENCY_UNAVAILABLE, Reason.DEADLINE_EXCEEDED),
        GRANTS: (Reason.DEPENDENCY_UNAVAILABLE,),
    }
    for service, reasons in away.items():
        url = await _offer(work)
        redemption = Redemption.of(url)
        await pair.stop(work, service)
        await pair.refused(work.enrollment.Enroll(redemption.request), *reasons)
        await pair.start(work, service)
        await pair.settled(work, GRANTS, "postgres", CA_BROKER)
        await pair.settled(work, CA_BROKER, "step-ca")
        await pair.settled(work, ENROLLMENT, GRANTS, CA_BROKER)
        canaries += [token_canary(f"while {service} is away", url.token), *_of(redemption, f"while {service} is away")]
    url = await _offer(work)
    redemption = Redemption.of(url)
    pair.note_values(work)
    await pair.stop(work, "valkey")
    await pair.ask(work.enrollment.Enroll(redemption.request))
    await pair.start(work, "valkey")
    pair.watch_valkey(work)
    await pair.settled(work, ENROLLMENT, "valkey")
    return [*canaries, token_canary("while Valkey is away", url.token), *_of(redemption, "while Valkey is away")]


async def starts_that_fail(pair: TalkativePair) -> Canaries:
    """Configurations with a secret in them that stop the start, each with one sentence that does not repeat it."""
    secret, token = new_secret(), EnrollmentToken.generate()
    await pair.fail_starts([*_grants_starts(pair, secret), *_others_starts(pair, secret), *_database_starts(pair, secret, token)])
    homes = ("owner/*.config.json",)
    return [Canary("password: in configurations", secret.encode(), homes), token_canary("in configurations", token)]


def _start(pair: TalkativePair, identity: str, variable: str, value: str, remark: str = "", **further: str) -> Start:
    """As the service runs, but for one variable."""
    environment = dict(pair.chosen.environments["work", identity])
    if variable == "MOSAIC_CONFIG_FILE":
        del environment["DATABASE_URL_FILE"]
    for name in (variable, *further):
        for spelling in (name.removesuffix("_FILE"), f"{name.removesuffix('_FILE')}_FILE"):
            environment.pop(spelling, None)
    module, *arguments = COMMANDS[identity]
    return Start(module, tuple(arguments), environment | {variable: value} | further, remark or variable)


def _grants_starts(pair: TalkativePair, secret: str) -> Iterator[Start]:
    word = f"https://u:{secret}@h/d"
    for variable in ("LOG_LEVEL", "GATEWAY", "ENROLLMENT_URL", "CA_BROKER_ADDRESS", "OPERATOR_LISTEN", "FEDERATION_ROOT", "ENV"):
        yield _start(pair, GRANTS, f"MOSAIC_{variable}", word)
    for variable in ("DATABASE_URL_FILE", "MOSAIC_SEALING_KEY_FILE", "MOSAIC_FEDERATION_ROOT_FILE"):
        yield _start(pair, GRANTS, variable, secret)
    database = f"postgresql://m:{secret}@localhost/m?sslmode=verify-full"
    yield _start(pair, GRANTS, "MOSAIC_SEALING_KEY", secret[:31], MOSAIC_ENV="production", DATABASE_URL=database)
    yield _start(pair, GRANTS, "BETTER_AUTH_SECRET", secret, "MOSAIC_SEALING_KEY")
    yield _start(pair, GRANTS, "MOSAIC_SEALNG_KEY", secret)


def _others_starts(pair: TalkativePair, secret: str) -> Iterator[Start]:
    for url in (f"http://u:{secret}@h", f"redis:/u:{secret}@h", f"redis://u@h:{secret}", f"redis://u:1/{secret}@h", secret):
        yield _start(pair, ENROLLMENT, "REDIS_URL", url)
    yield _start(pair, EDGE_INBOUND, "MOSAIC_FEDERATION_ROOT_FILE", secret)
    jwk = json.loads((pair.folder / "work" / "step-ca" / "secrets" / "mosaic-fed.json").read_text())
    jwe = (pair.folder / "work" / "services" / "ca-broker" / "provisioner-key.jwe").read_text()
    key, password = "STEP_CA_PROVISIONER_KEY_JSON", "STEP_CA_PROVISIONER_PASSWORD"
    without_kid = {name: value for name, value in jwk.items() if name != "kid"}
    for document in (json.dumps(jwk)[:-3], json.dumps(jwk | {"crv": "P-384"}), json.dumps(without_kid), jwe[:-5], secret):
        yield _start(pair, CA_BROKER, key, document)
    for wrong in (secret, secret[:9]):
        yield _start(pair, CA_BROKER, password, wrong)
    yield _start(pair, CA_BROKER, "STEP_CA_URL", f"https://u:{secret}@h")


def _database_starts(pair: TalkativePair, secret: str, token: EnrollmentToken) -> Iterator[Start]:
    no_authority = f"postgresql:/m:{secret}@h/d"
    unescaped, as_port = f"postgresql://m:1/{secret}@h/d", f"postgresql://m@h:{token.encode()}/d"
    for url in (no_authority, unescaped, as_port, f"mysql://m:{secret}@h/d", f"m:{secret}@h", secret):
        yield _start(pair, GRANTS, "DATABASE_URL", url)
    for name, content, remark in (
        ("wrong", json.dumps({"database": {"url": no_authority}}), "database.url"),
        ("broken", f'{{"database": {{"url": "postgresql://m:{secret}@localhost/m"', "not JSON"),
    ):
        file = pair.owner / f"{name}.config.json"
        file.write_text(content)
        yield _start(pair, GRANTS, "MOSAIC_CONFIG_FILE", str(file), remark)
    server = pair.work.database.superuser_url.rpartition("@")[2]
    upgrade = {"MOSAIC_ENV": "dev", "DATABASE_URL": f"postgresql://mosaic_owner:{secret}@{server}"}
    yield Start("mosaic_grants", ("db", "upgrade"), upgrade, "password authentication failed")
    for passwords, remark in ((json.dumps({"mosaic_owner": secret}), "must name exactly"), (f"{{{secret}", "no JSON object")):
        bootstrap = {"MOSAIC_ENV": "dev", "MOSAIC_BOOTSTRAP_URL": f"postgresql://postgres:{secret}@{server}"}
        yield Start("mosaic_grants", ("db", "bootstrap"), bootstrap | {"MOSAIC_BOOTSTRAP_PASSWORDS": passwords}, remark)


# ── no secret: what shows that the search sees each kind of place ────────────────────────────────────────────────────────────────


async def planting(pair: TalkativePair) -> Canaries:
    """Put one word into every kind of place: where it is not found, a secret would not be found either."""
    planted, work = pair.chosen.planted, pair.work
    (pair.owner / "planted").write_bytes(base64.b64encode(b"x" + planted.encode()))
    for gateway in (pair.home, work):
        gateway.execute("UPDATE public.users SET name = %s WHERE email = %s", planted, USER)
        pair.valkey(gateway).set("planted", planted)
    named = ("x-request-id", planted)
    await pair.ask(work.peers.ListPeers(grants_pb2.ListPeersRequest(), metadata=(*work.operator_metadata(), named)))
    await pair.refused(work.peers.GetPeer(grants_pb2.GetPeerRequest(peer=planted), metadata=work.operator_metadata()))
    await pair.refused(work.enrollment.Enroll(enrollment_pb2.EnrollRequest(), metadata=(named,)))
    await pair.mosaic("-c", "work", "federation", "peer", "show", planted, code=1)
    create = grants_pb2.CreatePeerRequest(name="planted", display_name=planted)
    await pair.ask(work.peers.CreatePeer(create, metadata=work.operator_metadata()))
    return [Canary("planted: no secret", planted.encode(), ("*",))]


# ── shared ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _offer(gateway: Gateway) -> EnrollmentUrl:
    grant_id = await gateway.create_grant(user=USER, peer=f"peer-{uuid4().hex}", scope=TASKS_NOTES_MEMORY)
    return await gateway.create_token(grant_id)


def _user_id(gateway: Gateway) -> UUID:
    [(user_id,)] = gateway.rows("SELECT id FROM public.users WHERE email = %s", USER)
    return UUID(str(user_id))


STORIES: Final[Sequence[Callable[[TalkativePair], Awaitable[Canaries]]]] = (
    planting,
    connecting,
    enrolling_without_a_gateway,
    a_stranger,
    orders_to_sign,
    bad_tokens,
    bad_requests_to_sign,
    bearer_tokens,
    secrets_in_wrong_fields,
    wrong_urls,
    defects,
    outages,
    starts_that_fail,
    rotating,
    operating,
)
