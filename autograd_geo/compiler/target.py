"""Where a recorded function runs: in the host's memory, or on the GPU if it reads anything there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..cuda.array import DeviceArray
from ..tape import Entry
from .call import write_call
from .graph import Graph
from .program import Program
from .trace import Tracer
from .writer import Outline

if TYPE_CHECKING:
    from ..cuda.compiled import DeviceRecording


def build(
    tracer: Tracer, outline: Outline, outputs: Sequence[Entry], updates: Sequence[tuple[int, Entry | None]] = ()
) -> tuple[Program | DeviceRecording, Callable[..., Any]]:
    """What computes `outputs`, of which `updates` are put back as `Program` says; and what runs it for the outline."""
    if any(type(e.value) is DeviceArray for e in tracer.inputs):
        from ..cuda.compiled import DeviceRecording
        from ..cuda.compiled import write_call as write

        recording = DeviceRecording(tracer, outputs)
        return recording, write(recording, outline, [k for k, _ in updates])
    program = Program(Graph(tracer), outputs, updates, [k for _, k in outline.reads])
    return program, write_call(program, outline)


__all__ = ["build"]
