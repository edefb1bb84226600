"""Graphs and texts of a tape."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

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


def test_graph_has_values_gradients_and_local_derivatives() -> None:
    f = example()
    dot = ag.graph(f).dot
    for text in ("gradient 96", "gradient -72", "gradient -24", "144", "2·b = -24", "z = -4", "<b>x</b>", "<b>f</b>"):
        assert text in dot
    assert dot.count("->") == 6
    assert "rankdir=TB" in ag.graph(f, rankdir="TB").dot
    with pytest.raises(ValueError, match="rankdir"):
        ag.graph(f, rankdir="up")


def test_a_gradient_that_does_not_exist_is_not_drawn_as_zero() -> None:
    x = ag.tensor([1.0, 2.0], requires_grad=True)
    assert "gradient not computed" in ag.graph(x * 2.0).dot
    assert "gradient 0" not in ag.graph(x * 2.0).dot
    constant = ag.tensor(1.0, name="<c>&")
    assert "&lt;c&gt;&amp;" in ag.graph(constant).dot


def test_drawing_after_backward_small_yes_large_no() -> None:
    f = example()
    f.backward()
    assert "gradient 96" in ag.graph(f).dot
    loss = (ag.tensor(np.ones(1000), requires_grad=True) * 2.0).sum()
    loss.backward()
    with pytest.raises(RuntimeError, match="retain_graph"):
        ag.graph(loss)


def test_rendering(tmp_path: Path) -> None:
    pytest.importorskip("pygraphviz")
    drawing = ag.graph(example())
    svg = drawing.svg()
    assert svg.startswith("<svg")
    assert re.search(r">gradient 96<", svg.replace("&#160;", " "))
    for name, magic in (("g.svg", b"<?xml"), ("g.png", b"\x89PNG"), ("g.pdf", b"%PDF")):
        drawing.save(tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(magic)
    assert drawing._repr_mimebundle_()["image/svg+xml"] == svg
    with pytest.raises(ValueError, match=r"\.svg, \.png or \.pdf"):
        drawing.save(tmp_path / "g.bmp")
