"""The demo: what `autograd-geo demo` runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .. import data
from ..data.table import DataError
from .lessons import chain_rule_text, worked_network_text
from .porosity import Study, study, table_text
from .report import report_files, write_files
from .wave import inversion_text, invert


def run(
    wells: Path | None = None, map_file: Path | None = None, out: Path | None = None, *,
    impedance: str = "AI", porosity: str = "Porosity", seed: int = 73073, progress: bool = True,
    say: Callable[[str], None] = print,
) -> Study:  # fmt: skip
    """Run the demo, telling what it does through `say`; write the report to `out` if given.

    Without files it makes its own wells and map from the seed. Raises DataError for files that cannot be used,
    before anything is printed or written.
    """
    if wells is not None:
        table = data.read_table(wells, [impedance, porosity])
    if map_file is not None:
        grid = data.read_map(map_file)
    if wells is None or map_file is None:
        reservoir = data.synthetic_reservoir(seed=seed)
        if wells is None:
            table = data.sample_wells(reservoir, seed=seed)
        if map_file is None:
            grid = reservoir.impedance
    if out is not None and out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file; give a directory for the report")

    say(f"1. Two derivatives by hand\n\n{chain_rule_text()}\n")
    say(f"2. The worked 3-2-1 network\n\n{worked_network_text()}\n")
    say("3. Porosity from acoustic impedance\n")
    result = study(table, impedance, porosity, seed, progress)
    say(table_text(result))
    predicted = result.predict(result.best, grid)
    rows, columns = grid.shape
    span = f"{predicted.min():.3f} to {predicted.max():.3f}, mean {predicted.mean():.3f}"
    say(f"\n4. The map of {rows} x {columns}: porosity {span}")
    say("\n5. Velocity from a seismogram\n")
    inversion = invert()
    say(inversion_text(inversion))
    if out is not None:
        write_files(report_files(result, grid, inversion), out)
        say(f"\nThe report is in {out / 'report.html'}")
    return result
