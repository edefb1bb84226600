"""The notebook widget: what it sends, and what happens where the page moves on."""

from __future__ import annotations

import builtins
import json
from typing import Any

import pytest

import autograd_geo as ag
from autograd_geo.viz import widget
from autograd_geo.viz.page import lesson_data


def example() -> ag.Tensor:
    x = ag.tensor(3.0, requires_grad=True)
    f = x * x + x
    return f


def test_it_sends_the_data_of_the_page_and_follows_its_position() -> None:
    pytest.importorskip("anywidget")
    lesson = ag.steps(example())
    shown = lesson.goto(2).widget(quiz=True)
    state = shown.get_state(["data", "position"])
    assert json.loads(json.dumps(state["data"])) == json.loads(json.dumps(lesson_data(lesson, True)))
    assert state["position"] == 2
    shown.set_state({"position": 4})  # as the page does it
    assert shown.lesson == lesson.goto(4)
    for asked, found in ((99, len(lesson) - 1), (-3, 0)):
        shown.position = asked
        assert shown.position == found


def test_without_anywidget_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "anywidget":
            raise ImportError(name)
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    widget._widget_class.cache_clear()
    with pytest.raises(ImportError, match=r"autograd-geo\[viz\]"):
        ag.steps(example()).widget()
