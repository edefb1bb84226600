"""The lesson as a page: what is in the file, how it is written, and what it does in a browser without a network."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import chromium
import numpy as np
import pytest

import autograd_geo as ag
from autograd_geo.op import functions
from autograd_geo.viz.lesson_page import lesson_data, page
from autograd_geo.viz.quiz import close, read


def example(**names: str) -> ag.Tensor:
    x, y, z = (
        ag.tensor(v, requires_grad=True, name=names.get(n, n)) for n, v in {"x": -2.0, "y": 5.0, "z": -4.0}.items()
    )
    f = ((x + y) * z) ** 2 + x / y
    return f


def long(count: int = 3400) -> ag.Tensor:
    x = start = ag.tensor(0.5, requires_grad=True, name="start")
    for _ in range(count):
        x = functions["sin"](x) * 0.5 + start
    return x


def data_of(text: str) -> Any:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])  # type: ignore[index]


# --- the file -------------------------------------------------------------------------------------------------


def test_a_page_has_everything_in_it_and_only_its_own_script_may_run() -> None:
    text = page(ag.steps(example()))
    assert not re.search(r"""(src|href)\s*=|url\(|@import|https?://(?!www\.w3\.org)""", text)
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert len(scripts) == 1 and f"default-src 'none'; script-src 'sha256-{digest}'" in text
    assert "∂f/∂c ← ∂f/∂f·∂f/∂c" in text  # for browsers without scripts


@pytest.mark.parametrize(
    "name", ['<img src=x onerror="boom()">', "</script><script>boom()</script>", "]]>&amp;'\"$x{}"]
)
def test_names_are_only_text(name: str) -> None:
    pytest.importorskip("pygraphviz")
    text = page(ag.steps(example(x=name)))
    assert name not in text
    assert name in [node[0] for node in data_of(text)["nodes"]]
    assert text.count("<script") == 2


def test_the_data_tell_what_the_cards_tell() -> None:
    lesson = ag.steps(example())
    data = lesson_data(lesson)

    def shown(packed: list[Any]) -> list[str]:
        row, *fills = packed
        names = [data["nodes"][f][0] if isinstance(f, int) else f for f in fills]
        filled = []
        for template in data["rows"][row]:
            if template >= 0:
                sides = ";".join(data["templates"][template])
                text = re.sub(r'<(\w+) data-fill="(\d+)"></\1>', lambda m: names[int(m[2])], sides)
                filled.append(re.sub(r"<[^>]*>", " ", text))
        return filled

    for step, (kind, node, operand, value, formulas, check, note) in zip(lesson, data["steps"], strict=True):
        card = step.card
        assert (
            data["titles"][data["words"][kind]].format(data["nodes"][node][0], data["nodes"][operand][0]) == card.title
        )
        assert value == card.value and data["words"][note] == card.note
        assert (check is None) == (card.check is None)
        told = [f for f in (card.rule, card.numbers, card.passed, card.chain) if f is not None]
        numbers = [re.findall(r"\d+\.\d+", text) for text in shown(formulas)]
        assert numbers == [re.findall(r"\d+\.\d+", f.text) for f in told]
        question = step.question
        assert (question is None) == (step.index not in data["questions"])
        if question is not None:
            assert [o[0] for o in data["questions"][step.index][1]] == [o.value for o in question.options]


def test_ten_thousand_entries_are_a_page_of_less_than_five_megabytes() -> None:
    lesson = ag.steps(long())
    assert len(lesson.names) > 10_000
    assert len(page(lesson).encode()) < 5_000_000


def test_a_lesson_too_long_for_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autograd_geo.viz.lesson_page.MOST_STEPS", 5)
    x = ag.tensor(1.0, requires_grad=True)
    with pytest.raises(ValueError, match=r"a page of \d+ steps would be too large to open; pages have up to 5"):
        ag.steps(ag.sin(x) * x).html(tmp_path / "lesson.html")
    assert not list(tmp_path.iterdir())


def test_a_page_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lesson, path = ag.steps(example()), tmp_path / "f.html"
    lesson.html(path)
    first = path.read_text("utf-8")
    assert first.startswith("<!doctype html>") and os.listdir(tmp_path) == ["f.html"]
    with pytest.raises(IsADirectoryError, match="name a file in it"):
        lesson.html(tmp_path)
    with pytest.raises(FileNotFoundError, match="cannot be written"):
        lesson.html(tmp_path / "nowhere" / "f.html")

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match=r"the lesson cannot be written: No space left.*f\.html"):
        lesson.html(path)
    assert path.read_text("utf-8") == first and os.listdir(tmp_path) == ["f.html"]


