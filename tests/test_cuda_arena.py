"""Places of values between launches: what is alive at one time does not overlap."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from autograd_geo.compiler.nodes import CONST, INPUT, MAP, Node
from autograd_geo.cuda.arena import laid_out, room
from autograd_geo.cuda.together import MOST_OPERANDS, Work, joined

BYTE = np.dtype(np.uint8)


@st.composite
def programs(draw: Any) -> list[Work]:
    """Works in order, each of which makes a value from some made before, or from what is given."""
    made = [Node(draw(st.sampled_from([INPUT, CONST])), (draw(st.integers(0, 2000)),), BYTE) for _ in range(2)]
    works = []
    for _ in range(draw(st.integers(1, 12))):
        reads = draw(st.lists(st.sampled_from(made), max_size=3))
        made.append(Node(MAP, (draw(st.integers(0, 2000)),), BYTE))
        operands = [*reads, made[-1]]
        spread = draw(st.sampled_from([0, 1, 700]))
        names = ", ".join(f"p{k}" for k in range(len(operands)))
        source = f"def kernel({names}):\n    for t in range(cuda.grid(1), {spread}, cuda.gridsize(1)):\n        pass\n"
        works.append(Work(operands, [0] * len(operands), source, 1, spread))
    return works


def nodes(works: list[Work]) -> dict[int, Node]:
    return {id(x): x for work in works for x in work.operands if x.kind == MAP}


@given(programs(), st.booleans())
def test_what_is_alive_does_not_overlap(works: list[Work], together: bool) -> None:
    works = joined(works, 4, 2) if together else works
    elsewhere = {id(works[-1].operands[-1])}
    places, size = laid_out(works, elsewhere)
    found = nodes(works)
    assert places.keys() == found.keys() - elsewhere
    uses = {key: [k for k, work in enumerate(works) if key in map(id, work.operands)] for key in places}
    for a in places:
        assert places[a] % 256 == 0 and places[a] + room(found[a]) <= size
        for b in places:
            if a != b and uses[a][0] <= uses[b][-1] and uses[b][0] <= uses[a][-1]:
                assert places[a] + room(found[a]) <= places[b] or places[b] + room(found[b]) <= places[a]


def test_a_chain_takes_two_places() -> None:
    made = [Node(INPUT, (1000,), BYTE), *(Node(MAP, (1000,), BYTE) for _ in range(50))]
    _, size = laid_out([Work([a, b], [0, 0]) for a, b in pairwise(made)], set())
    assert size == 2 * room(made[1])


def test_holes_beside_each_other_become_one() -> None:
    small, large = [Node(MAP, (1000,), BYTE) for _ in range(2)], Node(MAP, (2000,), BYTE)
    _, size = laid_out([Work(small, [0, 0]), Work([large], [0])], set())
    assert size == room(large)


@given(programs())
def test_work_is_joined_where_nothing_waits(works: list[Work]) -> None:
    """Each kernel of before runs once, on its buffers, after those that it reads from, and none waits in a launch."""
    done = joined(works, 4, 2)
    place = {id(x): k for k, work in enumerate(done) for x in reversed(work.operands) if x.kind == MAP}
    for work in works:
        *reads, mine = work.operands
        holders = [k for k, each in enumerate(done) if id(mine) in map(id, each.operands)]
        assert holders
        for x in reads:
            if x.kind == MAP:
                assert min(k for k, each in enumerate(done) if id(x) in map(id, each.operands)) < holders[0]
    assert sum(work.spread for work in done) == sum(work.spread for work in works)
    assert len(place) == len(nodes(works))


def test_kernels_take_so_many_arguments() -> None:
    source = "def kernel(p0):\n    for t in range(cuda.grid(1), 9, cuda.gridsize(1)):\n        pass\n"
    works = [Work([Node(MAP, (9,), BYTE)], [0], source, 1, 9) for _ in range(1200)]
    done = joined(works, 4, 2)
    assert [len(work.operands) for work in done] == [MOST_OPERANDS, MOST_OPERANDS, 200]
    assert done[0].source.count("def part") == 1
