"""A lesson as plain text, one step to a line, in colours where it goes to a terminal."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from .card import TROUBLE, Card
from .steps import ACCUMULATE, FORWARD, LOCAL, SEED, UPDATE, WRITE, Lesson, Step, steps

if TYPE_CHECKING:
    from ..tensor import Tensor

_HEADINGS = {FORWARD: "forward", UPDATE: "update"}
#: What each kind of step is printed in: parameters of the terminal's escape sequence.
COLORS = {FORWARD: "36", SEED: "35", LOCAL: "33", ACCUMULATE: "31", WRITE: "32", UPDATE: "34"}


def lesson_text(lesson: Lesson, color: bool | None = None) -> str:
    """Every step of a lesson, under the headings forward, backward and update."""
    colored = wants_color() if color is None else color
    lines: list[str] = []
    heading = None
    for step in lesson:
        if (new := _HEADINGS.get(step.kind, "backward")) != heading:
            lines.append(paint(new, "1", colored))
            heading = new
        lines.append("  " + paint(line_of_step(step), COLORS[step.kind], colored))
    return "\n".join(lines)


def line_of_step(step: Step) -> str:
    """One step in one line: what happens, and what comes of it."""
    card = step.card
    return _told(step, card) + (f"  {TROUBLE}" if TROUBLE in card.note else "")


def _told(step: Step, card: Card) -> str:
    assert card.rule is not None
    if card.passed is not None:
        return f"{card.passed.text},  {card.rule.text}"
    if step.kind == FORWARD and card.numbers is not None:
        return f"{card.rule.text} = {card.value}"
    if step.kind == ACCUMULATE and card.numbers is not None:
        return card.numbers.text.replace(" =", ": paths meet,", 1)
    return (card.numbers or card.rule).text


def card_lines(card: Card, kind: str, colored: bool) -> list[str]:
    """A card as lines of text: what happens, the formulas, the check, the user's line with its part marked."""
    lines = [" " + paint(card.title, f"1;{COLORS[kind]}", colored), ""]
    lines += [f"   {f.text}" for f in (card.rule, card.numbers, card.passed, card.chain) if f is not None]
    lines += ["", *([f" {card.note}"] if card.note else [])]
    if card.check is not None:
        mark, color = {True: ("✓", "32"), False: ("✗", "31"), None: ("·", "33")}[card.check.agrees]
        lines.append(f" {paint(mark, color, colored)} {card.check.text}")
    if card.source is not None and card.source.text:
        s = card.source
        lines.append(f" {paint(s.place, '2', colored)}   {s.text}")
        lines.append(" " * (len(s.place) + 4 + s.start) + paint("^" * (s.end - s.start), "33", colored))
    return lines


def paint(text: str, code: str, colored: bool) -> str:
    """The text in a colour of the terminal, if wanted."""
    return f"\x1b[{code}m{text}\x1b[0m" if colored else text


def wants_color() -> bool:
    """Whether standard output is a terminal whose user has not asked for none (https://no-color.org)."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" and sys.stdout.isatty()


def backward_text(output: Tensor, of: str | None = None) -> str:
    """The forward and backward pass of a tape, derivative by derivative: the text of `steps(output, of=of)`."""
    return steps(output, of=of).text(color=False)
