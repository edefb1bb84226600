"""What a compiled function computes, as a graph coloured by the kernels that do it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from .. import expr
from ..compiler import Compiled
from ..compiler.explain import Operations, RecordingInfo, StepInfo, explained, recorded
from ..compiler.nodes import CONST, INPUT, MAP, MOVE, REDUCE, RESULT, TABLE, Node
from ..compiler.program import Program
from ..compiler.regions import Region, sources
from .drawing import CONSTANT, INNER, LEAF, Card, Drawing, Edge, Frame, literal
from .mathematics import Text, bold, plain
from .render import Graph

#: Identical steps of a program of more steps are drawn once, and steps instead of values where there are more of those.
MOST_STEPS, MOST_VALUES = 24, 300
#: Kernels in the legend.
MOST_COLORS = 20
_COLORS = (
    "#fde3c8", "#d9ead3", "#ead9f0", "#fff2b3", "#cdeae6", "#f8d7da", "#dfe3ee", "#e9e0cf", "#e3f4c4", "#f5d5ea",
)  # fmt: skip
_CALLED = "#f4a6a0"


def program_graph(compiled: Compiled[..., Any], recording: int, rankdir: str) -> Graph:
    """Draw a recording; see `Compiled.graph`."""
    drawing = Drawing(rankdir)
    explanation = explained(compiled)
    count = len(explanation.recordings)
    if not -count <= recording < count:
        raise IndexError(f"{explanation.function} has {count} recordings; there is no recording {recording}")
    _Picture(drawing, recorded(compiled)[recording].program, explanation.recordings[recording]).draw()
    return Graph(drawing)


class _Picture:
    """The drawing of one program. Values that identical steps compute have one name in it."""

    def __init__(self, drawing: Drawing, program: Program, info: RecordingInfo) -> None:
        self._drawing, self._program, self._steps = drawing, program, info.steps
        self._operations = Operations(program)
        same = info.groups if len(info.steps) > MOST_STEPS else [(step,) for step in info.steps]
        self._groups = {group[0].number: group for group in same}
        self._first = {step.number: group[0].number for group in same for step in group}
        self._by_step = sum(len(self._nodes(k)) for k in self._groups) > MOST_VALUES
        self._names: dict[Node, str] = {}
        for k in self._first:
            for index, node in enumerate(self._nodes(k)):
                self._names[node] = f"s{self._first[k]}" + ("" if self._by_step else f".{index}")
        kinds = dict.fromkeys(group[0].label for group in same)
        self._colors = {label: _COLORS[k % len(_COLORS)] for k, label in enumerate(kinds)}

    def _nodes(self, k: int) -> Sequence[Node]:
        """The nodes that step k computes; as many, in the same order, for all steps that are identical."""
        what = self._program.steps[k].what
        return what.nodes if isinstance(what, Region) else [what]

    def _color(self, step: StepInfo) -> str:
        return _CALLED if step.kernel is None else self._colors[step.label]

    def draw(self) -> None:
        """Draw everything."""
        cards, frames = self._drawing.cards, self._drawing.frames
        for k, group in self._groups.items():
            if self._by_step:
                cards[f"s{k}"] = self._step_card(group)
                continue
            frames[f"s{k}"] = Frame(plain(_title(group[0], len(group))))
            for node in self._nodes(k):
                if node.kind == TABLE:
                    cards[self._names[node]] = self._step_card(group, f"s{k}")
                else:
                    cards[self._names[node]] = self._card(node, self._color(group[0]), f"s{k}")
        for (start, end, label), memory in self._edges().items():
            self._drawing.edges.append(Edge(start, end, plain(label) if label else None, thick=memory))
        cards["legend"] = self._legend()

    def _edges(self) -> dict[tuple[str, str, str], bool]:
        """Where values go: from which to which drawn value, moved how; and whether through memory."""
        edges: dict[tuple[str, str, str], bool] = {}
        positions = self._program.plan.positions
        for k, first in self._first.items():
            for node in self._nodes(k):
                for a in node.args:
                    label = self._operations(a).op if a.kind == MOVE else ""
                    for source in sources(a):
                        root = source.args[0] if source.kind == RESULT else source  # a table is one card
                        if positions.get(root) != k or not self._by_step:
                            edge = self._start(root, first), self._names[node], label
                            edges[edge] = positions.get(root, k) != k
        return edges

    def _start(self, root: Node, first: int) -> str:
        """The name of what an edge starts from; inputs and constants are drawn when they are first used."""
        name = self._names.setdefault(root, f"x{len(self._names)}")
        single = root.kind == CONST and root.size == 1
        if single:
            name = f"{name}.{first}"  # one for each step that reads it
        if root.kind in (INPUT, CONST) and name not in self._drawing.cards:
            color = LEAF if root.kind == INPUT else CONSTANT
            self._drawing.cards[name] = literal(root.data.item()) if single else self._card(root, color)
        return name

    def _card(self, node: Node, color: str, frame: str = "") -> Card:
        operation = self._operations(node)
        rows = [operation.name or operation.op]
        op = None if node.entry is None else node.entry.op
        if node.kind == REDUCE:
            rows.append(f"{node.data[0]} over axes {', '.join(map(str, node.data[1]))}")
        elif node.kind == MAP and (op is None or op.family != "pointwise"):
            rows.append(expr.label(node.data.body))
        rows += [x for x in (operation.where, _spec(node)) if x]
        return Card(_rows(rows), color, op.symbol if op is not None and node.kind == MAP else "", frame)

    def _step_card(self, group: Sequence[StepInfo], frame: str = "") -> Card:
        ops = Counter(o.op for o in group[0].operations)
        rows = [_title(group[0], len(group)), *(op + (f" ×{n}" if n > 1 else "") for op, n in ops.most_common(6))]
        return Card(_rows(rows), self._color(group[0]), frame=frame)

    def _legend(self) -> Card:
        """Colours and what they mean."""
        calls = Counter(step.label for step in self._steps)
        first = {step.label: step for step in reversed(self._steps)}
        rows = [(self._color(first[label]), _title(first[label], n)) for label, n in list(calls.items())[:MOST_COLORS]]
        if len(calls) > MOST_COLORS:
            rows.append((INNER, f"and {len(calls) - MOST_COLORS} more"))
        rows += [(LEAF, "input"), (CONSTANT, "constant"), (INNER, "bold: through memory")]
        return Card([plain(text) for _, text in rows], swatches=[color for color, _ in rows])


def _rows(texts: Sequence[str]) -> list[Text]:
    """A name in bold, and more about it."""
    return [bold(texts[0]), *map(plain, texts[1:])]


def _title(step: StepInfo, count: int) -> str:
    what = f"kernel {step.label}" if step.kernel is not None else f"{step.label}, called back in Python"
    return what + (f" ×{count:,}" if count > 1 else "")


def _spec(node: Node) -> str:
    return f"{node.dtype} {'×'.join(map(str, node.shape))}".rstrip()
