"""The fuzzers' functions on generated inputs, on damaged good ones, and on inputs that once broke something."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.fuzz.targets import TARGETS, run, seeds

WORDS = ["x", "y", "z", "=", "1", "-2.5", "1e308", "nan", "inf", "pi", "(", ")", "+", "-", "*", "**", "/", ",", "<",
         " if ", " else ", " and ", "sum", "where", "sqrt", "[", "]", ":", "\n", ";", "\t", '"', "\x1b[31m", "\0",
         "\u202e", "</script>",
         "é", "\ud7ff", "\\", "'", "{", "}", "lambda ", "__import__", ".", "#", "9" * 400]  # fmt: skip
TEXTS = st.lists(st.sampled_from(WORDS), max_size=20).map(lambda words: "".join(words).encode())


@st.composite
def damaged(draw: st.DrawFn, name: str) -> bytes:
    """A good input with pieces replaced, or anything at all."""
    content = draw(st.one_of(st.sampled_from(seeds(name)), TEXTS))
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(content)))
        end = draw(st.integers(start, min(len(content), start + 8)))
        content = content[:start] + draw(st.one_of(st.binary(max_size=4), TEXTS)) + content[end:]
    return content


@pytest.mark.parametrize("name", TARGETS)
def test_any_input(name: str) -> None:
    @settings(max_examples=60 if name == "command" else 200, deadline=None, suppress_health_check=list(HealthCheck))
    @given(damaged(name))
    def check(content: bytes) -> None:
        run(name, content)

    check()


@pytest.mark.parametrize("name", TARGETS)
def test_good_inputs(name: str) -> None:
    for content in seeds(name):
        run(name, content)


FOUND = {
    "csv": [
        b"\x1b]0;t\x07,\xe2\x80\xae\n1,2\n3,4\n",  # the names, shown by repr(table) as they were
        ",".join(f"c{n}" for n in range(100_000)).encode() + b"\n",  # looking for equal names took a square of time
    ],
    "expression": [
        b"9" * 400,  # no float: OverflowError
        b"x\x1b[31m",  # the expression, repeated in the message as it was
    ],
}


@pytest.mark.parametrize(("name", "content"), [(name, content) for name, all in FOUND.items() for content in all])
def test_what_once_broke(name: str, content: bytes) -> None:
    run(name, content)
