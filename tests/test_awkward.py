"""Ours does what is right in each of the awkward cases that `bench.awkward` puts to engines, also compiled."""

from __future__ import annotations

import pytest

from bench.awkward import judge, right
from bench.awkward_cases import CASES, Between, Case, OneOf, agrees
from bench.awkward_engines import COMPILED, ENGINES, Compiled, Engine
from bench.harness import OURS


@pytest.fixture(scope="module", params=[OURS, COMPILED])
def engine(request: pytest.FixtureRequest) -> Engine:
    return ENGINES[request.param]()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_ours_is_right(engine: Engine, case: Case) -> None:
    mark, detail = judge(case, engine)
    if mark == "-" and isinstance(engine, Compiled):
        pytest.skip(detail)
    assert mark in right(case), detail


def test_judging_tells_marks_apart() -> None:
    ours = ENGINES[OURS]()

    def of(body: object, answer: object = 1.0) -> str:
        return judge(Case(3, "", body, answer), ours)[0]  # type: ignore[arg-type]

    def raising(error: BaseException) -> object:
        def body(e: object) -> None:
            raise error

        return body

    assert of(lambda e: 1.0) == "ok"
    assert of(lambda e: 2.0) == of(lambda e: 1.0, None) == "W"
    assert of(lambda e: float("nan")) == "nan"
    assert of(raising(ValueError("a reason"))) == "E"
    assert of(raising(ValueError())) == of(raising(RecursionError("deep"))) == "C"
    assert of(lambda e: e.no_such_function) == "-"


def test_answers() -> None:
    assert agrees([0.5, 1.0], Between(0, 1)) and not agrees(float("nan"), Between(0, 1))
    assert agrees(float("nan"), OneOf((1.0, float("nan")))) and not agrees(2.0, OneOf((1.0, float("nan"))))
    assert not agrees([1.0, 1.0], [1.0]) and not agrees(1.001, 1.0)