# --- in a browser ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Tab]:
    yield from chromium.opened(tmp_path_factory.mktemp("profile"))


def opened(tab: chromium.Tab, lesson: Any, tmp_path: Path, *, quiz: bool = False, width: int = 1300) -> None:
    path = tmp_path / "lesson.html"
    lesson.html(path, quiz=quiz)
    tab.requests.clear()
    tab.errors.clear()
    tab.look(width, 800)
    tab.open(path)
    assert tab.requests == [path.as_uri()] and not tab.errors


def text(tab: chromium.Tab, selector: str) -> str:
    return str(tab.evaluate(f"document.querySelector({selector!r}).innerText")).replace("\n", " ")


def position(tab: chromium.Tab) -> int:
    return int(tab.evaluate("document.querySelector('.ag-lesson').dataset.step"))


def scrub(tab: chromium.Tab, k: int) -> None:
    tab.evaluate(
        f"(s => {{ s.value = {k}; s.dispatchEvent(new Event('input')) }})(document.querySelector('.scrubber'))"
    )
    tab.wait(f"document.querySelector('.ag-lesson').dataset.step == {k}")


def test_it_steps_plays_and_scrubs_back(tab: chromium.Tab, tmp_path: Path) -> None:
    pytest.importorskip("pygraphviz")
    lesson = ag.steps(example())
    opened(tab, lesson, tmp_path)
    assert text(tab, ".title") == "x is given"
    tab.press("ArrowRight", "ArrowRight", "ArrowLeft")
    assert position(tab) == 1 and text(tab, ".place") == "2 / 23"
    tab.evaluate("document.querySelector('.speed').value = '16'")
    tab.press(" ")
    tab.wait("document.querySelector('.ag-lesson').dataset.step == 22")
    tab.wait("document.querySelector('.play').innerText.includes('Play')")
    known = tab.evaluate("[...document.querySelectorAll('.known tbody tr')].map(r => r.children[2].innerText)")
    assert known[:3] == ["96.2 → .grad", "96.08 → .grad", "−72 → .grad"]
    k = next(s.index for s in lesson if s.kind == "local" and s.operand == "z")
    scrub(tab, k)
    assert text(tab, ".title") == "The local derivative of b with respect to z"
    assert "→ .grad" not in text(tab, ".known")
    assert tab.evaluate("document.querySelectorAll('.node.live').length") == 1
    assert "z" in text(tab, ".known tr.live")
    label = tab.evaluate("[...document.querySelectorAll('.edge.live text')].map(t => t.textContent).join('')")
    assert "".join(label.split()) == "a=3"
    assert text(tab, ".check").endswith("3 by finite differences: they agree")
    assert text(tab, ".source mark") == "(x + y) * z"
    assert "The local derivative of b with respect to z: −72" in str(
        tab.evaluate("document.querySelector('.spoken').textContent")
    )
    tab.press("End", "Home")
    assert position(tab) == 0


def test_mathematics_is_typeset(tab: chromium.Tab, tmp_path: Path) -> None:
    opened(tab, ag.steps(example()), tmp_path)
    scrub(tab, 12)
    assert tab.evaluate("document.querySelector('.formulas mfrac').getBoundingClientRect().height") > 20
    assert tab.evaluate("document.querySelector('.formulas math').namespaceURI").endswith("MathML")


