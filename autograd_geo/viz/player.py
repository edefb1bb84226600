"""A lesson in the terminal: arrows step, space plays, g goes to a step, q leaves."""

from __future__ import annotations

import io
import os
import re
import shutil
import sys
import time
from typing import Any

from .. import expr
from .steps import Lesson, Step
from .text import COLORS, card_lines, paint, wants_color
from .values import number

#: Seconds a step stays while playing, slowest first.
PACES = (3.0, 1.5, 0.7, 0.3, 0.1)
HELP = """\
→ n l         one step on                 ← p h    one step back
space         play, pause                 + -      faster, slower
Home End      first, last step            g        go to a step: type its number, Enter
?             this help, and back         q Esc    leave
With --quiz a derivative is asked for before it is shown: type its value, Enter; → shows it."""
_FOOT = "← → step   space play   g go to   ? help   q leave"
_ASK = "type the value, Enter   → show it   ← back   q leave"
_DIGITS = frozenset("0123456789.,-−+/eE")


class Player:
    """What the keys do and what is on the screen; knows nothing of terminals."""

    def __init__(self, lesson: Lesson, *, quiz: bool = False) -> None:
        self.lesson, self.quiz = lesson, quiz
        self.playing = self.helping = False
        self.pace = 1
        self.target: str | None = None  # the number of the step to go to, while it is typed
        self.answer = self.verdict = ""
        self.shown: set[int] = set()  # the questions that need no asking any more

    @property
    def asking(self) -> bool:
        """Whether the present step is hidden until its question is answered."""
        position = self.lesson.position
        return self.quiz and position not in self.shown and self.lesson.step.question is not None

    def press(self, key: str) -> bool:
        """Do what a key means; whether to go on."""
        if self.target is not None:
            self._type_target(key)
        elif key in ("q", "escape", "\x03", "\x04"):
            return False
        elif key == "?":
            self.helping = not self.helping
        elif self.asking and (key in _DIGITS or key in ("enter", "backspace")):
            self._type_answer(key)
        elif key in ("right", "n", "l"):
            self.playing = False
            self.forward()
        elif key in ("left", "p", "h"):
            self._go(self.lesson.position - 1)
        elif key == " ":
            self.playing = not self.playing and self.lesson.position < len(self.lesson) - 1
        elif key in ("home", "end"):
            self._go(0 if key == "home" else len(self.lesson) - 1)
        elif key in ("+", "=", "-", "_"):
            self.pace = min(max(self.pace + (1 if key in "+=" else -1), 0), len(PACES) - 1)
        elif key == "g":
            self.target, self.playing = "", False
        return True

    def forward(self) -> None:
        """One step on; where a question is open, its answer."""
        if self.asking:
            self.shown.add(self.lesson.position)
            self.verdict = self.answer = ""
        elif self.lesson.position < len(self.lesson) - 1:
            self.lesson = self.lesson.next()
            self.verdict = ""
        self.playing = self.playing and not self.asking and self.lesson.position < len(self.lesson) - 1

    def _go(self, k: int) -> None:
        self.lesson = self.lesson.goto(min(max(k, 0), len(self.lesson) - 1))
        self.playing, self.answer, self.verdict = False, "", ""

    def _type_target(self, key: str) -> None:
        assert self.target is not None
        if key.isdigit():
            self.target += key
        elif key == "backspace":
            self.target = self.target[:-1]
        elif key in ("enter", "escape", "q"):
            if key == "enter" and self.target:
                self._go(int(self.target) - 1)
            self.target = None

    def _type_answer(self, key: str) -> None:
        question = self.lesson.step.question
        assert question is not None
        if key == "backspace":
            self.answer = self.answer[:-1]
        elif key != "enter":
            self.answer += key
        elif self.answer:
            right, self.verdict = question.judge(self.answer)
            if right:
                self.shown.add(self.lesson.position)
            self.answer = ""

    # --- the screen -------------------------------------------------------------------------------------------

    def screen(self, width: int, height: int, colored: bool) -> str:
        """What to show, `height` lines of at most `width` characters."""
        step = self.lesson.step
        body = HELP.splitlines() if self.helping else self._question() if self.asking else self._told(step, colored)
        known = [] if self.helping else self._known(height - len(body) - 5, colored)
        lines = [*self._head(step, width, colored), "", *body, "", *known]
        lines = [*lines, *[""] * (height - len(lines) - 1)][: height - 1]
        return "\n".join(_cut(line, width) for line in [*lines, paint(self._foot(), "2", colored)])

    def _head(self, step: Step, width: int, colored: bool) -> list[str]:
        count = len(self.lesson)
        room = max(width - 2, 1)
        done = round(room * (step.index + 1) / count)
        state = f"  ▶ every {PACES[self.pace]:g} s" if self.playing else ""
        return [
            paint(f" Step {step.index + 1} of {count}", "1", colored) + state,
            " " + paint("━" * done, COLORS[step.kind], colored) + paint("─" * (room - done), "2", colored),
        ]

    def _told(self, step: Step, colored: bool) -> list[str]:
        return [*card_lines(step.card, step.kind, colored), *([f" {self.verdict}"] if self.verdict else [])]

    def _question(self) -> list[str]:
        question = self.lesson.step.question
        assert question is not None
        given = [f"   {formula.text}" for formula in question.given]
        return [" What comes next?", "", *given, "", f"   {expr.label(question.asked)} = {self.answer}▏", "",
                f" {self.verdict}"]  # fmt: skip

    def _known(self, room: int, colored: bool) -> list[str]:
        """Values and derivatives so far, as many as fit, the present one among them."""
        if room < 3:
            return []
        step = self.lesson.step
        lesson = self.lesson.goto(max(step.index - 1, 0)) if self.asking else self.lesson
        state, names = lesson.state, self.lesson.names
        live = step.operand or step.name
        here = names.index(live) if live in names else len(names)
        first = min(max(here - (room - 1) // 2, 0), max(len(names) - room + 1, 0))
        wide = max(map(len, names[first : first + room - 1]))
        lines = [paint(f" {'':{wide}}   {'value':<14} derivative of {names[-1]}", "2", colored)]
        for name in names[first : first + room - 1]:
            value, slope = (_short(m[name]) if name in m else "·" for m in (state.values, state.derivatives))
            mark = "›" if name == live else " "
            lines.append(f"{mark}{name:<{wide}} = {value:<14} {slope}" + ("  → .grad" if name in state.grads else ""))
        return lines

    def _foot(self) -> str:
        if self.target is not None:
            return f"go to step (1 to {len(self.lesson)}): {self.target}▏"
        return _ASK if self.asking else _FOOT


def _short(value: Any) -> str:
    text = number(value)
    return text if len(text) <= 14 else text[:13] + "…"


def _cut(line: str, width: int) -> str:
    """A line without what would not fit; colours do not count."""
    kept, used = "", 0
    for part in re.split(r"(\x1b\[[0-9;]*m)", line):
        if part.startswith("\x1b"):
            kept += part
        else:
            kept += part[: max(width - used, 0)]
            used += len(part)
    return kept


# --- terminals ------------------------------------------------------------------------------------------------

_NAMES = {
    "\x1b[C": "right", "\x1bOC": "right", "\x1b[D": "left", "\x1bOD": "left", "\x1b[H": "home", "\x1bOH": "home",
    "\x1b[1~": "home", "\x1b[F": "end", "\x1bOF": "end", "\x1b[4~": "end", "\x1b": "escape", "\r": "enter",
    "\n": "enter", "\x7f": "backspace", "\b": "backspace",
}  # fmt: skip


def keys_in(typed: str) -> list[str]:
    """The keys that a terminal reports as these characters; unknown sequences are left out."""
    parts = re.findall(r"\x1b\[[0-9;]*[A-Za-z~]|\x1bO[A-Z]|.", typed, re.DOTALL)
    return [_NAMES.get(part, part) for part in parts if part in _NAMES or len(part) == 1]


class _Posix:
    """Keys as they are pressed, on a terminal put back as it was."""

    def __enter__(self) -> _Posix:
        import termios
        import tty

        self._file = sys.stdin.fileno()
        self._before = termios.tcgetattr(self._file)
        tty.setcbreak(self._file)
        return self

    def __exit__(self, *exc: object) -> None:
        import termios

        termios.tcsetattr(self._file, termios.TCSADRAIN, self._before)

    def read(self, seconds: float | None) -> list[str]:
        """The keys pressed, waiting for one at most so long; `["q"]` where there will be none any more."""
        import select

        if not select.select([self._file], [], [], seconds)[0]:
            return []
        typed = os.read(self._file, 1024)
        while re.search(rb"\x1b[\[O]?[0-9;]*$", typed) and select.select([self._file], [], [], 0.03)[0]:
            typed += os.read(self._file, 1024)  # the rest of an arrow
        return keys_in(typed.decode(errors="ignore")) if typed else ["q"]


class _Windows:
    """Keys as they are pressed, on a Windows console."""

    _CODES = {"M": "right", "K": "left", "G": "home", "O": "end"}  # noqa: RUF012

    def __enter__(self) -> _Windows:
        os.system("")  # makes older consoles understand escape sequences
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def read(self, seconds: float | None) -> list[str]:
        """The key pressed, waiting for one at most so long."""
        import msvcrt

        console: Any = msvcrt
        end = None if seconds is None else time.monotonic() + seconds
        while not console.kbhit():
            if end is not None and time.monotonic() > end:
                return []
            time.sleep(0.02)
        key = console.getwch()
        return [self._CODES.get(console.getwch(), "")] if key in "\x00\xe0" else keys_in(key)


def play(lesson: Lesson, *, quiz: bool = False) -> None:
    """Step through a lesson on this terminal until q. Raises OSError where there is none."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise io.UnsupportedOperation(
            "the player needs a terminal; lesson.text() is the lesson as text, lesson.html(path) a page"
        )
    player, colored = Player(lesson, quiz=quiz), wants_color()
    sys.stdout.write("\x1b[?1049h\x1b[?25l")  # a screen of its own, no cursor
    try:
        with _Windows() if os.name == "nt" else _Posix() as terminal:
            while True:
                screen = player.screen(*shutil.get_terminal_size(), colored)
                sys.stdout.write("\x1b[H" + screen.replace("\n", "\x1b[K\r\n") + "\x1b[J")
                sys.stdout.flush()
                keys = terminal.read(PACES[player.pace] if player.playing else None)
                if not all(player.press(key) for key in keys):
                    break
                if not keys:
                    player.forward()
    except KeyboardInterrupt:
        pass
    finally:
        sys.stdout.write("\x1b[?25h\x1b[?1049l")
        sys.stdout.flush()
