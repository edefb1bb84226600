"""Misfit surfaces: a loss over two parameters, or over two directions of all parameters, and descents on it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from .. import random
from ..device import put
from ..tape import no_grad
from ..tensor import Tensor
from .descent import Array, Loss, Path, leaves_of, number, unchanged

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..nn import Module

#: A surface that would take longer than this in Python, in seconds, is worth compiling.
WORTH_COMPILING = 3.0
_LEVELS = 24
_PATH_COLORS = ("#D55E00", "#000000", "#009E73", "#A4487F", "#7A5C00")


@dataclass(frozen=True, eq=False)
class Direction:
    """A straight line through parameter space: at coordinate c each leaf is its `centre` + (c - zero) * its `step`."""

    label: str
    leaves: tuple[Tensor, ...]
    steps: tuple[Array, ...]
    centre: tuple[Array, ...]
    zero: float = 0.0


Axis: TypeAlias = Direction | Tensor | str | tuple[Tensor | str, Any]
Span: TypeAlias = tuple[float, float]


# --- directions -----------------------------------------------------------------------------------------------


def random_directions(model: Module | Iterable[Tensor], seed: int = 0) -> tuple[Direction, Direction]:
    """Two random directions from the present parameters, each filter scaled to the norm of the parameters' own.

    A filter is a row of a weight, what one unit reads; leaves of one axis (biases) stay as they are, unless there are
    no others. H. Li et al., "Visualizing the loss landscape of neural nets", NeurIPS 2018, section 4. Raises
    ValueError where all these parameters are zero.
    """
    leaves = leaves_of(model)
    generator = random.Generator(seed)
    filters = any(p.ndim > 1 for p in leaves)
    centre = tuple(np.array(p.numpy()) for p in leaves)

    def draw(p: Tensor, at: Array) -> Array:
        if filters and p.ndim < 2:
            return np.zeros(p.shape)
        step: Array = generator.normal(p.shape)
        axes = tuple(range(1, p.ndim)) if p.ndim > 1 else None
        size, own = (np.sqrt(np.sum(v**2, axis=axes, keepdims=True)) for v in (step, at))
        scaled: Array = step * (own / size)
        return scaled

    made = [tuple(draw(p, at) for p, at in zip(leaves, centre, strict=True)) for _ in range(2)]
    if not any(np.any(s) for s in made[0]):
        raise ValueError("random_directions: all these parameters are zero, so there is no scale to go by")
    first, second = (Direction(f"random direction {k}", leaves, steps, centre) for k, steps in enumerate(made, 1))
    return first, second


def pca_directions(paths: Path | Sequence[Path]) -> tuple[Direction, Direction]:
    """The two directions in which the paths spread most, of unit length, through where the first path ends.

    The labels tell each one's share of the spread (Li et al., 2018, section 7). Raises ValueError for paths over
    different leaves, or for positions that lie on one line.
    """
    paths = [paths] if isinstance(paths, Path) else list(paths)
    leaves = paths[0].leaves
    if any(list(map(id, p.leaves)) != list(map(id, leaves)) for p in paths):
        raise ValueError("pca_directions: the paths must be over the same leaves in the same order")
    centre = tuple(np.array(p[-1]) for p in paths[0].positions)
    there = np.concatenate([_flat(p.positions, len(p.losses)) for p in paths]) - _flat([c[None] for c in centre], 1)
    _, sizes, rows = np.linalg.svd(there, full_matrices=False)
    if len(sizes) < 2 or sizes[1] <= 1e-12 * sizes[0]:
        raise ValueError("pca_directions: these positions lie on one line, which has one direction only")
    shares = sizes**2 / np.sum(sizes**2)
    first, second = (
        Direction(
            f"principal direction {k + 1} ({shares[k]:.1%} of the spread)", leaves, _like(rows[k], leaves), centre
        )
        for k in range(2)
    )
    return first, second


def _flat(arrays: Sequence[Array], rows: int) -> Array:
    return np.concatenate([np.reshape(a, (rows, -1)) for a in arrays], axis=1)


def _like(row: Array, leaves: Sequence[Tensor]) -> tuple[Array, ...]:
    """One long vector cut into the shapes of the leaves."""
    ends = np.cumsum([p.size for p in leaves])
    return tuple(part.reshape(p.shape) for part, p in zip(np.split(row, ends[:-1]), leaves, strict=True))


def _direction(axis: Axis, model: Module | None) -> Direction:
    """An axis as the user gave it: a direction, a leaf of one element, or (leaf, index); leaves also by name."""
    if isinstance(axis, Direction):
        return axis
    leaf, index = axis if isinstance(axis, tuple) and len(axis) == 2 else (axis, ())
    name = leaf if isinstance(leaf, str) else ""
    if isinstance(leaf, str):
        known = {} if model is None else dict(model.named_parameters())
        if leaf not in known:
            hint = f"there are {', '.join(known)}" if known else "pass the network as model="
            raise ValueError(f"misfit_surface: no parameter is called {leaf!r}; {hint}")
        leaf = known[leaf]
    if not isinstance(leaf, Tensor) or not leaf.is_leaf:
        raise TypeError(f"misfit_surface: an axis is a leaf, a name, (either, index) or a Direction, not {axis!r:.80}")
    name = name or leaf.name or "parameter"
    index = (index,) if isinstance(index, int | np.integer) else tuple(index)
    step = np.zeros(leaf.shape)
    if len(index) != leaf.ndim and leaf.size != 1:
        raise ValueError(f"misfit_surface: {name!r} has shape {leaf.shape}; say which element, as in ({name!r}, index)")
    step[index] = 1.0
    at = np.array(leaf.numpy())
    label = name.replace("$", r"\$") + (f"[{', '.join(map(str, index))}]" if index else "")
    return Direction(label, (leaf,), (step,), (at,), float(at[index].item()))


# --- the plane of two directions ------------------------------------------------------------------------------


@dataclass(eq=False)
class _Plane:
    """The leaves that two directions move, and where they are in the plane."""

    axes: tuple[Direction, Direction]

    def __post_init__(self) -> None:
        self.centre: dict[Tensor, Array] = {}
        for d in self.axes:
            for p, at in zip(d.leaves, d.centre, strict=True):
                if p in self.centre and not np.array_equal(self.centre[p], at, equal_nan=True):
                    raise ValueError("misfit_surface: the two directions start from different parameters")
                self.centre[p] = at
        self.steps = [dict(zip(d.leaves, d.steps, strict=True)) for d in self.axes]
        columns = [self._vector({p: s.get(p, np.zeros(p.shape)) for p in self.centre}) for s in self.steps]
        self._basis = np.stack(columns, axis=1)
        if np.linalg.matrix_rank(self._basis) < 2:
            a, b = (d.label for d in self.axes)
            raise ValueError(f"misfit_surface: {a} and {b} are the same direction, or one of them is zero")

    def _vector(self, arrays: dict[Tensor, Array]) -> Array:
        return np.concatenate([np.ravel(arrays[p]) for p in self.centre])

    def move(self, a: float, b: float) -> None:
        """Put the leaves at these coordinates."""
        for p, at in self.centre.items():
            value = at.astype(float)
            for c, d, steps in zip((a, b), self.axes, self.steps, strict=True):
                if p in steps:
                    value = value + (c - d.zero) * steps[p]
            p.hold(put(np.asarray(value, p.dtype), p.device))

    def project(self, path: Path) -> Array:
        """Coordinates (steps + 1, 2) of the points of the plane that are nearest to a path's."""
        return self._inside(path) + [d.zero for d in self.axes]

    def leaves_it(self, path: Path) -> bool:
        """Whether a path is off the plane: other elements of these leaves, or other leaves, move too."""
        off = self._away(path) - self._inside(path) @ self._basis.T
        others = [v - v[0] for p, v in zip(path.leaves, path.positions, strict=True) if p not in self.centre]
        size = max(np.max(np.abs(v), initial=1.0) for v in path.positions)
        return any(np.max(np.abs(v), initial=0.0) > 1e-6 * size for v in (off, *others))

    def _away(self, path: Path) -> Array:
        """How far the leaves of the plane are from its centre along a path, (steps + 1, elements)."""
        known = dict(zip(path.leaves, path.positions, strict=True))
        if not known.keys() & self.centre.keys():
            raise ValueError(f"misfit_surface: the path of {path.name} moves none of the parameters of this surface")
        count = len(path.losses)
        return _flat(
            [known[p] - at if p in known else np.zeros((count, *p.shape)) for p, at in self.centre.items()], count
        )

    def _inside(self, path: Path) -> Array:
        """The coordinates of a path, from the centre."""
        found: Array = np.linalg.lstsq(self._basis, self._away(path).T, rcond=None)[0].T
        return found