def test_small_arrays_are_typeset_as_matrices(tab: chromium.Tab, tmp_path: Path) -> None:
    w = ag.tensor([[1.0, -2.0], [0.5, 4.0]], requires_grad=True)
    lesson = ag.steps(functions["sum"](w * w))
    opened(tab, lesson, tmp_path)
    rows = "[...document.querySelector('.matrix').children].map(r => [...r.children].map(c => c.textContent))"
    assert tab.evaluate(rows) == [["1", "−2"], ["0.5", "4"]]
    for k in range(len(lesson)):
        scrub(tab, k)
        assert not tab.errors


def test_a_wrong_and_a_right_answer(tab: chromium.Tab, tmp_path: Path) -> None:
    lesson = ag.steps(example())
    opened(tab, lesson, tmp_path, quiz=True)
    step = next(s for s in lesson if s.kind == "local" and s.operand == "z")
    scrub(tab, step.index)
    state = "document.querySelector('.ag-lesson').dataset"
    assert tab.evaluate(state + ".asking") == "true" and "−72" not in text(tab, "#lesson").replace(" ", "")

    def answer(typed: str) -> str:
        tab.evaluate(
            f"document.querySelector('.asked input').value = {typed!r}; document.querySelector('.try').click()"
        )
        return text(tab, ".verdict")

    question = step.question
    assert question is not None
    for typed in ("72", "-24", "3", "-21", "96", "5", "nonsense"):
        assert answer(typed) == question.judge(typed)[1]
        assert tab.evaluate(state + ".asking") == "true"
    assert answer("-72") == "Right."
    assert tab.evaluate(state + ".asking") == "false" and "−72" in text(tab, ".formulas").replace(" ", "")
    tab.press("ArrowLeft")
    choices = tab.evaluate("[...document.querySelectorAll('.options button')].map(b => b.innerText)")
    assert len(choices) == len(lesson[position(tab)].question.options)  # type: ignore[union-attr]
    said = set()
    for n in range(len(choices)):
        tab.evaluate(f"document.querySelectorAll('.options button')[{n}].click()")
        said.add(text(tab, ".verdict"))
        if tab.evaluate(state + ".asking") == "false":
            break
    assert said <= {o.says for o in lesson[position(tab)].question.options}  # type: ignore[union-attr]


def test_it_reads_numbers_and_compares_as_the_terminal_does(tab: chromium.Tab, tmp_path: Path) -> None:
    opened(tab, ag.steps(example()), tmp_path, quiz=True)
    scrub(tab, 9)
    data = lesson_data(ag.steps(example()))
    options = data["questions"][9][1]
    rng = np.random.default_rng(0)
    values = [o[0] * (1 + d) for o in options for d in (0.0, 0.004, -0.006)] + list(rng.normal(size=5))
    for typed in [*map(repr, map(float, values)), "1/3", "1/0", "−2,5", "", "1e", ".5", "- 3"]:
        value = read(typed)
        known = next((o for o in options if value is not None and close(value, o[0])), None)
        expected = data["judging"]["unreadable"] if value is None else data["judging"]["unknown"]
        tab.evaluate("document.querySelector('.ask').click(); document.querySelector('.ask').click()")
        tab.evaluate(
            f"document.querySelector('.asked input').value = {typed!r}; document.querySelector('.try').click()"
        )
        if known is not None and known is options[0]:
            opened(tab, ag.steps(example()), tmp_path, quiz=True)
            scrub(tab, 9)
        else:
            assert text(tab, ".verdict") == (data["words"][known[2]] if known else expected), typed


