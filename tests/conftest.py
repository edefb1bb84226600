"""Fixtures of several modules."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Only reference counts free anything: a reference cycle shows as a leak."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()
