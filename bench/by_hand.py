"""The work of `compiled` as one would write it by hand, gradients included, for Numba: the limit to measure against."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import int64, njit, prange, types
from numba.extending import intrinsic

fast = njit(fastmath={"contract", "nsz", "nnan", "ninf"}, error_model="numpy")
fast_on_all_cores = njit(fastmath={"contract", "nsz", "nnan", "ninf"}, error_model="numpy", parallel=True)


@fast
def expression(x: float, y: float, z: float) -> Any:
    """((x + y) * z)**2."""
    s = x + y
    f = s * z
    g = 2 * f
    return f * f, (g * z, g * z, g * s)


# --- a small network ------------------------------------------------------------------------------------------


@fast
def lecture_step(p: Any, m: Any, v: Any, t: float, x: Any, y: Any) -> float:
    """An Adam step of a 1-3-1 ReLU network. `p` are the weights and biases of its layers, one after the other."""
    g, loss, batch = np.zeros(10), 0.0, len(x)
    for b in range(batch):
        out = p[9]
        for k in range(3):
            out += max(x[b, 0] * p[k] + p[3 + k], 0.0) * p[6 + k]
        apart = out - y[b, 0]
        loss += apart * apart / batch
        slope = 2 * apart / batch
        g[9] += slope
        for k in range(3):
            z = x[b, 0] * p[k] + p[3 + k]
            if z > 0:
                g[6 + k] += slope * z
                g[k] += slope * p[6 + k] * x[b, 0]
                g[3 + k] += slope * p[6 + k]
    first, second = 1 - 0.9**t, 1 - 0.999**t
    for k in range(10):
        m[k] = 0.9 * m[k] + 0.1 * g[k]
        v[k] = 0.999 * v[k] + 0.001 * g[k] * g[k]
        p[k] -= 0.01 * (m[k] / first) / (math.sqrt(v[k] / second) + 1e-8)
    return loss


@fast
def lecture_epoch(p: Any, m: Any, v: Any, t: int, x: Any, y: Any, order: Any, size: int) -> float:
    """Steps over batches of `size` rows, in this order, after `t` steps before; the sum of their losses."""
    total, rows, targets = 0.0, np.empty((size, 1)), np.empty((size, 1))
    for batch in range(len(order) // size):
        for k in range(size):
            rows[k, 0], targets[k, 0] = x[order[batch * size + k], 0], y[order[batch * size + k], 0]
        total += lecture_step(p, m, v, float(t + batch + 1), rows, targets)
    return total


# --- element by element ---------------------------------------------------------------------------------------


@intrinsic
def _from_bits(_context: Any, _bits: Any) -> Any:
    """The float64 of these bits."""
    return types.float64(int64), lambda _, builder, __, args: builder.bitcast(args[0], ir.DoubleType())


_TAYLOR = tuple(1 / math.factorial(k) for k in range(13, -1, -1))


@njit(inline="always")
def _tanh(x: float) -> float:
    """In arithmetic that vectorises; math.tanh does not."""
    a = max(-2 * abs(x), -708.0)
    k = np.floor(a * 1.4426950408889634 + 0.5)
    r = a - k * 6.93147180369123816490e-01 - k * 1.90821492927058770002e-10
    c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11, c12, c13 = _TAYLOR
    p = (((((((c0 * r + c1) * r + c2) * r + c3) * r + c4) * r + c5) * r + c6) * r + c7) * r
    p = ((((((p + c8) * r + c9) * r + c10) * r + c11) * r + c12) * r + c13) * _from_bits((np.int64(k) + 1023) << 52)
    return math.copysign((1 - p) / (1 + p), x)


@njit(fastmath=True, error_model="numpy", parallel=True)  # fastmath: the sum is taken in any order
def tanh_sum(x: Any, y: Any) -> Any:
    """The sum of tanh(x + 4y)**2 + x."""
    gx, gy, total = np.empty_like(x), np.empty_like(x), 0.0
    for i in prange(len(x)):
        t = _tanh(x[i] + 4 * y[i])
        total += t * t + x[i]
        slope = 2 * t * (1 - t * t)
        gx[i], gy[i] = slope + 1, 4 * slope
    return total, (gx, gy)


# --- waves ----------------------------------------------------------------------------------------------------
# Rows and planes have a rim that repeats the opposite side. The adjoint of the second-order scheme is the scheme
# itself, backward in time, with c inside the Laplacian.


@fast
def line_wave(c: Any, wavelet: Any, source: int, receiver: int, u: Any, g: Any) -> Any:
    """The wave along a line; `u` (steps + 2, points + 2) and `g` (3, points + 2) are memory to work in."""
    n, steps = len(c), len(wavelet)
    loss, slope = 0.0, np.zeros(n)
    u[:2] = 0.0
    g[:] = 0.0
    for t in range(steps):
        before, now, new = u[t], u[t + 1], u[t + 2]
        for i in range(1, n + 1):
            new[i] = 2 * now[i] - before[i] + c[i - 1] * (now[i - 1] - 2 * now[i] + now[i + 1])
        new[source + 1] += wavelet[t]
        new[0], new[n + 1] = new[n], new[1]
        loss += new[receiver + 1] ** 2
    later, new, flow = g[0], g[1], g[2]
    for t in range(steps - 1, -1, -1):
        now = u[t + 1]
        new[receiver + 1] += 2 * u[t + 2, receiver + 1]
        for i in range(1, n + 1):
            slope[i - 1] += new[i] * (now[i - 1] - 2 * now[i] + now[i + 1])
            flow[i] = c[i - 1] * new[i]
        flow[0], flow[n + 1] = flow[n], flow[1]
        for i in range(1, n + 1):
            later[i] = 2 * new[i] - later[i] + (flow[i - 1] - 2 * flow[i] + flow[i + 1])
        later, new = new, later
    return loss, (slope,)


@njit(inline="always")
def _laplacian(u: Any, i: int, j: int) -> float:
    return u[i - 1, j] + u[i + 1, j] + u[i, j - 1] + u[i, j + 1] - 4 * u[i, j]


@fast
def _close(u: Any) -> None:
    """Fill the rim."""
    u[0], u[-1] = u[-2], u[1]
    u[:, 0], u[:, -1] = u[:, -2], u[:, 1]


@fast_on_all_cores
def _forward(before: Any, now: Any, c: Any, new: Any) -> None:
    for i in prange(1, len(now) - 1):
        for j in range(1, now.shape[1] - 1):
            new[i, j] = 2 * now[i, j] - before[i, j] + c[i - 1, j - 1] * _laplacian(now, i, j)


@fast_on_all_cores
def _into_flow(now: Any, new: Any, c: Any, slope: Any, flow: Any) -> None:
    for i in prange(1, len(now) - 1):
        for j in range(1, now.shape[1] - 1):
            slope[i - 1, j - 1] += new[i, j] * _laplacian(now, i, j)
            flow[i, j] = c[i - 1, j - 1] * new[i, j]


@fast_on_all_cores
def _backward(flow: Any, new: Any, later: Any) -> None:
    for i in prange(1, len(new) - 1):
        for j in range(1, new.shape[1] - 1):
            later[i, j] = 2 * new[i, j] - later[i, j] + _laplacian(flow, i, j)


@fast
def plane_wave(v: Any, wavelet: Any, source: Any, receivers: int, u: Any, g: Any) -> Any:
    """The wave in a plane; `u` (steps + 2, rows + 2, columns + 2) and `g` (3, ...) are memory to work in."""
    c, steps = v * v, len(wavelet)
    loss, slope = 0.0, np.zeros(v.shape)
    u[:2] = 0.0
    g[:] = 0.0
    for t in range(steps):
        _forward(u[t], u[t + 1], c, u[t + 2])
        u[t + 2, source[0] + 1, source[1] + 1] += wavelet[t]
        _close(u[t + 2])
        loss += (u[t + 2, receivers + 1, 1:-1] ** 2).sum()
    later, new, flow = g[0], g[1], g[2]
    for t in range(steps - 1, -1, -1):
        new[receivers + 1, 1:-1] += 2 * u[t + 2, receivers + 1, 1:-1]
        _into_flow(u[t + 1], new, c, slope, flow)
        _close(flow)
        _backward(flow, new, later)
        later, new = new, later
    return loss, (2 * v * slope,)


# --- a tape ---------------------------------------------------------------------------------------------------


@fast
def scalar_tape(p: float, kinds: Any, numbers: Any, values: Any) -> Any:
    """A chain of ops as `compiled.scalar_tape` has it; `values` is memory for one more number than there are ops."""
    n, slope, g = len(kinds), 0.0, 1.0
    values[0] = p
    for k in range(n):
        x = values[k]
        if kinds[k] == 0:
            x = math.sin(x)
        elif kinds[k] == 1:
            x = math.cos(x)
        elif kinds[k] == 2:
            x = math.tanh(x)
        elif kinds[k] == 3:
            x = x * numbers[k]
        elif kinds[k] == 4:
            x = x + numbers[k]
        else:
            x = x * p
        values[k + 1] = x
    for k in range(n - 1, -1, -1):
        x = values[k]
        if kinds[k] == 0:
            g *= math.cos(x)
        elif kinds[k] == 1:
            g *= -math.sin(x)
        elif kinds[k] == 2:
            g *= 1 - values[k + 1] ** 2
        elif kinds[k] == 3:
            g *= numbers[k]
        elif kinds[k] == 5:
            slope += g * x
            g *= p
    return values[n], (slope + g,)