def test_what_users_call_things_does_nothing(tab: chromium.Tab, tmp_path: Path) -> None:
    opened(tab, ag.steps(example(x="<img src=x onerror=\"document.title='boom'\">")), tmp_path)
    for _ in range(22):
        tab.press("ArrowRight")
    assert "boom" not in tab.evaluate("document.title")
    assert tab.evaluate("document.querySelectorAll('img').length") == 0
    assert "<img src=x" in text(tab, ".known")


def test_indices_and_powers_of_ten_are_typeset(tab: chromium.Tab, tmp_path: Path) -> None:
    w14 = ag.tensor(3e-20, requires_grad=True)
    lesson = ag.steps(w14 * w14 * 0.5)
    opened(tab, lesson, tmp_path)
    parts = "[...document.querySelectorAll('.formulas {}')].map(e => [...e.children].map(c => c.textContent).join(' '))"
    assert set(tab.evaluate(parts.format("msub"))) == {"w 14"}
    assert set(tab.evaluate(parts.format("msup"))) == {"10 −20"}
    tab.press("End")
    assert text(tab, ".title") == "The gradient of w14 is complete"


PLACE = "document.querySelector('{}').getBoundingClientRect()"


def test_what_is_in_a_box_is_seen_there_and_beside_it(tab: chromium.Tab, tmp_path: Path) -> None:
    lesson = ag.steps(long(100))
    opened(tab, lesson, tmp_path)
    assert text(tab, ".remark").startswith("300 operations, too many to draw at once")
    lit = "[...document.querySelectorAll('.drawing .node.live')].map(e => e.textContent.replace(/\\s+/g, ' ').trim())"
    for k, box in ((3, "x"), (150, "loop1[1] … loop1[99]"), (len(lesson) - 1, "start")):
        scrub(tab, k)
        (live,) = tab.evaluate(lit)
        assert box in live
        assert text(tab, ".box.live b") == (lesson[k].operand or lesson[k].name)
        frame, box = (
            tab.evaluate(f"(r => [r.left, r.top, r.right, r.bottom])({PLACE.format(part)})")
            for part in (".drawing", ".node.live")
        )
        assert box[:2] >= frame[:2] and box[2:] <= frame[2:]
    assert tab.evaluate("document.querySelectorAll('.drawing .edge.passed').length") > 5
    tab.evaluate("document.querySelector('.drawing .node.live').dispatchEvent(new MouseEvent('click'))")
    assert text(tab, ".title") == "start is given"


