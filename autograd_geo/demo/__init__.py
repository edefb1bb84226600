"""The project's main job, end to end: derivatives by hand, a worked network, porosity from impedance, a report."""

from .main import run

__all__ = ["run"]
