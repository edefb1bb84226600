"""The command `autograd-geo`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from . import __version__


def parser() -> argparse.ArgumentParser:
    """The command line: one subcommand for each thing to do."""
    top = argparse.ArgumentParser(
        prog="autograd-geo", description="Automatic differentiation for teaching and research in the geosciences."
    )
    top.add_argument("--version", action="version", version=f"autograd-geo {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = commands.add_parser(
        "demo", help="derivatives by hand, a worked network, porosity from impedance, a report",
        description="Print two backward passes and a worked network derivative by derivative, train porosity from "
        "acoustic impedance beside simpler models, predict it over a map, and write a report.",
        epilog="Exit codes: 0 done, 2 a file or an option cannot be used (nothing is written), 130 interrupted.",
    )  # fmt: skip
    demo.add_argument("--wells", type=Path, metavar="CSV", help="wells with a header (default: 480 made from the seed)")
    demo.add_argument(
        "--map", type=Path, metavar="CSV", help="grid of impedance, no header (default: made from the seed)"
    )
    demo.add_argument("--out", type=Path, metavar="DIR", help="write report.html and its pictures to this directory")
    demo.add_argument("--impedance", default="AI", metavar="NAME", help="column of acoustic impedance (default: AI)")
    demo.add_argument("--porosity", default="Porosity", metavar="NAME", help="column of porosity (default: Porosity)")
    demo.add_argument("--seed", type=_seed, default=73073, metavar="N", help="of everything random (default: 73073)")
    demo.add_argument("--quiet", action="store_true", help="no progress bars")
    demo.set_defaults(run=_demo)
    return top


def _seed(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"a seed is a whole number from 0 to {2**32 - 1}, not {text}")
    return value


def _demo(args: argparse.Namespace) -> None:
    from .demo import run

    run(
        args.wells, args.map, args.out, impedance=args.impedance, porosity=args.porosity, seed=args.seed,
        progress=not args.quiet,
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, 2 for input that cannot be used, 130 where interrupted."""
    args = parser().parse_args(argv)
    try:
        args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, `| head`, has had enough
        sys.stdout = None
    except (ValueError, OSError, ImportError) as error:
        print(f"autograd-geo {args.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    return 0
