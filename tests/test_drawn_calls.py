"""A thousand drawn calls, and what finds them wrong: tests/drawn/calls.py draws many more."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastcnn import functional as F

COMMAND = Path(__file__).parent / "drawn" / "calls.py"


def drawn(*arguments, **environment):
    command = [sys.executable, str(COMMAND), *map(str, arguments)]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=600
    )


@pytest.mark.slow
def test_a_thousand_calls():
    done = drawn("--count", 1000, "--seed", 12)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert "1000 calls drawn" in done.stdout


def test_every_public_function_is_drawn():
    done = subprocess.run(
        [sys.executable, "-c", "import generators; print(*[n for n, s in generators.SPECS.items() if s.is_public])"],
        cwd=COMMAND.parent, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    assert sorted(done.stdout.split()) == sorted(F.__all__)


@pytest.mark.parametrize(
    ("kind", "message"),
    [("crash", "killed its process"), ("wrong", "elements wrong"), ("writes", "has changed")],
)
def test_what_is_wrong_is_found(kind, message):
    """Calls that are wrong on purpose: each is reported with the command that repeats it, and the next is drawn."""
    done = drawn("--count", 3, "--first", 40, "--jobs", 1, "--only", f"self-test-{kind}")
    assert done.returncode == 1
    lines = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert len(lines) == 3, done.stdout + done.stderr
    for number, line in enumerate(lines):
        assert message in line
        assert f"--first {40 + number} --count 1 --only self-test-{kind}" in line
