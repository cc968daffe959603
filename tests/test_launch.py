"""How a process ends: alone as any, as one of several at once."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SEVERAL = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}
SCRIPT = """
import atexit
from edgekd.launch import leave
atexit.register(print, "python's own end")
print("said before", end=" ")
leave(5)
"""


@pytest.mark.parametrize(("environment", "said"), [({}, "said before python's own end\n"), (SEVERAL, "said before ")])
def test_one_of_several_ends_at_once_with_its_code(environment: dict[str, str], said: str) -> None:
    alone = {name: value for name, value in os.environ.items() if name not in SEVERAL}
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT], env={**alone, **environment}, capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout) == (5, said)