def _evaluate(loss: Loss, plane: _Plane, a: Array, b: Array, compile: bool | None) -> Array:
    """The loss at every pair of coordinates, shape (len(b), len(a))."""
    found = np.empty((len(b), len(a)))
    with unchanged(list(plane.centre)), no_grad(), np.errstate(all="ignore"):
        run = _compiled(loss) if compile else loss
        for n, (i, j) in enumerate(np.ndindex(found.shape)):
            plane.move(float(a[j]), float(b[i]))
            start = time.perf_counter()
            found[i, j] = number(run())
            took = (time.perf_counter() - start) * found.size
            if n == 1 and compile is None and took > WORTH_COMPILING:  # not the first, which may load things
                run = _compiled(loss)
    return found


def _compiled(loss: Loss) -> Loss:
    """The loss, compiled if it can be."""
    from ..compiler import compile
    from ..compiler.errors import CompileError

    fast = compile(loss)
    try:
        fast()
    except CompileError:
        return loss
    return fast


# --- the figure -----------------------------------------------------------------------------------------------


def misfit_surface(
    loss: Loss, a: Axis, b: Axis, *, model: Module | None = None, paths: Path | Sequence[Path] = (),
    spans: tuple[Span | None, Span | None] = (None, None), points: int = 61, log: bool | None = None,
    title: str = "", quantity: str = "loss", compile: bool | None = None,
) -> Figure:  # fmt: skip
    """Contours of a loss over two parameters or directions, with paths of optimisers on it; a Matplotlib figure.

        ag.viz.misfit_surface(lambda: (1 - x)**2 + 100*(y - x**2)**2, x, y, paths=paths)

    Args:
        loss: a function without arguments that computes one number from the present values of the parameters.
        a, b: each a leaf of one number, a pair (leaf, index) for an element, the same with the parameter's name in
            `model`, or a Direction from `random_directions` or `pca_directions`.
        paths: from `descent_paths`. Where they move other parameters too, their nearest points in the plane are
            drawn, and the figure says so.
        spans: (low, high) of either coordinate; by default the frame holds what the paths do while their loss is no
            worse than at the start, or 1 to both sides of the present values.
        points: evaluations along either axis.
        log: colours by the logarithm of the loss; by default where it spans two decades or more.
        quantity: what the loss is, with its unit.
        compile: compile the loss; by default where the evaluations would take more than three seconds.

    Every parameter is as it was afterwards. Raises ValueError for an unknown name, an index that is missing or
    directions that are the same, TypeError for a loss that is not one number.
    """
    if points < 2:
        raise ValueError(f"misfit_surface: {points} points along an axis make no surface; give two or more")
    paths = [paths] if isinstance(paths, Path) else list(paths)
    plane = _Plane((_direction(a, model), _direction(b, model)))
    ways = [plane.project(p) for p in paths]
    losses = [p.losses for p in paths]
    x, y = (np.linspace(*_span(spans[k], plane.axes[k], [w[:, k] for w in ways], losses), points) for k in (0, 1))
    values = _evaluate(loss, plane, x, y, compile)
    if not np.isfinite(values).any():
        raise ValueError("misfit_surface: the loss is not finite anywhere in the frame; give other spans")
    return _draw(plane, x, y, values, paths, ways, log, title, quantity)


