"""Looking at computations: graphs and texts."""

from .graph import Graph, graph
from .text import backward_text

__all__ = ["Graph", "backward_text", "graph"]
