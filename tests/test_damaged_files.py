"""A few hundred of the damaged files of `drawn/damaged_files.py`, whose command draws any number."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("safetensors")
SCRIPT = Path(__file__).parent / "drawn" / "damaged_files.py"


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory and time are set as on Linux")
def test_damaged_files_are_read_as_they_are_or_refused():
    seed = "1" if os.environ.get("CI") else str(int.from_bytes(os.urandom(4), "big"))
    command = [sys.executable, str(SCRIPT), "--count", "350", "--seed", seed]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "350 damaged files" in done.stdout
    for outcome in ("read", "refused"):
        for reader in ("idx", "mnist", "cifar batch", "cifar archive", "weights", "checkpoint"):
            assert f"{reader} {outcome}" in done.stdout
