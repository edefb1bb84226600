"""The notebook widget: what it sends, and what happens where the page moves on."""

from __future__ import annotations

import builtins
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chromium
import pytest

import autograd_geo as ag
from autograd_geo.viz import widget
from autograd_geo.viz.lesson_page import asset, lesson_data


@pytest.fixture
def tab(tmp_path: Path) -> Iterator[chromium.Tab]:
    yield from chromium.opened(tmp_path / "profile")


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


def test_its_view_follows_the_model_and_the_model_its_view(tab: chromium.Tab, tmp_path: Path) -> None:
    """The script a notebook loads, on a model like a notebook's."""
    lesson = ag.steps(example())
    state = json.dumps({"data": lesson_data(lesson), "position": 2}).replace("<", "\\u003c")
    module = asset("lesson.js") + widget.RENDER.replace("export default", "const widget =")
    host = """
      const state = STATE, listeners = [];
      window.model = {
        get: (name) => state[name], on: (_, listener) => listeners.push(listener), save_changes: () => {},
        set: (name, value) => { if (state[name] !== value) { state[name] = value; listeners.forEach((l) => l()); } },
      };
      widget.render({ model: window.model, el: document.getElementById("cell") });"""
    page = tmp_path / "notebook.html"
    page.write_text(
        f'<meta charset="utf-8"><style>{asset("lesson.css")}</style><div id="cell"></div>'
        f'<script type="module">{module}{host.replace("STATE", state)}</script>', "utf-8"
    )  # fmt: skip
    tab.open(page)
    tab.wait("!!window.model")
    assert not tab.errors
    shown = "document.getElementById('cell').dataset.step"
    assert tab.evaluate(shown) == "2"
    tab.evaluate("document.querySelector('.next').click()")
    assert tab.evaluate(shown) == "3" and tab.evaluate("model.get('position')") == 3
    tab.evaluate("model.set('position', 5)")
    assert tab.evaluate(shown) == "5"
    tab.evaluate("document.getElementById('cell').focus()")
    tab.press("ArrowLeft")
    assert tab.evaluate("model.get('position')") == 4


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


def test_enter_in_the_answer_is_a_verdict_where_a_notebook_has_a_shortcut_for_it(
    tab: chromium.Tab, tmp_path: Path
) -> None:
    lesson = ag.steps(example())
    asked = next(step.index for step in lesson if step.question is not None)
    state = json.dumps(lesson_data(lesson, True)).replace("<", "\\u003c")
    page = tmp_path / "notebook.html"
    page.write_text(
        f'<meta charset="utf-8"><div id="cell"></div><script>{asset("lesson.js")}\n'
        "document.addEventListener('keydown', (event) => event.preventDefault());\n"
        f"const player = mountLesson(document.getElementById('cell'), {state}); player.go({asked});</script>", "utf-8"
    )  # fmt: skip
    tab.open(page)
    tab.evaluate("document.querySelector('.asked input').focus()")
    tab.press("x", "Enter")
    assert tab.evaluate("document.querySelector('.verdict').textContent") == lesson[asked].question.judge("x")[1]  # type: ignore[union-attr]
    assert tab.evaluate("document.querySelector('.asked input').closest('[data-lm-suppress-shortcuts]') !== null")
