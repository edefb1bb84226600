"""Texts of a tape."""

from __future__ import annotations

from typing import Any

import numpy as np

import autograd_geo as ag
from autograd_geo.viz import backward_text


def example(**options: Any) -> ag.Tensor:
    x = ag.tensor(-2.0, requires_grad=True)
    y = ag.tensor(5.0, requires_grad=True)
    z = ag.tensor(-4.0, requires_grad=True)
    f = ((x + y) * z) ** 2
    return f


def test_text_of_the_first_lecture() -> None:
    f = example()
    lines = backward_text(f).splitlines()
    assert lines[:7] == [
        "forward",
        "  x = -2",
        "  y = 5",
        "  z = -4",
        "  a = x + y = 3",
        "  b = a·z = -12",
        "  f = b² = 144",
    ]
    assert "  ∂f/∂b ← ∂f/∂f·∂f/∂b = 1·(-24) = -24,  ∂f/∂b = 2·b" in lines
    assert "  ∂f/∂z ← ∂f/∂b·∂b/∂z = (-24)·3 = -72,  ∂b/∂z = a" in lines
    assert lines[-3:] == ["  z.grad = -72", "  x.grad = 96", "  y.grad = 96"]


def test_text_shows_where_paths_meet_and_changes_nothing() -> None:
    x = ag.tensor(3.0, requires_grad=True)
    f = x * x + x
    before = backward_text(f, of="out")
    assert "paths meet" in before
    assert "∂out/∂x: paths meet, 4 + 3 = 7" in before
    assert x.grad is None
    f.backward()
    assert backward_text(f, of="out") == before  # a small tape can be looked at after the pass that consumed it


def test_text_of_arrays() -> None:
    w = ag.tensor(np.ones((2, 3)), requires_grad=True)
    loss = (w @ np.arange(3.0)).sum()
    text = backward_text(loss)
    assert "matmul" in text
    assert "w.grad = [[0., 1., 2.]," in text or "w.grad = [[0., 1., 2.]" in text
