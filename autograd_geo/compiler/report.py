"""An explanation as text and as HTML: the same few tables in both, one screen for each recording."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .explain import Boundary, Explanation, KernelInfo, RecordingInfo, StepInfo

#: Rows of a table; lines below a row, and recordings with tables; columns of text. What is more is counted only.
_ROWS, _LINES, _WIDTH = 8, 4, 118
#: Operands that are named above a kernel.
_OPERANDS = 100


#: What steps do that are no loops, where the source of their kernel does not say it.
_NOTES = {"product": ["matrix product by BLAS"], "table": ["a table of so many instructions on single numbers"]}


@dataclass(slots=True)
class Table:
    """A title, notes below it, and rows of cells, each row with lines below it."""

    title: str
    notes: list[str] = field(default_factory=list)
    heads: Sequence[str] = ()
    rows: list[tuple[Sequence[str], Sequence[str]]] = field(default_factory=list)
    rest: str = ""
    text: bool = False  # the last column is text


def as_text(explanation: Explanation) -> str:
    """All tables as plain text."""
    return "\n".join(line for table in _tables(explanation) for line in _text(table))


def as_html(explanation: Explanation) -> str:
    """All tables as an HTML fragment."""
    return "".join(map(_html, _tables(explanation)))


def kernel_text(kernel: KernelInfo, steps: Sequence[StepInfo]) -> str:
    """A kernel's source, below comments: how often it is called, with which operands, for which lines."""
    head = [f"kernel {kernel.number}, called {_times(len(steps))}; for the first time with these operands:"]
    head += [f"  p{k}, {x.access}: {x.value}, {x.dtype} {x.shape}" for k, x in enumerate(kernel.operands[:_OPERANDS])]
    if len(kernel.operands) > _OPERANDS:
        head.append(f"  and {len(kernel.operands) - _OPERANDS:,} more")
    head += ["it computes", *(f"  {line}" for line in _lines(steps))]
    code = kernel.source if kernel.source.startswith(("def ", "#")) else f"# {kernel.source}\n"
    return "".join(f"# {line}\n" for line in head) + code


# --- the tables ---------------------------------------------------------------------------------------------------


def _tables(explanation: Explanation) -> Iterator[Table]:
    yield Table(explanation.status)
    arguments = Counter(r.arguments for r in explanation.recordings)
    for number, recording in enumerate(explanation.recordings):
        yield _heading(number, recording, len(explanation.recordings), arguments[recording.arguments] > 1)
        if number < len(explanation.recordings) - _LINES:
            continue
        if recording.called_back:
            yield _called_back(recording)
        yield from (t for t in (_kernels(recording), _boundaries(recording)) if t.rows)


def _heading(number: int, recording: RecordingInfo, of: int, shared: bool) -> Table:
    called = len(recording.called_back)
    kernels = {step.kernel.number: step.kernel for step in recording.steps if step.kernel}
    text = f"{len(recording.steps) - called:,} calls of {len(kernels)} kernels"
    text += f", {called:,} of ops in Python" if called else ""
    text += f"; {_seconds(recording.seconds)} for all in order" if recording.seconds is not None else ""
    text += f"; {_size(recording.arena_bytes)} of memory between steps"
    text += f", {_size(recording.copied_bytes)} copied into place at the end" if recording.copied_bytes else ""
    text += f"; {_seconds(sum(k.seconds for k in kernels.values()))} to compile or load the kernels"
    notes = [text, *(f"holds while {condition}" for condition in recording.holds[:_LINES])]
    if len(recording.holds) > _LINES:
        notes.append(f"and while {len(recording.holds) - _LINES} other values that Python reads come out the same")
    if shared and not recording.holds:
        notes.append("the same arguments were recorded again: something else that the function uses had changed")
    return Table((f"recording {number}, for " if of > 1 else "for ") + recording.arguments, notes)


def _called_back(recording: RecordingInfo) -> Table:
    table = Table("called back in Python", heads=("op", "calls", "each", "share"))
    total = _total(recording)
    for steps in recording.groups:
        if steps[0].kernel is None:
            cells = (steps[0].label, f"{len(steps):,}", *_costs(steps, total))
            table.rows.append((cells, [*_lines(steps), steps[0].called_back]))
    return table


