"""A lesson as one page that works without a network, and as the data that page and widget show.

Formulas go into the data as numbers of templates and what fills them: a tape of ten thousand entries has few different
formulas. What comes from the user, names and lines, is only ever filled in as text.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from importlib.resources import files
from itertools import islice
from pathlib import Path
from string import Template
from typing import Any

from .. import expr
from ..expr import Call, Node, Num, Var
from ..tape import Entry
from . import quiz as questions
from .card import TITLES, Source, card, source_of, title_kind
from .difference import Check
from .formulas import Formula
from .graph import overview
from .mathematics import indexed
from .render import svg, write
from .steps import LOCAL, Lesson, reached
from .values import summary

#: Of a long lesson the first so many questions are asked.
MOST_QUESTIONS = 500
#: Up to so many steps the page holds the lesson as text too, for browsers without scripts.
LONGEST_TEXT = 500


class _Table:
    """Things by number, each one kept once."""

    def __init__(self) -> None:
        self.items: dict[Hashable, int] = {}

    def number(self, item: Hashable) -> int:
        return self.items.setdefault(item, len(self.items))

    def list(self) -> list[Any]:
        return list(self.items)


class _Packer:
    """Turns what there is to say into compact data."""

    def __init__(self, lesson: Lesson) -> None:
        self.record = lesson._record
        self.places = {entry: n for n, entry in enumerate(self.record.named)}
        self.names = {name: n for n, name in enumerate(self.record.named.values())}
        self.templates, self.rows, self.words, self.lines = _Table(), _Table(), _Table(), _Table()

    def formulas(self, formulas: Iterable[Formula | None]) -> list[Any]:
        """The number of a row of templates, then what fills them: the number of a value for its name, or text."""
        fills: list[Any] = []
        row = []
        for formula in formulas:
            if formula is None:
                row.append(-1)
            else:
                sides = tuple(self._skeleton(side, fills) for side in formula.sides)
                row.append(self.templates.number((sides, formula.flows)))
        return [self.rows.number(tuple(row)), *fills]

    def _skeleton(self, node: Node, fills: list[Any]) -> Node:
        """The expression with a numbered place for each name and number, which are put into `fills`."""
        if isinstance(node, Call):
            if expr.is_square(node):
                node = Call("**", (node.args[0], Num(2.0)))
            return Call(node.fn, tuple(self._skeleton(a, fills) for a in node.args))
        fill: int | str
        if isinstance(node, Num):
            if node.value < 0:
                return Call("u-", (self._skeleton(Num(-node.value), fills),))
            kind, fill = "mn", f"{node.value:.6g}".replace("-", "−").replace("inf", "∞")
        else:
            fill = self.names.get(node.name, node.name)
            kind = "mtext" if isinstance(fill, str) else "mi"
        if fill not in fills:
            fills.append(fill)
        return Var(f"{fills.index(fill)} {kind}")

    def check(self, found: Check | None) -> list[Any] | None:
        return None if found is None else [found.agrees, self.words.number(found.words), *found.said]

    def source(self, found: Source | None) -> list[int] | None:
        if found is None or not found.text:
            return None
        return [self.lines.number((found.place, found.text)), found.start, found.end]

    def node(self, entry: Entry) -> list[Any]:
        """Name, length of the index it ends in, value, the values it is computed from, the user's line."""
        inputs = [self.places[i] for i in entry.inputs if isinstance(i, Entry)]
        name = self.record.named[entry]
        return [name, len(indexed(name)[1]), summary(entry.value), inputs, self.source(source_of(entry))]

    def step(self, k: int) -> list[Any]:
        """Kind, value it is about, value a derivative is by, what comes of it, formulas, check, note."""
        moment, told = self.record.moments[k], card(self.record, k)
        formulas = self.formulas((told.rule, told.numbers, told.passed, told.chain))
        return [
            self.words.number(title_kind(moment)), self.places[moment.entry],
            self.places[reached(moment)] if moment.kind == LOCAL else -1, summary(moment.value), formulas,
            self.check(told.check), self.words.number(told.note),
        ]  # fmt: skip

    def question(self, asked: questions.Question) -> list[Any]:
        """What is asked and given; and the answers: value, expression, what to say; the right one first."""
        return [
            self.formulas([Formula((asked.asked,)), *asked.given]),
            [[o.value, self.formulas([Formula((o.formula,))]), self.words.number(o.says)] for o in asked.options],
        ]  # fmt: skip


