"""The command `autograd-geo`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from . import __version__

if TYPE_CHECKING:
    from .tensor import Tensor


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments"):
            message += "; an expression that starts with a minus goes after --, as in: step -- '-x**2' x=3"
        super().error(message)


def parser() -> argparse.ArgumentParser:
    """The command line: one subcommand for each thing to do."""
    top = _Parser(
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

    step = commands.add_parser(
        "step", help="step through the derivative of an expression",
        description="Evaluate an expression at a point and step through its backward pass: in the terminal (arrows, "
        "space to play, ? for help), as text, or as a page that works without a network.", epilog=_EXPRESSIONS,
    )  # fmt: skip
    _expression(step)
    step.add_argument("--html", type=Path, metavar="FILE", help="write one page with everything in it to this file")
    step.add_argument("--text", action="store_true", help="print every step (the default where there is no terminal)")
    step.add_argument("--quiz", action="store_true", help="ask for each derivative before it is shown")
    step.set_defaults(run=_step)

    graph = commands.add_parser(
        "graph", help="draw the graph of an expression",
        description="Draw an expression at a point: values, gradients, local derivatives on the edges.",
        epilog=_EXPRESSIONS,
    )  # fmt: skip
    _expression(graph)
    graph.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="draw to this .svg, .png, .pdf, .html or .dot (default: print Graphviz's source)",
    )
    graph.set_defaults(run=_graph)
    return top


_EXPRESSIONS = (
    "Expressions are written as in Python, with the functions of autograd_geo: '((x+y)*z)**2', 'sum(tanh(w*x))'. One "
    "that starts with a minus goes after --. Exit codes: 0 done, 2 for what cannot be read or written, 130 interrupted."
)


def _expression(command: argparse.ArgumentParser) -> None:
    command.add_argument("expression", metavar="EXPR", help="such as '((x+y)*z)**2'")
    command.add_argument("values", nargs="*", metavar="NAME=VALUE", help="such as x=-2, or w=1,2,3 for an array")


def _evaluated(args: argparse.Namespace) -> Tensor:
    from .typed import evaluate, read_values

    return evaluate(args.expression, read_values(args.values))


def _step(args: argparse.Namespace) -> None:
    from .viz import steps

    if args.text and args.quiz:
        raise ValueError("--quiz asks in the terminal or in a page; there is nobody to ask in --text")
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if args.quiz and args.html is None and not terminal:
        raise ValueError("--quiz asks in a terminal, and this is none; with --html FILE it asks in a page")
    lesson = steps(_evaluated(args))
    if args.html is not None:
        lesson.html(args.html, quiz=args.quiz)
        print(f"written: {args.html}")
    if args.text or (args.html is None and not terminal):
        print(lesson.text())
    elif args.html is None:
        lesson.play(quiz=args.quiz)


def _graph(args: argparse.Namespace) -> None:
    from .viz import graph

    drawing = graph(_evaluated(args))
    if args.out is None:
        print(drawing.dot)
    else:
        drawing.save(args.out)
        print(f"written: {args.out}")


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
        said = str(error)
        if isinstance(error, OSError) and error.filename:
            said = f"{error.strerror}: {error.filename}"  # without its number
        print(f"autograd-geo {args.command}: {said}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    return 0
