"""Fixtures of several modules."""

from __future__ import annotations

import ctypes.util
import gc
import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# On a busy machine examples take as long as they take.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

if ctypes.util.find_library("cuda") is None:  # no GPU: kernels for one run in Numba's simulator
    os.environ.setdefault("NUMBA_ENABLE_CUDASIM", "1")


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Only reference counts free anything: a reference cycle shows as a leak."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()
