"""Texts of a tape."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import autograd_geo as ag
from autograd_geo.viz import backward_text
from autograd_geo.viz.mathematics import indexed
from autograd_geo.viz.values import SHOWN, number


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
    assert "w.grad = [[0, 1, 2], [0, 1, 2]]" in text


SHAPES = hnp.array_shapes(min_dims=1, max_dims=3, max_side=SHOWN).filter(lambda shape: np.prod(shape) <= SHOWN)


@given(hnp.arrays(st.sampled_from([np.float64, np.float32, np.int64, np.bool_]), SHAPES))
def test_small_arrays_are_written_without_stray_spaces(array: Any) -> None:
    text = number(array)
    assert not any(stray in text for stray in ("[ ", " ,", " ]", "  "))
    for python, javascript in {"nan": "NaN", "inf": "Infinity", "True": "true", "False": "false"}.items():
        text = text.replace(python, javascript)
    read, exact = np.array(json.loads(text), float), array.astype(float)
    np.testing.assert_allclose(
        read, np.where(np.abs(exact) > 1e308, read, exact), rtol=5e-5
    )  # rounded up it is infinite


@pytest.mark.parametrize(
    ("name", "parts"),
    [("w14", ("w", "14")), ("x₅₂", ("x", "52")), ("α1", ("α", "1")), ("x", ("x", "")), ("2", ("2", "")),
     ("a_1", ("a_1", "")), ("net.layers.0", ("net.layers.0", "")), ("", ("", "")), ("x\n1", ("x\n1", ""))],
)  # fmt: skip
def test_the_number_a_name_ends_in_is_its_index(name: str, parts: tuple[str, str]) -> None:
    assert indexed(name) == parts