def lesson_data(lesson: Lesson, quiz: bool = False) -> dict[str, Any]:
    """All that a page or widget shows of a lesson, as JSON can hold it."""
    packer = _Packer(lesson)
    record = packer.record
    steps = [packer.step(k) for k in range(len(lesson))]
    asked = ((step.index, step.question) for step in lesson)
    packed = {k: packer.question(q) for k, q in islice(((k, q) for k, q in asked if q is not None), MOST_QUESTIONS)}
    nodes = [packer.node(entry) for entry in record.named]
    return {
        "top": record.top,
        "quiz": quiz,
        "nodes": nodes,
        "steps": steps,
        "questions": packed,
        "titles": TITLES,
        "templates": [_mathml(*template) for template in packer.templates.list()],
        "rows": packer.rows.list(),
        "words": packer.words.list(),
        "lines": packer.lines.list(),
        "drawing": _drawing(record.output, packer.places),
        "judging": {
            "number": questions.NUMBER, "relative": questions.RELATIVE, "absolute": questions.ABSOLUTE,
            "unknown": questions.UNKNOWN, "unreadable": questions.UNREADABLE,
        },
    }  # fmt: skip


def _mathml(sides: tuple[Node, ...], flows: bool) -> list[str]:
    """A formula as MathML, side by side, so that lines may break; its places are empty elements with their number."""

    def place(leaf: Num | Var) -> str:
        assert isinstance(leaf, Var)
        number, kind = leaf.name.split()
        return f'<{kind} data-fill="{number}"></{kind}>'

    first, *rest = [f"<mrow>{expr.mathml(side, place)}</mrow>" for side in sides]
    signs = ["←" if flows else "=", *["="] * len(rest)]
    return [first, *[f"<mo form='infix'>{sign}</mo>{side}" for sign, side in zip(signs, rest, strict=False)]]


def _drawing(output: Entry, places: Mapping[Entry, int]) -> dict[str, Any]:
    """The graph as SVG, which of its cards shows each value, what to say of it; nothing where nothing here draws.

    Cards are `c3`, edges `c2-c3`. The card of a value alone has the value's number, any other a number above those.
    """
    try:
        picture, note = overview(output)
        drawn = svg(picture.drawing, picture.drawing.dot(), "light")  # the page gives it its own colours
    except ImportError:
        return {"svg": "", "cards": [], "note": ""}
    shows = Counter(picture.card_of[entry] for entry in places if entry in picture.card_of)
    alone = {card: places[entry] for entry, card in picture.card_of.items() if shows[card] == 1}
    number = {card: alone.get(card, len(places) + n) for n, card in enumerate(picture.drawing.cards)}

    def numbered(match: re.Match[str]) -> str:
        return 'id="' + "-".join([f"c{number[name]}" for name in match.groups() if name]) + '"'

    return {
        "svg": re.sub(r'id="([vb][\d.]+)(?:(?:-|&#45;)([vb][\d.]+))?"', numbered, drawn),
        "cards": [number.get(picture.card_of.get(entry, ""), -1) for entry in places],
        "note": f"{note}: boxes hold what belongs together, a click on one leads there" if note else "",
    }


# --- the page -------------------------------------------------------------------------------------------------


def asset(name: str) -> str:
    """One of the files that page and widget are made of."""
    return files(__package__).joinpath(name).read_text("utf-8")


#: Each step takes some 200 bytes in a page, and a millisecond to write.
MOST_STEPS = 100_000


def page(lesson: Lesson, quiz: bool = False) -> str:
    """The lesson as a page with everything in it. Nothing but its own script can run there."""
    script = asset("lesson.js") + asset("lesson_page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    data = json.dumps(lesson_data(lesson, quiz), ensure_ascii=False, separators=(",", ":"))
    return Template(asset("lesson_page.html")).substitute(
        policy=f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; base-uri 'none'; "
        "form-action 'none'",
        title=html.escape(lesson.names[-1]),
        style=asset("lesson.css"),
        script=script,
        text=html.escape(lesson.text(color=False)) if len(lesson) <= LONGEST_TEXT else "",
        data=data.replace("<", "\\u003c"),
    )


def write_page(lesson: Lesson, path: Path, quiz: bool = False) -> None:
    """Write the page; see `Lesson.html`."""
    if len(lesson) > MOST_STEPS:
        raise ValueError(
            f"a page of {len(lesson):,} steps would be too large to open; pages have up to {MOST_STEPS:,}. Make one of "
            "a part, such as a few time steps; ag.graph(...) draws all of it, with loops collapsed"
        )
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory; name a file in it, such as {path / 'lesson.html'}")
    write(path, page(lesson, quiz), "lesson")
