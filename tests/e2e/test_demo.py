"""`make demo` and `mosaic dev demo --ca step-ca`: the whole story, each step told in one JSON document."""

import json
import os
import subprocess
from pathlib import Path
from typing import Final

import pytest

# The promise is 60 s on a machine of one's own; a test shares its machine with others.
SECONDS: Final = 180
STEPS: Final = 14


@pytest.mark.parametrize("authority", ["embedded", pytest.param("step-ca", marks=pytest.mark.stepca)])
def test_the_demo_ends_well(tmp_path: Path, authority: str) -> None:
    """Every step holds, is named and timed, and the folder is all that is left."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path), "LANG": "C.UTF-8"}
    command = ["mosaic", "dev", "demo", "--dir", "here", "--ca", authority, "--output", "json"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    document = json.loads(done.stdout)
    assert document["ca"] == authority
    assert len(document["steps"]) == STEPS
    assert all(step["name"] and step["result"] and step["seconds"] >= 0 for step in document["steps"])
    assert [each.name for each in tmp_path.iterdir()] == ["here"], "nothing is written outside the folder"