def _span(given: Span | None, axis: Direction, ways: Sequence[Array], losses: Sequence[Array]) -> Span:
    """What a coordinate covers: as given, or what the paths do while they are no worse off than where they started."""
    if given is not None:
        low, high = given
        if not (np.isfinite(given).all() and low < high):
            raise ValueError(f"misfit_surface: a span is (low, high) with low < high, not {given}")
        return given
    places = [axis.zero]
    for way, along in zip(ways, losses, strict=True):
        places += way[along <= along[0]].tolist()
    low, high = min(places), max(places)
    if not ways or high == low:
        return axis.zero - 1.0, axis.zero + 1.0
    margin = 0.18 * (high - low)
    return low - margin, high + margin


def _draw(
    plane: _Plane, x: Array, y: Array, values: Array, paths: Sequence[Path], ways: Sequence[Array], log: bool | None,
    title: str, quantity: str,
) -> Figure:  # fmt: skip
    from .figure import figure

    drawn, (ax,) = figure(size=(7.0, 5.4))
    ax.grid(False)
    shown = np.ma.masked_invalid(values)
    _fill(drawn, ax, x, y, shown, log, quantity)
    _add_paths(ax, paths, ways)
    if not paths:
        at = [d.zero for d in plane.axes]
        ax.plot(*at, "+", color="black", markersize=11, markeredgewidth=2, label="present values")
    ax.set(
        xlabel=plane.axes[0].label, ylabel=plane.axes[1].label, xlim=(x[0], x[-1]), ylim=(y[0], y[-1]),
        title=title or f"{quantity[:1].upper()}{quantity[1:]} surface",
    )  # fmt: skip
    notes = ["paths are projected: other parameters move too"] if any(map(plane.leaves_it, paths)) else []
    notes += ["hatched: not a finite number"] if np.ma.is_masked(shown) else []
    ax.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2, fontsize="small", frameon=False,
        title="; ".join(notes) or None, title_fontsize="small",
    )  # fmt: skip
    return drawn