def test_the_graph_is_followed_without_graphviz_too(
    tab: chromium.Tab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pygraphviz", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    lesson = ag.steps(example())
    opened(tab, lesson, tmp_path)
    for k in range(len(lesson)):
        scrub(tab, k)
        live = tab.evaluate("[...document.querySelectorAll('.drawing .node.live text')].map(e => e.textContent)")
        assert (lesson[k].operand or lesson[k].name) in live
    assert tab.evaluate("document.querySelectorAll('.drawing .edge.passed').length") == 9


COVERED = """(() => {
  const controls = document.querySelector('.controls').getBoundingClientRect();
  return [...document.querySelectorAll('.picture, .card, .known')].map(e => e.getBoundingClientRect())
    .filter(r => r.bottom > controls.top && r.top < controls.bottom).length;
})()"""


@pytest.mark.parametrize("make", [example, lambda: long(100)])
def test_a_wide_page_is_one_screen_where_nothing_is_covered(
    tab: chromium.Tab, tmp_path: Path, make: Callable[[], ag.Tensor]
) -> None:
    pytest.importorskip("pygraphviz")
    lesson = ag.steps(make())
    opened(tab, lesson, tmp_path)
    for height in (600, 720, 800, 1080):
        tab.look(1280, height)
        for k in (0, len(lesson) // 2, len(lesson) - 1):
            scrub(tab, k)
            assert tab.evaluate(COVERED) == 0
            assert tab.evaluate("document.documentElement.scrollHeight <= innerHeight")
    tab.look(1280, 800)
    frame = (
        "(d => [d.scrollWidth - d.clientWidth, d.scrollHeight - d.clientHeight])(document.querySelector('.drawing'))"
    )
    assert tab.evaluate(frame) == [0, 0]


def test_the_controls_are_one_slim_row_on_a_phone(tab: chromium.Tab, tmp_path: Path) -> None:
    lesson = ag.steps(example())
    opened(tab, lesson, tmp_path)
    for width in (320, 390):
        tab.look(width, 844)
        assert tab.evaluate("document.querySelector('.controls').getBoundingClientRect().height") <= 64
        tab.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
        assert tab.evaluate(COVERED) == 0
        tab.evaluate("document.querySelector('.more').click()")
        small = """[...document.querySelectorAll('button, select, .scrubber, .menu label')]
            .filter(e => e.checkVisibility()).map(e => [e.className, e.getBoundingClientRect()])
            .filter(([, r]) => r.width < 44 || r.height < 44 || r.left < 0 || r.right > innerWidth)
            .map(([name]) => name)"""
        assert tab.evaluate(small) == []
        tab.evaluate("document.querySelector('.last').click()")
        assert position(tab) == len(lesson) - 1
        tab.evaluate("document.querySelector('.ask').click()")
        tab.evaluate("document.querySelector('.first').click()")
        assert position(tab) == 0
        assert tab.evaluate("document.querySelector('.more').ariaExpanded") == "true"
        tab.press("Escape")
        assert not tab.evaluate("document.querySelector('.menu').checkVisibility()")


def test_ten_thousand_entries_are_scrubbed_smoothly(tab: chromium.Tab, tmp_path: Path) -> None:
    lesson = ag.steps(long())
    opened(tab, lesson, tmp_path)
    scrub(tab, 20_000)
    assert text(tab, ".title") == lesson[20_000].card.title
    assert tab.evaluate("document.querySelectorAll('#lesson *').length") < 900
    assert len(lesson.names) > 10_000 and tab.evaluate("document.querySelectorAll('.box.live').length") == 1


@pytest.mark.parametrize("width", [320, 390, 700, 1300])
@pytest.mark.parametrize("dark", [False, True])
def test_it_is_readable_everywhere(tab: chromium.Tab, tmp_path: Path, width: int, dark: bool) -> None:
    """Nothing is wider than the window, every control has a name, and text stands out (WCAG 2.1: 4.5 to 1)."""
    opened(tab, ag.steps(example()), tmp_path, quiz=width == 390)
    tab.look(width, 800, dark=dark)
    for k in (0, 9, 12, 18, 22):
        scrub(tab, k)
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    unnamed = """[...document.querySelectorAll('button, input, select')].filter(e => e.offsetParent &&
        !(e.innerText || e.ariaLabel || e.closest('label')?.innerText || '').trim()).length"""
    assert tab.evaluate(unnamed) == 0
    contrast = """(() => {
      const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
      const light = (color) => {
        canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
        const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map(v => v / 255)
          .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const behind = (e) => { for (; e; e = e.parentElement) {
        const c = getComputedStyle(e).backgroundColor; if (!/, 0\\)$|transparent/.test(c)) return c; } };
      return Math.min(...[...document.querySelectorAll('.card *, .controls *, .known *, header *')]
        .filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) && e.offsetParent)
        .map(e => { const a = light(getComputedStyle(e).color), b = light(behind(e));
          return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05); }));
    })()"""
    assert tab.evaluate(contrast) >= 4.5


def test_light_and_dark_can_be_chosen(tab: chromium.Tab, tmp_path: Path) -> None:
    opened(tab, ag.steps(example()), tmp_path)
    paper = "getComputedStyle(document.documentElement).backgroundColor"
    before = tab.evaluate(paper)
    tab.evaluate("document.getElementById('theme').click()")
    assert tab.evaluate(paper) != before
    tab.evaluate("document.getElementById('theme').click()")
    assert tab.evaluate(paper) == before
