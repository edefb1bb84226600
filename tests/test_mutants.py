"""The derived tests notice errors in declarations: a sample of those that `python tests/mutants.py` plants."""

from __future__ import annotations

from itertools import islice

from mutants import mutants

from autograd_geo.op import registry

OPS = [name for name in registry if name != "prod"]  # whose errors may recur without end


def test_planted_errors_are_noticed() -> None:
    planted = [m for m in islice(mutants(OPS), 0, None, 9) if not m.equivalent]
    assert len(planted) > 100
    assert not [f"{m.op} {m.what}" for m in planted if m.survives()]
