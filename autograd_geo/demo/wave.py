"""Velocity from a seismogram: an acoustic wave along a line, written as a loop over time, and its exact gradient."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import optim
from ..compiler import compile
from ..op import functions
from ..tape import no_grad
from ..tensor import Parameter, Tensor, tensor

Array = NDArray[np.float64]

POINTS, SPACING = 200, 10.0  # of the line, in m
STEPS, INTERVAL = 600, 2e-3  # of time, in s
SOURCE = 20
RECEIVERS = np.arange(30, 190, 10)
FREQUENCY = 6.0  # of the source's peak, in Hz
BACKGROUND, LENS = 2000.0, 2300.0  # velocities in m/s, the second between points 70 and 110


def ricker(frequency: float, times: NDArray[Any]) -> Array:
    """Ricker's wavelet, the second derivative of a Gaussian, with its peak one period after the start.

    N. Ricker, "The form and laws of propagation of seismic wavelets", Geophysics 18 (1953) 10-40.
    """
    a = (np.pi * frequency * (times - 1 / frequency)) ** 2
    wavelet: Array = (1 - 2 * a) * np.exp(-a)
    return wavelet


def seismogram(velocity: Tensor) -> Tensor:
    """Pressure at the receivers, (STEPS, receivers), for a velocity in m/s at each point, (POINTS,).

    Second-order finite differences in space and time; the ends of the line are held fixed.
    """
    courant = (velocity[1:-1] * (INTERVAL / SPACING)) ** 2
    before, now = tensor(np.zeros(POINTS)), tensor(np.zeros(POINTS))
    traces = []
    for push in ricker(FREQUENCY, np.arange(STEPS) * INTERVAL).tolist():
        new = tensor(np.zeros(POINTS))
        new[1:-1] = 2 * now[1:-1] - before[1:-1] + courant * (now[2:] - 2 * now[1:-1] + now[:-2])
        new[SOURCE] += push
        before, now = now, new
        traces.append(now[RECEIVERS])
    return functions["stack"](traces)


@dataclass
class Inversion:
    """What was found: velocities (POINTS,) in m/s, the misfit after each step, and seconds per step both ways."""

    true: Array
    found: Array
    misfits: list[float]
    eager: float
    compiled: float
    first: float  # the first compiled step, which records and compiles

    @property
    def error(self) -> float:
        """Root mean square of the velocity error between source and last receiver, in m/s."""
        between = slice(SOURCE, RECEIVERS[-1])
        return float(np.sqrt(np.mean((self.found - self.true)[between] ** 2)))


def invert(steps: int = 300) -> Inversion:
    """Find the velocity that explains a seismogram, from a constant, by Adam on the exact gradient."""
    true = np.full(POINTS, BACKGROUND)
    true[70:110] = LENS
    with no_grad():
        observed = seismogram(tensor(true))
    velocity = Parameter(np.full(POINTS, BACKGROUND))
    optimizer = optim.Adam([velocity], lr=20.0)

    def step() -> Tensor:
        optimizer.zero_grad()
        misfit = ((seismogram(velocity) - observed) ** 2).sum()
        misfit.backward()
        optimizer.step()
        return misfit.detach()

    fast = compile(step)
    misfits, seconds = [], []
    for k in range(steps):
        start = time.perf_counter()
        misfits.append((step if k < 2 else fast)().item())  # two steps in Python, to compare
        seconds.append(time.perf_counter() - start)
    return Inversion(true, velocity.numpy(), misfits, min(seconds[:2]), float(np.median(seconds[3:])), seconds[2])


def inversion_text(i: Inversion) -> str:
    """What was found, and what compiling the step did for it."""
    start = float(np.sqrt(np.mean((i.true - BACKGROUND)[SOURCE : RECEIVERS[-1]] ** 2)))
    return (
        f"{STEPS} time steps on {POINTS} points, as a Python loop, and the gradient with respect to the velocities:\n"
        f"  {i.eager * 1e3:.1f} ms in Python, {i.compiled * 1e3:.2f} ms compiled, {i.eager / i.compiled:.0f} times "
        f"faster (the first call, which compiles: {i.first:.1f} s)\n"
        f"{len(i.misfits)} steps of Adam take the misfit from {i.misfits[0]:.3g} to {i.misfits[-1]:.3g}; the velocity "
        f"is off by {i.error:.0f} m/s (root mean square), {start:.0f} at first"
    )


__all__ = ["Inversion", "inversion_text", "invert", "ricker", "seismogram"]
