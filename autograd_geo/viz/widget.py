"""A lesson as a notebook widget: the page's own script, on data that travel with the widget."""

from __future__ import annotations

from functools import cache
from typing import Any

from .lesson_page import asset, lesson_data
from .steps import Lesson

#: How a notebook shows it: `mountLesson` on the widget's model.
RENDER = """
export default {
  render({ model, el }) {
    el.tabIndex = 0;
    const player = mountLesson(el, model.get("data"), el);
    player.go(model.get("position"));
    model.on("change:position", () => player.go(model.get("position")));
    player.moved = (k) => { model.set("position", k); model.save_changes(); };
  },
};
"""


def lesson_widget(lesson: Lesson, quiz: bool = False) -> Any:
    """The widget; its `position` is the step shown, here and there. Raises ImportError without anywidget."""
    return _widget_class()(lesson, quiz)


@cache
def _widget_class() -> Any:
    try:
        import anywidget
        import traitlets
    except ImportError:
        raise ImportError("a lesson in a notebook needs anywidget: pip install 'autograd-geo[viz]'") from None

    class LessonWidget(anywidget.AnyWidget):  # type: ignore[misc]
        """Shows a lesson; `position` is the step it is at, `lesson` the lesson there."""

        _esm = asset("lesson.js") + RENDER
        _css = asset("lesson.css")
        data = traitlets.Dict().tag(sync=True)
        position = traitlets.Int(0).tag(sync=True)

        def __init__(self, lesson: Lesson, quiz: bool) -> None:
            self._lesson = lesson
            super().__init__(data=lesson_data(lesson, quiz), position=lesson.position)

        @traitlets.validate("position")  # type: ignore[untyped-decorator]
        def _within(self, proposal: Any) -> int:
            return min(max(int(proposal["value"]), 0), len(self._lesson) - 1)

        @property
        def lesson(self) -> Lesson:
            """The lesson at the step that is shown."""
            return self._lesson.goto(self.position)

    return LessonWidget
