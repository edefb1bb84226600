"""Tests of CUDA kernels in Numba's simulator, which is chosen when Numba is imported: in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

#: Whether this is that process.
SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"


def in_simulator(module: dict[str, Any]) -> None:
    """At the end of a module, with its `globals()`: elsewhere than in the simulator, one test runs the others in it."""
    if SIMULATED:
        return
    for name in [name for name in module if name.startswith("test_")]:
        del module[name]

    def test_in_simulator() -> None:
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", module["__file__"]]
        done = subprocess.run(command, env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    module["test_in_simulator"] = test_in_simulator
