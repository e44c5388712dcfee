"""The README is run as it stands: by hand with the CLI, and once more with nothing but openssl and grpcurl."""

import os
import re
import subprocess
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
# What a reader has around them: the checkout's protos and its environment.
BELONGINGS: Final = ("proto", ".venv", ".tools")
SECONDS: Final = 240


@pytest.mark.openssl
@pytest.mark.grpcurl
def test_the_readme_works_word_for_word(tmp_path: Path) -> None:
    """Every shell block, in order, in one shell that stops at the first failure; and what it shows is what the text says."""
    for name in BELONGINGS:
        (tmp_path / name).symlink_to(ROOT / name)
    script = "\n".join(re.findall(r"^```sh\n(.*?)^```$", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE))
    assert script.count("grpcurl -import-path") == 2, "the walk-through with openssl and grpcurl is part of it"
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TMPDIR": str(tmp_path), "LANG": "C.UTF-8"}
    try:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    finally:
        subprocess.run(["mosaic", "dev", "down"], cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    by_hand, _, with_openssl = done.stdout.partition("Peer stranger")
    assert "federated:work" in by_hand
    assert "unavailable  federated:work" in by_hand
    assert "PARTIAL ANSWER" in done.stderr
    grant, subject = re.findall(r"\.\$([0-9a-f-]{36})", with_openssl)
    assert grant != subject
    assert with_openssl.count('"task": {') == 2
    assert re.search(r'^  "source": "work",?$', with_openssl, re.MULTILINE), "the answer itself came from work"
    assert "RESOURCE_NOT_GRANTED" in by_hand
    assert "The record holds." in by_hand
