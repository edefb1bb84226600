"""A synthetic reservoir and its wells: porosity, facies and acoustic impedance, from a seed.

Shallow, soft sand with light fluid among brine-filled shale. Its numbers resemble those of exploration data;
none of them is measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..random import Generator
from .table import Table

_MAPS, _WELLS = 2**62, 2**62 + 2**32  # first streams

_SAND_FRACTION = 0.6
_FACIES_RANGE, _POROSITY_RANGE, _NOISE_RANGE = 200.0, 100.0, 50.0  # m
_NOISE = 0.08  # standard deviation of ln(impedance): what porosity and facies do not explain
_POROSITY_LIMITS = 0.05, 0.30


class _Rock(NamedTuple):
    """What a facies is made of; at critical porosity its grains no longer touch and it is a suspension."""

    porosity: float  # mean
    spread: float  # standard deviation of porosity
    grain_density: float  # g/cm3
    grain_modulus: float  # P-wave modulus K + 4/3 G, GPa
    fluid_density: float  # g/cm3
    critical_porosity: float
    critical_modulus: float  # P-wave modulus of the rock at critical porosity, GPa


# Grains: clay and quartz of Mavko et al., appendix A; loose rock: 1.5 km/s in mud, 1.3 km/s in gassy sand.
_SHALE = _Rock(0.15, 0.02, 2.58, 30.0, 1.03, 0.60, 3.7)
_SAND = _Rock(0.22, 0.04, 2.65, 96.6, 0.60, 0.40, 3.1)


@dataclass(frozen=True, eq=False)
class Reservoir:
    """Maps of one reservoir, each (rows, cols); row 0 is the north, as in an image."""

    porosity: NDArray[np.float64]  #: fraction of the volume
    facies: NDArray[np.int64]  #: 0 shale, 1 sand
    impedance: NDArray[np.float64]  #: acoustic impedance, 1000 kg m-2 s-1 (= g/cm3 m/s)
    x: NDArray[np.float64]  #: easting of the cell centres, (cols,), m
    y: NDArray[np.float64]  #: northing of the cell centres, (rows,), m, decreasing
    cell: float  #: side of a cell, m


def synthetic_reservoir(shape: tuple[int, int] = (100, 100), seed: int = 73073, cell: float = 10.0) -> Reservoir:
    """A reservoir of `shape` cells of side `cell` in metres, reproducible from `seed`.

    Facies truncate a Gaussian random field; porosity varies about each facies' mean; impedance follows from
    both (see `_impedance`), times log-normal noise that is correlated over a few cells.
    Raises ValueError for an empty shape, a cell that is not positive, and a seed that `Generator` refuses.
    """
    rows, cols = shape
    if rows < 1 or cols < 1 or not 0 < cell < math.inf:
        raise ValueError(f"a reservoir needs at least one cell of positive size, not {shape} of {cell} m")
    generator = Generator(seed, _MAPS)
    body = _random_field(shape, _FACIES_RANGE / cell, 2.0, generator)
    sand = body > np.quantile(body, 1 - _SAND_FRACTION)
    deviation = _random_field(shape, _POROSITY_RANGE / cell, 1.0, generator)
    noise = _random_field(shape, _NOISE_RANGE / cell, 1.0, generator)
    porosity = np.where(sand, _SAND.porosity, _SHALE.porosity)
    porosity += np.where(sand, _SAND.spread, _SHALE.spread) * deviation
    porosity = porosity.clip(*_POROSITY_LIMITS)
    impedance = np.where(sand, _impedance(porosity, _SAND), _impedance(porosity, _SHALE))
    return Reservoir(
        porosity=porosity,
        facies=sand.astype(np.int64),
        impedance=impedance * np.exp(_NOISE * noise),
        x=np.arange(0.5, cols) * cell,
        y=np.arange(0.5, rows)[::-1] * cell,
        cell=cell,
    )


def sample_wells(reservoir: Reservoir, n: int = 480, seed: int = 73073) -> Table:
    """`n` wells with columns X, Y (m), Facies, Porosity and AI (units as in `Reservoir`).

    Each stands anywhere in a cell of its own and has that cell's values. Raises ValueError for more wells
    than cells, none at all, and a seed that `Generator` refuses.
    """
    cells = reservoir.porosity.size
    if not 1 <= n <= cells:
        raise ValueError(f"there is room for 1 to {cells} wells, one a cell, not for {n}")
    generator = Generator(seed, _WELLS)
    at = np.unravel_index(generator.permutation(cells)[:n], reservoir.porosity.shape)
    shift = generator.uniform((2, n), -reservoir.cell / 2, reservoir.cell / 2)
    columns = {
        "X": reservoir.x[at[1]] + shift[0],
        "Y": reservoir.y[at[0]] + shift[1],
        "Facies": reservoir.facies[at],
        "Porosity": reservoir.porosity[at],
        "AI": reservoir.impedance[at],
    }
    return Table(columns, f"{n} synthetic wells, seed {seed}")


def _random_field(shape: tuple[int, int], reach: float, power: float, generator: Generator) -> NDArray[np.float64]:
    """A Gaussian random field of `shape`, mean 0 and variance 1, correlated by exp(-3 (h / reach)^power).

    Distances h and `reach` are in cells; power 1 is the exponential model, 2 the Gaussian one. By FFT on a
    torus that is wider than the field by `reach`, so that opposite edges are not correlated (C. R. Dietrich
    and G. N. Newsam, SIAM J. Sci. Comput. 18 (1997) 1088-1107).
    """
    torus = [size + math.ceil(reach) for size in shape]
    offsets = [np.minimum(np.arange(size), size - np.arange(size)) for size in torus]
    distance = np.hypot(*np.meshgrid(*offsets, indexing="ij"))
    spectrum = np.fft.fft2(np.exp(-3 * (distance / reach) ** power)).real.clip(min=0)
    field = np.fft.ifft2(np.sqrt(spectrum) * np.fft.fft2(generator.normal(torus))).real
    return field[: shape[0], : shape[1]]


def _impedance(porosity: NDArray[np.float64], rock: _Rock) -> NDArray[np.float64]:
    """Acoustic impedance of a rock, 1000 kg m-2 s-1: the square root of density times P-wave modulus.

    The density is the mass balance of grains and fluid. The modulus is the modified lower bound for soft
    rock: the harmonic mean of grains and loose rock, weighted by porosity over critical porosity (A. Nur,
    G. Mavko, J. Dvorkin and D. Galmudi, The Leading Edge 17 (1998) 357-362; G. Mavko, T. Mukerji and
    J. Dvorkin, The Rock Physics Handbook, section 7.1).
    """
    density = (1 - porosity) * rock.grain_density + porosity * rock.fluid_density
    loose = porosity / rock.critical_porosity
    modulus = 1 / ((1 - loose) / rock.grain_modulus + loose / rock.critical_modulus)
    return 1000 * np.sqrt(density * modulus)
