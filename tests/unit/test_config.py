"""Configuration: where values come from, and sentences that an operator can act on."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest
from mosaic_common.config import (
    KNOWN_VARIABLES,
    Address,
    CommonConfig,
    DatabaseUrl,
    HttpsOrigin,
    ValkeyUrl,
    effective,
    load,
    require_environment_rules,
)
from mosaic_common.errors import ConfigurationError
from pydantic import BaseModel, Field, SecretStr

CANARY: Final = "hunter2-0123456789-0123456789-0123456789"
DATABASE: Final = f"postgresql://mosaic_grants:{CANARY}@db.internal:5432/mosaic?sslmode=verify-full"
VALKEY: Final = f"rediss://grants:{CANARY}@valkey.internal:6379/0"


class Config(CommonConfig):
    """A service with one variable of each kind."""

    database_url: DatabaseUrl = Field(description="a postgresql:// URL")
    redis_url: ValkeyUrl | None = Field(default=None, description="a rediss:// URL")
    mosaic_public_listen: Address | None = Field(default=None, description="host:port for the public listener")
    mosaic_enrollment_url: HttpsOrigin | None = Field(default=None, description="https://host:port as peers reach it")
    mosaic_sealing_key: SecretStr | None = Field(default=None, description="at least 32 random bytes")
    mosaic_embedded_ca_dir: Path | None = Field(default=None, description="the folder of the embedded CA")
    attempts: int = Field(default=3, description="a whole number")


def environment(**changes: str | None) -> dict[str, str]:
    """A good environment of a production service; None takes a variable out."""
    variables = {
        "MOSAIC_GATEWAY": "home",
        "MOSAIC_PKI_DIR": "/run/mosaic/pki/grants",
        "MOSAIC_INTERNAL_LISTEN": "0.0.0.0:7102",
        "DATABASE_URL": DATABASE,
        "PATH": "/usr/bin",
        **changes,
    }
    return {name: value for name, value in variables.items() if value is not None}


def development(**changes: str | None) -> dict[str, str]:
    local = {
        "MOSAIC_ENV": "dev",
        "MOSAIC_INTERNAL_LISTEN": "127.0.0.1:7102",
        "DATABASE_URL": "postgresql://mosaic@127.0.0.1/mosaic",
    }
    return environment(**{**local, **changes})


def sentence(environ: Mapping[str, str], config_file: Path | None = None, model: type[BaseModel] = Config) -> str:
    """What stops the start; it never holds a value."""
    with pytest.raises(ConfigurationError) as stopped:
        load(model, environ, config_file)
    assert CANARY not in str(stopped.value)
    assert stopped.value.__suppress_context__ or stopped.value.__context__ is None
    return str(stopped.value)


@pytest.fixture
def config_json(tmp_path: Path) -> Path:
    path = tmp_path / "mosaic.config.json"
    path.write_text(json.dumps({"tier": "federated", "database": {"url": DATABASE}, "queue": {"url": VALKEY}}))
    return path


def test_reads_the_environment() -> None:
    """Each variable arrives in its type, and what is not given has its default, production first of all."""
    config = load(Config, environment(MOSAIC_PUBLIC_LISTEN="[::]:7444", ATTEMPTS="5"))
    assert config.mosaic_env == "production"
    assert config.mosaic_gateway == "home"
    assert config.mosaic_internal_listen == Address("0.0.0.0", 7102)
    assert config.mosaic_public_listen == Address("::", 7444)
    assert config.database_url.get_secret_value() == DATABASE
    assert (config.attempts, config.redis_url, config.mosaic_log_level) == (5, None, "info")


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_reads_a_value_from_the_file_that_name_file_names(tmp_path: Path, ending: str) -> None:
    """Secrets come as files; the line end that an editor leaves is not part of the secret."""
    file = tmp_path / "database-url"
    file.write_bytes((DATABASE + ending).encode())
    config = load(Config, environment(DATABASE_URL=None, DATABASE_URL_FILE=str(file)))
    assert config.database_url.get_secret_value() == DATABASE


def test_takes_valkey_url_for_redis_url(tmp_path: Path) -> None:
    """Both names of the same thing work, as files too."""
    file = tmp_path / "valkey-url"
    file.write_text(VALKEY)
    for given in ({"VALKEY_URL": VALKEY}, {"VALKEY_URL_FILE": str(file)}, {"REDIS_URL_FILE": str(file)}):
        config = load(Config, environment(**given))
        assert config.redis_url is not None
        assert config.redis_url.get_secret_value() == VALKEY


def test_lets_the_environment_win_over_the_configuration_file(config_json: Path) -> None:
    """mosaic.config.json fills what the environment leaves open, whether it is handed over or named by MOSAIC_CONFIG_FILE."""
    from_file = load(Config, environment(DATABASE_URL=None), config_json)
    assert from_file.database_url.get_secret_value() == DATABASE
    assert from_file.redis_url is not None
    named = load(Config, environment(DATABASE_URL=None, MOSAIC_CONFIG_FILE=str(config_json)))
    assert named == from_file
    other = DATABASE.replace("db.internal", "other.internal")
    assert load(Config, environment(DATABASE_URL=other), config_json).database_url.get_secret_value() == other


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        pytest.param(
            environment(MOSAIC_GATEWAY=None),
            "MOSAIC_GATEWAY is not set: it needs this gateway's name, at most 63 lower-case letters, digits and inner hyphens, "
            "such as home.",
            id="one variable missing",
        ),
        pytest.param(
            environment(MOSAIC_PKI_DIR=None, DATABASE_URL=None),
            "2 variables are not set: MOSAIC_PKI_DIR needs the folder of this service that `mosaic pki init` made; "
            "DATABASE_URL needs a postgresql:// URL.",
            id="two missing: told at once",
        ),
        pytest.param(
            environment(MOSAIC_GATWAY="home"),
            "MOSAIC_GATWAY is not a variable that Mosaic Federation knows: did you mean MOSAIC_GATEWAY?",
            id="misspelt",
        ),
        pytest.param(
            environment(MOSAIC_FROBNICATE="1"),
            "MOSAIC_FROBNICATE is not a variable that Mosaic Federation knows: unset it.",
            id="unknown",
        ),
        pytest.param(
            environment(mosaic_env="dev"),
            "mosaic_env is not a variable that Mosaic Federation knows: did you mean MOSAIC_ENV?",
            id="lower case: it would be ignored",
        ),
        pytest.param(
            environment(DATABASE_URL_FILE="/run/secrets/database-url"),
            "DATABASE_URL and DATABASE_URL_FILE are set, but only one of them may be: unset the rest.",
            id="value and file",
        ),
        pytest.param(
            environment(REDIS_URL=VALKEY, VALKEY_URL=VALKEY),
            "REDIS_URL and VALKEY_URL are set, but only one of them may be: unset the rest.",
            id="both names",
        ),
        pytest.param(
            environment(MOSAIC_ENV=""), "MOSAIC_ENV is empty: give it a value, or unset MOSAIC_ENV.", id="empty is not unset"
        ),
        pytest.param(
            environment(MOSAIC_ENV="development"), "MOSAIC_ENV cannot be used: it needs production or dev.", id="not one of two"
        ),
        pytest.param(environment(ATTEMPTS=CANARY), "ATTEMPTS cannot be used: it needs a whole number.", id="not a number"),
        pytest.param(
            environment(DATABASE_URL=CANARY), "DATABASE_URL cannot be used: it needs a postgresql:// URL.", id="not a URL"
        ),
        pytest.param(
            environment(DATABASE_URL=f"postgresql://u@db:{CANARY}/m?sslmode=verify-full"),
            "DATABASE_URL cannot be used: it needs a postgresql:// URL.",
            id="a password where the port belongs",
        ),
        pytest.param(
            environment(DATABASE_URL=f"postgresql://u:1234/{CANARY}@db/m?sslmode=verify-full"),
            "DATABASE_URL cannot be used: it needs a postgresql:// URL.",
            id="a password with a slash: its end would pass for a path",
        ),
        pytest.param(
            environment(DATABASE_URL=f"postgresql://u:{CANARY}@db,x@%2Frun/m"),
            "DATABASE_URL cannot be used: it needs a postgresql:// URL.",
            id="a password with an @: drivers would look its end up as a host",
        ),
        pytest.param(
            environment(DATABASE_URL=f"postgresql://u:{CANARY}@%2Frun/m?application_name=a#&host=db"),
            "DATABASE_URL cannot be used: it needs a postgresql:// URL.",
            id="a fragment: to one driver it is a part of the query",
        ),
        pytest.param(
            environment(REDIS_URL=DATABASE), "REDIS_URL cannot be used: it needs a rediss:// URL.", id="URL of something else"
        ),
        pytest.param(
            environment(DATABASE_URL=None, DATABASE_URL_FILE=f"/nowhere/{CANARY}"),
            "The file that DATABASE_URL_FILE names cannot be read: No such file or directory.",
            id="file not there, its name perhaps the secret",
        ),
        pytest.param(
            environment(DATABASE_URL=None, DATABASE_URL_FILE="/"),
            "The file that DATABASE_URL_FILE names cannot be read: Is a directory.",
            id="a folder",
        ),
        pytest.param(
            environment(DATABASE_URL=None, DATABASE_URL_FILE="/dev/zero"),
            "The file that DATABASE_URL_FILE names cannot be used: it must be a file of at most 64 KiB.",
            id="a file without an end",
        ),
        pytest.param(
            environment(DATABASE_URL=None, DATABASE_URL_FILE="/dev/null"),
            "The file that DATABASE_URL_FILE names is empty: give it a value, or unset DATABASE_URL_FILE.",
            id="an empty file",
        ),
    ],
)
def test_stops_with_one_sentence(environ: dict[str, str], says: str) -> None:
    """Whatever is wrong, the sentence names the variable as the operator spelt it, and what to do; never a value."""
    assert sentence(environ) == says


def test_refuses_a_file_that_is_not_text(tmp_path: Path) -> None:
    """A binary secret in a text variable is a mistake, not a password."""
    (tmp_path / "key").write_bytes(b"\xff\xfe")
    told = sentence(environment(MOSAIC_SEALING_KEY_FILE=str(tmp_path / "key")))
    assert told == "The file that MOSAIC_SEALING_KEY_FILE names is not UTF-8 text."


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param('{"tier": ', "mosaic.config.json is not JSON: expecting value at line 1, column 10.", id="not JSON"),
        pytest.param(b"\xff", "mosaic.config.json is not UTF-8 text.", id="not text"),
        pytest.param("[]", "mosaic.config.json must hold an object.", id="a list"),
        pytest.param('{"database": "x"}', "database in mosaic.config.json must hold an object.", id="database as text"),
        pytest.param('{"database": {"url": 5}}', "database.url in mosaic.config.json must be text that is not empty.", id="number"),
        pytest.param('{"tier": ""}', "tier in mosaic.config.json must be text that is not empty.", id="empty"),
        pytest.param(
            '{"tier": "gold"}',
            "tier in mosaic.config.json cannot be used: it needs local, standalone or federated.",
            id="not a tier",
        ),
        pytest.param(
            json.dumps({"queue": {"host": CANARY}}),
            "queue.host in mosaic.config.json is not a key that Mosaic Federation knows: it reads tier, database.url, queue.url.",
            id="unknown key",
        ),
        pytest.param(
            '{"tier": "local", "tier": "federated"}',
            "tier is given more than once in mosaic.config.json: keep one.",
            id="key given twice",
        ),
        pytest.param(" " * 70_000, "The configuration file cannot be used: it must be a file of at most 64 KiB.", id="too large"),
        pytest.param(
            "[" * 60_000,
            "mosaic.config.json cannot be used: a number or the nesting in it is far too large.",
            id="nested without end",
        ),
    ],
)
def test_stops_on_a_configuration_file_that_it_does_not_understand(config_json: Path, content: str | bytes, says: str) -> None:
    """The file is read whole or not at all, and the sentence names the key."""
    config_json.write_bytes(content.encode() if isinstance(content, str) else content)
    assert sentence(environment(), config_json) == says


def test_stops_when_the_named_configuration_file_is_not_there(tmp_path: Path) -> None:
    """A file that was asked for and is missing is not the same as no file."""
    told = sentence(environment(MOSAIC_CONFIG_FILE=str(tmp_path / "mosaic.config.json")))
    assert told == "The configuration file mosaic.config.json cannot be read: No such file or directory."


def test_knows_every_variable_of_every_service() -> None:
    """One environment file serves all services: what another one reads stops none, nor does its _FILE."""
    of_others = dict.fromkeys(KNOWN_VARIABLES - {field.upper() for field in Config.model_fields} - {"MOSAIC_CONFIG_FILE"}, "x")
    in_files = {f"{name}_FILE": "/nowhere" for name in of_others}
    assert load(Config, environment(**of_others)) == load(Config, environment(**in_files)) == load(Config, environment())


def test_describes_every_variable() -> None:
    """Each common variable can complete the sentence that asks for it."""
    assert all(field.description and not field.description.endswith(".") for field in CommonConfig.model_fields.values())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param(
            {"DATABASE_URL": DATABASE.replace("verify-full", "require")},
            "DATABASE_URL must say sslmode=verify-full in production: otherwise anyone on the way can answer for the database.",
            id="database encrypted but not verified",
        ),
        *(
            pytest.param(
                {"DATABASE_URL": f"postgresql://mosaic_grants:{CANARY}@{where}"},
                "DATABASE_URL must say sslmode=verify-full in production: otherwise anyone on the way can answer for the database.",
                id=f"a socket and not only a socket: {where}",
            )
            for where in (
                "%2Frun,db.internal/mosaic",
                "%2Frun%2Cdb.internal/mosaic",
                "%2Frun/mosaic?host=db.internal",
                "%2Frun/mosaic?hostaddr=192.0.2.1",
                "%2Frun/mosaic?service=elsewhere",
            )
        ),
        pytest.param(
            {"DATABASE_URL": DATABASE + "&sslmode=disable"},
            "DATABASE_URL must say sslmode=verify-full in production: otherwise anyone on the way can answer for the database.",
            id="sslmode twice: which one counts is the driver's choice",
        ),
        pytest.param(
            {"DATABASE_URL": DATABASE.replace(CANARY, "postgres")},
            "The password in DATABASE_URL is an example that everyone knows: make one with `openssl rand -base64 32`.",
            id="example password",
        ),
        pytest.param(
            {"DATABASE_URL": DATABASE.replace(CANARY, "%63hangeme")},
            "The password in DATABASE_URL is an example that everyone knows: make one with `openssl rand -base64 32`.",
            id="example password, percent-encoded",
        ),
        pytest.param(
            {"DATABASE_URL": DATABASE.replace(f":{CANARY}", "") + "&password=changeme"},
            "The password in DATABASE_URL is an example that everyone knows: make one with `openssl rand -base64 32`.",
            id="example password in the query",
        ),
        pytest.param(
            {"REDIS_URL": VALKEY.replace("rediss", "redis")},
            "REDIS_URL must begin with rediss:// in production: otherwise its password travels in clear text.",
            id="Valkey in clear text",
        ),
        *(
            pytest.param(
                {"REDIS_URL": f"{VALKEY}?{query}"},
                "REDIS_URL must leave ssl_cert_reqs and ssl_check_hostname as they are: otherwise anyone can answer for Valkey.",
                id=f"Valkey, {query}",
            )
            for query in ("ssl_cert_reqs=none", "ssl_cert_reqs=optional", "ssl_check_hostname=false", "ssl_check_hostname=0")
        ),
        pytest.param(
            {"MOSAIC_SEALING_KEY": "0123456789012345678901234567890"},
            "MOSAIC_SEALING_KEY is shorter than 32 bytes: make one with `openssl rand -base64 32`.",
            id="31 bytes",
        ),
        pytest.param(
            {"MOSAIC_SEALING_KEY": "example-only-write-your-own-example-only"},
            "MOSAIC_SEALING_KEY is an example that everyone knows: make one with `openssl rand -base64 32`.",
            id="a long example",
        ),
        pytest.param(
            {"MOSAIC_EMBEDDED_CA_DIR": "/ca"},
            "MOSAIC_EMBEDDED_CA_DIR is for development only: unset it, or set MOSAIC_ENV=dev on a machine of your own.",
            id="embedded CA",
        ),
    ],
)
def test_refuses_in_production(changes: dict[str, str], says: str) -> None:
    """What only development may have stops a production start, and the same is fine in development on loopback."""
    assert sentence(environment(**changes)) == says
    load(Config, development(**changes))


def test_accepts_a_production_environment_with_every_secret() -> None:
    """The rules refuse nothing that is right."""
    config = load(Config, environment(REDIS_URL=VALKEY, MOSAIC_SEALING_KEY=CANARY, MOSAIC_PUBLIC_LISTEN="0.0.0.0:7444"))
    assert config.mosaic_sealing_key is not None


@pytest.mark.parametrize("listen", ["0.0.0.0:7102", "[::]:7102", "192.0.2.1:7102", "gateway.example.com:7102"])
@pytest.mark.parametrize("variable", ["MOSAIC_INTERNAL_LISTEN", "MOSAIC_PUBLIC_LISTEN"])
def test_refuses_a_development_gateway_that_others_can_reach(variable: str, listen: str) -> None:
    """Development mode has an embedded CA and open reflection, so it listens to its own machine only."""
    told = sentence(development(**{variable: listen}))
    assert told.startswith(f"{variable} must be a loopback address such as 127.0.0.1 while MOSAIC_ENV is dev")


@pytest.mark.parametrize("listen", ["127.0.0.1:1", "127.8.8.8:1", "[::1]:1", "localhost:1"])
def test_accepts_every_loopback_address_in_development(listen: str) -> None:
    """IPv4, IPv6 and the name that means them."""
    assert load(Config, development(MOSAIC_INTERNAL_LISTEN=listen)).mosaic_internal_listen.is_loopback


def test_a_unix_socket_needs_no_tls() -> None:
    """Nobody is on the way to it; PostgreSQL has no TLS there."""
    url = f"postgresql://mosaic_grants:{CANARY}@%2Fvar%2Frun%2Fpostgresql:5432/mosaic"
    assert load(Config, environment(DATABASE_URL=url)).database_url.get_secret_value() == url


def test_holds_a_model_without_environment_to_production() -> None:
    """A command that does not read MOSAIC_ENV cannot be talked out of the rules by leaving it unset."""

    class Command(BaseModel):
        database_url: DatabaseUrl = Field(description="a postgresql:// URL")

    plain = Command(database_url=SecretStr("postgresql://mosaic@127.0.0.1/mosaic"))
    with pytest.raises(ConfigurationError, match="sslmode=verify-full"):
        require_environment_rules(plain)


def test_shows_the_effective_configuration_without_a_secret() -> None:
    """The log tells which role, host and database are in use and which secrets are set, and not one character of them."""
    config = load(Config, environment(REDIS_URL=VALKEY, MOSAIC_SEALING_KEY=CANARY))
    shown = effective(config)
    assert shown["DATABASE_URL"] == "postgresql://mosaic_grants@db.internal:5432/mosaic"
    assert shown["REDIS_URL"] == "rediss://grants@valkey.internal:6379/0"
    assert shown["MOSAIC_SEALING_KEY"] == "[redacted]"
    assert (shown["MOSAIC_INTERNAL_LISTEN"], shown["ATTEMPTS"], shown["OTEL_SERVICE_NAME"]) == ("0.0.0.0:7102", 3, None)
    assert CANARY not in json.dumps(shown) + repr(config)


@pytest.mark.parametrize("text", ["localhost:7102", "127.0.0.1:1", "[::1]:65535", "edge-inbound.home.mosaic.internal:7443"])
def test_spells_an_address_as_it_was_given(text: str) -> None:
    """What is parsed is written the same."""
    assert str(Address.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("localhost", id="no port"),
        pytest.param(":7102", id="no host: say 0.0.0.0 and mean it"),
        pytest.param("localhost:0", id="port 0: nobody could be told"),
        pytest.param("localhost:65536", id="port too high"),
        pytest.param("localhost:٧", id="a digit of another script"),
        pytest.param("localhost:07102", id="leading zero"),
        pytest.param("::1:7102", id="IPv6 without brackets"),
        pytest.param("[127.0.0.1]:7102", id="IPv4 in brackets"),
        pytest.param("https://localhost:7102", id="a URL"),
        pytest.param("local host:7102", id="a space"),
        pytest.param("localhost:7102\n", id="a line break"),
    ],
)
def test_refuses_what_is_no_address(text: str) -> None:
    """Exactly a host and a port."""
    with pytest.raises(ValueError, match=r"."):
        Address.parse(text)


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("http://work.example.com:7444", id="not https"),
        pytest.param("https://", id="no host"),
        pytest.param("https://work.example.com:port", id="no port"),
        pytest.param("https://work.example.com:7444/api", id="a path"),
        pytest.param("https://work.example.com/?a=b", id="a query"),
        pytest.param("https://work.example.com/#a", id="a fragment"),
        pytest.param("https://user@work.example.com", id="a user"),
        pytest.param("https://[work", id="half a bracket"),
    ],
)
def test_refuses_what_is_no_https_origin(url: str) -> None:
    """What peers are told to dial is a host and a port, nothing more."""
    told = sentence(environment(MOSAIC_ENROLLMENT_URL=url))
    assert told == "MOSAIC_ENROLLMENT_URL cannot be used: it needs https://host:port as peers reach it."


@pytest.mark.parametrize("name", ["Home", "-home", "home-", "ho me", "h" * 64, "home.example", "hömе", "home\n"])
def test_refuses_what_is_no_gateway_name(name: str) -> None:
    """The name becomes a DNS label of every certificate."""
    assert sentence(environment(MOSAIC_GATEWAY=name)).startswith("MOSAIC_GATEWAY cannot be used: it needs this gateway's name")


def test_lets_a_model_say_its_own_sentence() -> None:
    """A service that compares fields raises the sentence itself, and it arrives unchanged."""

    class Strict(Config):
        def model_post_init(self, _: Any) -> None:
            raise ConfigurationError("Set STEP_CA_URL or MOSAIC_EMBEDDED_CA_DIR, not both.")

    assert sentence(environment(), model=Strict) == "Set STEP_CA_URL or MOSAIC_EMBEDDED_CA_DIR, not both."