def _fill(drawn: Any, ax: Any, x: Array, y: Array, shown: Any, log: bool | None, quantity: str) -> None:
    """The contours and their scale."""
    from matplotlib import colormaps
    from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize
    from matplotlib.ticker import LogFormatterSciNotation, MaxNLocator

    low, high = float(shown.min()), float(shown.max())
    if log is None:
        log = low > 0 and high > 100 * low
    if log and low <= 0:
        raise ValueError(f"misfit_surface: a logarithm needs a positive loss, here it is {low:.3g} at its lowest")
    if high <= low:
        low, high, log = low - 0.5, high + 0.5, False
    if log:
        low = max(low, float(np.quantile(shown.compressed(), 0.01)))  # one point at a minimum must not rule the scale
        shown = np.ma.clip(shown, low, high)
        levels: Any = np.geomspace(low, high * (1 + 1e-9), _LEVELS)
    else:
        levels = MaxNLocator(_LEVELS).tick_values(low, high)
    ends = levels[0], levels[-1]
    norm = LogNorm(*ends) if log else Normalize(*ends)
    pale = LinearSegmentedColormap.from_list("basin", colormaps["Blues_r"](np.linspace(0.35, 1.0, 64)))
    ax.patch.set(hatch="///", edgecolor="0.7", facecolor="white")
    filled = ax.contourf(x, y, shown, levels, cmap=pale, norm=norm)
    ax.contour(x, y, shown, levels, colors="#31587d", linewidths=0.5, alpha=0.55, norm=norm)
    scale = drawn.colorbar(filled, ax=ax, label=quantity, ticks=None if log else MaxNLocator(7))
    if log:
        scale.ax.set_yscale("log")
        scale.ax.yaxis.set_major_formatter(LogFormatterSciNotation())


def _add_paths(ax: Any, paths: Sequence[Path], ways: Sequence[Array]) -> None:
    """Each path with its own colour and marker, so that print without colour tells them apart, and a large end."""
    for path, way, color, mark in zip(paths, ways, cycle(_PATH_COLORS), cycle("osD^vPX"), strict=False):
        ended = "" if np.isfinite(path.losses[-1]) else ", then not finite"
        reached = path.losses[np.isfinite(path.losses)][-1:]
        count = len(path.losses) - 1
        label = f"{path.name}: {count} step{'s' * (count != 1)}" + "".join(f", to {r:.3g}" for r in reached) + ended
        ax.plot(*way.T, color="white", linewidth=3.2, alpha=0.8, zorder=3)
        style = {"color": color, "marker": mark, "markeredgecolor": "white", "markeredgewidth": 0.6}
        every = max(1, len(way) // 12)
        ax.plot(*way.T, linewidth=1.6, markersize=5.5, markevery=every, label=label, zorder=4, **style)
        ax.plot(*way[-1], markersize=10, zorder=6, **style)
    for way in ways[:1]:
        ax.plot(*way[0], "*", color="black", markersize=13, markeredgecolor="white", zorder=7, label="start")


__all__ = ["Direction", "misfit_surface", "pca_directions", "random_directions"]
