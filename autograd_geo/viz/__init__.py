"""Looking at computations: graphs, and lessons that step through a derivative."""

from .graph import Graph, graph
from .steps import Lesson, State, Step, steps
from .text import backward_text

__all__ = ["Graph", "Lesson", "State", "Step", "backward_text", "graph", "steps"]
