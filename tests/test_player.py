"""The terminal player: what keys do, what is on the screen, and a run in a pseudo-terminal; questions and answers."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import autograd_geo as ag
from autograd_geo import expr
from autograd_geo.op import functions
from autograd_geo.viz.player import PACES, Player, keys_in
from autograd_geo.viz.quiz import UNREADABLE, Question, read

EXAMPLE = """\
import autograd_geo as ag
x, y, z = (ag.tensor(v, requires_grad=True, name=n) for n, v in dict(x=-2.0, y=5.0, z=-4.0).items())
f = ((x + y) * z) ** 2
"""


def example() -> ag.Tensor:
    x, y, z = (ag.tensor(v, requires_grad=True, name=n) for n, v in {"x": -2.0, "y": 5.0, "z": -4.0}.items())
    f = ((x + y) * z) ** 2
    return f


def press(player: Player, *keys: str) -> bool:
    return all(player.press(key) for key in keys)


def plain(player: Player, width: int = 90, height: int = 30) -> str:
    return player.screen(width, height, False)


# --- keys -----------------------------------------------------------------------------------------------------


def test_arrows_go_on_and_back_and_stop_at_the_ends() -> None:
    player = Player(ag.steps(example()))
    press(player, "right", "right", "left")
    assert player.lesson.position == 1
    press(player, "left", "left", "left")
    assert player.lesson.position == 0
    press(player, "end", "right")
    assert player.lesson.position == len(player.lesson) - 1
    assert not press(player, "q")


def test_go_to_takes_a_number() -> None:
    player = Player(ag.steps(example()))
    press(player, "g", "1", "x", "2", "5", "backspace")
    assert "go to step (1 to 15): 12" in plain(player)
    press(player, "enter")
    assert player.lesson.position == 11 and player.target is None
    press(player, "g", "9", "9", "9", "enter")
    assert player.lesson.position == 14
    press(player, "g", "3", "escape")
    assert player.lesson.position == 14


def test_space_plays_to_the_end_and_no_further() -> None:
    player = Player(ag.steps(example()))
    press(player, " ", "+")
    assert player.playing and f"every {PACES[2]:g} s" in plain(player)
    for _ in range(20):
        player.forward()
    assert player.lesson.position == 14 and not player.playing
    press(player, " ")
    assert not player.playing
    press(player, "home", " ", "left")
    assert not player.playing
    press(player, *"-------")
    assert player.pace == 0


def test_help_comes_and_goes() -> None:
    player = Player(ag.steps(example()))
    press(player, "?")
    assert "go to a step" in plain(player)
    press(player, "?")
    assert "x is given" in plain(player)


@given(
    st.lists(st.sampled_from(["right", "left", " ", "g", "1", "7", "enter", "?", "home", "end", "+", "x", "backspace"]))
)
def test_no_keys_lead_astray(keys: list[str]) -> None:
    player = Player(ag.steps(example()), quiz=True)
    for key in keys:
        assert press(player, key)
        assert 0 <= player.lesson.position < len(player.lesson)
        plain(player)


def test_what_terminals_send_for_keys() -> None:
    assert keys_in("\x1b[C\x1bOD g\r\x7f\x1b[1;5Q\x1b") == ["right", "left", " ", "g", "enter", "backspace", "escape"]


# --- the screen -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(20, 6), (80, 24), (200, 60), (1, 1)])
def test_the_screen_fits_the_terminal(size: tuple[int, int]) -> None:
    player = Player(ag.steps(example()))
    for _ in range(len(player.lesson)):
        lines = player.screen(*size, True).splitlines()
        assert len(lines) <= size[1]
        assert all(len(re.sub(r"\x1b\[[0-9;]*m", "", line)) <= size[0] for line in lines)
        player.forward()


def test_the_screen_shows_the_card_and_what_is_known_so_far() -> None:
    player = Player(ag.steps(example()).goto(8))
    text = plain(player)
    for part in ("Step 9 of 15", "∂f/∂a ← ∂f/∂b·∂b/∂a = (-24)·(-4) = 96", "they agree", "f = ((x + y) * z) ** 2"):
        assert part in text
    assert re.search(r"›a = 3 +96\n", text) and re.search(r" x = -2 +·\n", text)
    press(player, "end")
    assert re.search(r"›y = 5 +96  → .grad\n", plain(player))


def test_updates_of_what_is_not_on_the_tape_are_shown_too() -> None:
    other = ag.tensor(1.0, requires_grad=True, name="other")
    other.grad = 2.0
    out = example()
    player = Player(ag.steps(out, optimizer=ag.optim.SGD([other], lr=0.5)))
    press(player, "end")
    assert "other is updated" in plain(player) and "other ← 1 - 1 = 0" in plain(player)


# --- predict, then reveal -------------------------------------------------------------------------------------


def question(fn: Any, kind: str = "local", **values: float) -> Question:
    """The last question of a kind about a function at a point."""
    inputs = {n: ag.tensor(v, requires_grad=True, name=n) for n, v in values.items()}
    found = [s.question for s in ag.steps(fn(**inputs), of="f") if s.kind == kind and s.question]
    return found[-1]


@pytest.mark.parametrize(
    ("fn", "values", "kind", "answer", "says"),
    [
        (lambda x: (3 * x) ** 2, {"x": 2.0}, "local", "36", "Right."),
        (lambda x: (3 * x) ** 2, {"x": 2.0}, "local", "−36", "sign is flipped"),
        (lambda x: (3 * x) ** 2, {"x": 2.0}, "local", "12", "local derivative was forgotten"),
        (lambda x: (3 * x) ** 2, {"x": 2.0}, "local", "3", "from above was forgotten"),
        (lambda x: (3 * x) ** 2, {"x": 2.0}, "local", "15", "Added where it should be multiplied"),
        (lambda x, y: x * y * 7, {"x": 2.0, "y": 5.0}, "local", "35", "wrong point"),
        (lambda x: functions["exp"](x), {"x": 1.5}, "local", "1.5", "wrong point"),
        (lambda x: x * x + 4 * x, {"x": 3.0}, "accumulate", "10", "Right."),
        (lambda x: x * x + 4 * x, {"x": 3.0}, "accumulate", "7", "path was forgotten"),
        (lambda x: x * x + 4 * x, {"x": 3.0}, "accumulate", "3", "path was forgotten"),
        (lambda x: x * x + 4 * x, {"x": 3.0}, "accumulate", "21", "Multiplied where it should be added"),
        (lambda x: x * x + 4 * x, {"x": 3.0}, "accumulate", "-10", "sign is flipped"),
        (lambda x: x / 3, {"x": 3.0}, "local", "1/3", "Right."),
        (lambda x: x / 3, {"x": 3.0}, "local", "0,333", "Right."),
        (lambda x: x / 3, {"x": 3.0}, "local", "0.5", "Not this one"),
        (lambda x: x / 3, {"x": 3.0}, "local", "a third", UNREADABLE),
    ],
)  # fmt: skip
def test_answers_are_judged_and_errors_named(
    fn: Any, values: dict[str, float], kind: str, answer: str, says: str
) -> None:
    right, told = question(fn, kind, **values).judge(answer)
    assert says in told
    assert right == (says == "Right.")


def test_wrong_answers_are_told_from_the_right_one() -> None:
    q = question(lambda x, y: x * y, x=2.0, y=2.0)
    assert expr.label(q.options[0].formula) == "∂f/∂f·x"
    assert len({round(o.value, 6) for o in q.options}) == len(q.options)
    assert [f.text for f in q.given] == ["f = x·y = 4", "∂f/∂f = 1"]


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(0.1, 100))
def test_numbers_are_read(top: float, bottom: float) -> None:
    assert read(f" {top!r} ") == top
    assert read(f"{top!r}/{bottom!r}") == top / bottom
    assert read(f"{top!r}/0") is None


def test_a_quiz_hides_a_step_until_it_is_answered() -> None:
    player = Player(ag.steps(example()), quiz=True)
    press(player, *["right"] * 7)
    assert player.asking and "∂f/∂b = " in plain(player) and "-24" not in plain(player)
    press(player, *"24", "backspace", "4", "enter")
    assert player.asking and "The sign is flipped." in plain(player)
    press(player, "x", *"-24", "enter")
    assert not player.asking
    assert "Right." in plain(player) and "1·(-24) = -24" in plain(player)
    press(player, "right")
    assert player.asking
    press(player, "right")
    assert not player.asking and player.lesson.position == 8
    press(player, " ")
    player.forward()
    assert player.asking and not player.playing


# --- a real one -----------------------------------------------------------------------------------------------


def test_without_a_terminal_it_says_what_else_there_is() -> None:
    code = EXAMPLE + "ag.steps(f).play()"
    run = subprocess.run([sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert "the player needs a terminal; lesson.text()" in run.stderr


def test_in_a_pseudo_terminal() -> None:
    pty = pytest.importorskip("pty")
    import termios

    pid, terminal = pty.fork()
    if not pid:
        os.execve(
            sys.executable, [sys.executable, "-c", EXAMPLE + "ag.steps(f).play()"], {**os.environ, "TERM": "xterm"}
        )
    seen = ""

    def wait_for(text: str) -> None:
        nonlocal seen
        end = time.monotonic() + 60
        while text not in seen:
            assert select.select([terminal], [], [], max(end - time.monotonic(), 0))[0], f"no {text!r} in {seen!r}"
            seen += os.read(terminal, 65536).decode(errors="ignore")

    wait_for("Step 1 of 15")
    before = termios.tcgetattr(terminal)
    assert not before[3] & termios.ICANON
    for typed, expected in (
        (b"\x1b[C", "Step 2 of 15"), (b"\x1b[D", "Step 1 of 15"), (b"g9\r", "(-24)·(-4) = 96"), (b"?", "go to a step"),
        (b"? ", "every 1.5 s"), (b"+++", "every 0.1 s"), (b"", "Step 15 of 15"),
    ):  # fmt: skip
        seen = ""
        os.write(terminal, typed)
        wait_for(expected)
    seen = ""
    os.write(terminal, b"q")
    wait_for("\x1b[?1049l")
    assert termios.tcgetattr(terminal)[3] & termios.ICANON  # as it was
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(terminal)
