"""Looking at computations: graphs, lessons that step through a derivative, surfaces and training."""

from .activations import activations
from .descent import Path, descent_paths
from .graph import TapeGraph, graph
from .network import Network, network
from .render import Graph
from .steps import Lesson, State, Step, steps
from .surface import Direction, misfit_surface, pca_directions, random_directions
from .text import backward_text
from .training import GradientRecorder, gradient_magnitudes, loss_curves

__all__ = [
    "Direction", "GradientRecorder", "Graph", "Lesson", "Network", "Path", "State", "Step", "TapeGraph",
    "activations", "backward_text", "descent_paths", "gradient_magnitudes", "graph", "loss_curves", "misfit_surface",
    "network", "pca_directions", "random_directions", "steps",
]  # fmt: skip
