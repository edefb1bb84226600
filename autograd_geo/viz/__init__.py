"""Looking at computations: graphs and texts."""

from .graph import TapeGraph, graph
from .render import Graph
from .text import backward_text

__all__ = ["Graph", "TapeGraph", "backward_text", "graph"]
