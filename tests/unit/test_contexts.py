"""The contexts file: whole, private, and clear about what is wrong with it."""

import json
import os
from pathlib import Path

import pytest
from mosaic_cli.contexts import Context, Contexts, contexts_path, load, save
from mosaic_common.errors import ConfigurationError

HOME = Context(
    gateway="home",
    operator_address="127.0.0.1:7112",
    user_address="127.0.0.1:7104",
    root=Path("/keys/operator/service-root.pem"),
    jwt_key=Path("/keys/operator/jwt.key"),
    pki_dir=Path("/keys/operator"),
    internal={"grants": "127.0.0.1:7102"},
)
WORK = Context("work", "127.0.0.1:8112", "127.0.0.1:8104", Path("/keys/work.pem"))


def test_what_is_saved_is_loaded_again(tmp_path: Path) -> None:
    """Every field survives, also those that a context leaves out."""
    file = tmp_path / "deeper" / "contexts.json"
    contexts = Contexts("home", {"home": HOME, "work": WORK})
    save(file, contexts)
    assert load(file) == contexts


def test_the_file_is_private_whatever_the_umask(tmp_path: Path) -> None:
    """It names keys: nobody else reads it, not even between creation and chmod."""
    file = tmp_path / "contexts.json"
    before = os.umask(0)
    try:
        save(file, Contexts("home", {"home": HOME}))
    finally:
        os.umask(before)
    assert file.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["contexts.json"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o700], ids=oct)
def test_a_file_that_others_can_open_is_refused(tmp_path: Path, mode: int) -> None:
    """Whoever can write it sends this user's tokens where they like; the sentence says how to mend it."""
    file = tmp_path / "contexts.json"
    save(file, Contexts("home", {"home": HOME}))
    file.chmod(mode)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        load(file)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("{", id="not JSON"),
        pytest.param("[]", id="not an object"),
        pytest.param("{}", id="no contexts"),
        pytest.param('{"contexts": []}', id="contexts not an object"),
        pytest.param('{"contexts": {"home": {}}}', id="a context without its fields"),
        pytest.param('{"contexts": {"home": "work"}}', id="a context that is no object"),
        pytest.param(json.dumps({"contexts": {"home": {"gateway": "home", "adress": "x"}}}), id="a misspelt field"),
    ],
)
def test_a_file_that_is_something_else_is_named(tmp_path: Path, text: str) -> None:
    """One sentence with the file's name, never a traceback."""
    file = tmp_path / "contexts.json"
    file.touch(mode=0o600)
    file.write_text(text)
    with pytest.raises(ConfigurationError, match="is not a contexts file"):
        load(file)


def test_no_file_holds_no_contexts(tmp_path: Path) -> None:
    """A first use is no error; the answer says how contexts come about."""
    with pytest.raises(ConfigurationError, match="mosaic dev up"):
        load(tmp_path / "contexts.json").get("home")


@pytest.mark.parametrize(
    ("contexts", "name", "gateway"),
    [
        pytest.param(Contexts("home", {"home": HOME, "work": WORK}), None, "home", id="the current one"),
        pytest.param(Contexts("home", {"home": HOME, "work": WORK}), "work", "work", id="the named one"),
    ],
)
def test_a_name_wins_over_the_current_one(contexts: Contexts, name: str | None, gateway: str) -> None:
    """What is meant is never guessed."""
    assert contexts.get(name).gateway == gateway


def test_only_a_context_that_exists_becomes_the_current_one() -> None:
    """`mosaic context use` with a typing mistake changes nothing and lists what there is."""
    contexts = Contexts("home", {"home": HOME, "work": WORK})
    assert contexts.using("work").current == "work"
    with pytest.raises(ConfigurationError, match="home, work"):
        contexts.using("wrok")


@pytest.mark.parametrize(
    ("environ", "path"),
    [
        pytest.param({"MOSAIC_CONTEXTS": "/a/b.json", "XDG_CONFIG_HOME": "/c"}, "/a/b.json", id="MOSAIC_CONTEXTS"),
        pytest.param({"XDG_CONFIG_HOME": "/c"}, "/c/mosaic/contexts.json", id="XDG_CONFIG_HOME"),
    ],
)
def test_the_environment_says_where_the_file_is(environ: dict[str, str], path: str) -> None:
    """MOSAIC_CONTEXTS first, then the user's configuration folder."""
    assert contexts_path(environ) == Path(path)