def _kernels(recording: RecordingInfo) -> Table:
    table = Table("kernels", heads=("kernel", "calls", "shape", "each", "share", "read", "written", "GB/s", "compiled"))
    total = _total(recording)
    groups = [(steps[0].kernel, steps) for steps in recording.groups if steps[0].kernel is not None]
    groups.sort(key=lambda group: -sum(step.seconds or 0 for step in group[1]))
    for kernel, steps in groups[:_ROWS]:
        first = steps[0]
        rates = [step.bandwidth for step in steps if step.bandwidth is not None]
        cells = (
            first.label, f"{len(steps):,}", "×".join(map(str, first.shape)) or "1", *_costs(steps, total),
            _size(sum(step.read for step in steps) / len(steps)),
            _size(sum(step.written for step in steps) / len(steps)),
            f"{sum(rates) / len(rates) / 1e9:.3g}" if rates else "", _seconds(kernel.seconds),
        )  # fmt: skip
        table.rows.append((cells, _NOTES.get(first.kind, []) + _lines(steps)))
    if len(groups) > _ROWS:
        rest = [step for _, steps in groups[_ROWS:] for step in steps]
        table.rest = f"and {len(groups) - _ROWS} more, {_share(rest, total) or 'not measured'}"
    return table


def _boundaries(recording: RecordingInfo) -> Table:
    found: dict[tuple[str, str, str], list[Boundary]] = {}
    for b in recording.boundaries:
        reader = "result" if b.reader is None else recording.steps[b.reader].label
        found.setdefault((recording.steps[b.step].label, reader, b.reason.value), []).append(b)
    groups = sorted(found.items(), key=lambda item: -sum(b.bytes for b in item[1]))
    table = Table("through memory, and why", heads=("from", "to", "values", "bytes", "why"), text=True)
    for (source, reader, reason), group in groups[:_ROWS]:
        waits = f" ({group[0].waits_for})" if group[0].waits_for is not None else ""
        why = f"{group[0].value}{' ...' if len(group) > 1 else ''}: {reason}{waits}"
        table.rows.append(((source, reader, f"{len(group):,}", _size(sum(b.bytes for b in group)), why), ()))
    if len(groups) > _ROWS:
        rest = [b for _, group in groups[_ROWS:] for b in group]
        table.rest = f"and {len(rest):,} more values, {_size(sum(b.bytes for b in rest))}"
    return table


def _lines(steps: Sequence[StepInfo]) -> list[str]:
    """The user's lines that steps compute, each with the ops of one call on average."""
    found: dict[tuple[str, str], Counter[str]] = {}
    for step in steps:
        for o in step.operations:
            found.setdefault((o.where or "", o.code), Counter())[o.op] += 1
    lines = []
    for (where, code), ops in list(found.items())[:_LINES]:
        counts = {op: round(n / len(steps)) for op, n in ops.items()}
        names = ", ".join(op + (f" ×{n}" if n > 1 else "") for op, n in counts.items())
        lines.append(f"{where or 'somewhere'}  {names}" + (f"  |  {code}" if code else ""))
    return lines + ([f"and {len(found) - _LINES} more lines"] if len(found) > _LINES else [])


def _total(recording: RecordingInfo) -> float:
    return sum(step.seconds or 0.0 for step in recording.steps)


def _costs(steps: Sequence[StepInfo], total: float) -> tuple[str, str]:
    """Time of one call, and the share of all calls in the program's time."""
    if steps[0].seconds is None:
        return "", ""
    return _seconds(sum(step.seconds or 0.0 for step in steps) / len(steps)), _share(steps, total)


def _share(steps: Sequence[StepInfo], total: float) -> str:
    return f"{100 * sum(step.seconds or 0.0 for step in steps) / total:.0f} %" if total else ""


def _times(n: int) -> str:
    return "once" if n == 1 else f"{n:,} times"


def _seconds(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def _size(n: float) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n >= 10 * scale:
            return f"{n / scale:,.4g} {unit}"
    return f"{n:,.0f} B"


# --- how they look ------------------------------------------------------------------------------------------------


def _text(table: Table) -> Iterator[str]:
    yield table.title
    yield from (f"  {note}" for note in table.notes)
    columns = list(zip(table.heads, *(cells for cells, _ in table.rows), strict=True))
    widths = [max(map(len, column)) for column in columns]
    if table.text:
        widths[-1] = 0
    for cells, lines in [(table.heads, ()), *table.rows] if table.rows else []:
        yield _cut("  " + "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True)))
        yield from (_cut(f"      {line}") for line in lines)
    if table.rest:
        yield f"  {table.rest}"


def _cut(line: str) -> str:
    return line if len(line) <= _WIDTH else line[: _WIDTH - 3] + "..."


def _html(table: Table) -> str:
    text = (
        f"<p><b>{html.escape(table.title)}</b>" + "".join(f"<br>{html.escape(note)}" for note in table.notes) + "</p>"
    )
    if table.rows:
        text += "<table><tr>" + "".join(f"<th>{html.escape(head)}</th>" for head in table.heads) + "</tr>"
        for cells, lines in table.rows:
            text += "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"
            below = "<br>".join(map(html.escape, lines))
            text += f'<tr><td colspan="{len(cells)}" style="text-align: left">{below}</td></tr>'
        text += "</table>"
    return text + (f"<p>{html.escape(table.rest)}</p>" if table.rest else "")
