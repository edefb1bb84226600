"""What is fuzzed, one function of bytes each: only documented exceptions, printable messages, exact round trips."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import re
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from autograd_geo import checkpoint, expr
from autograd_geo.cli import main
from autograd_geo.data.table import DataError, Table, read_map, read_table, write_map, write_table
from autograd_geo.names import printable
from autograd_geo.typed import evaluate, read_values

SLOWEST = 10.0  # seconds of computing that an input may take: far above what any needs
LONGEST = 4096  # bytes of an input


def expression(data: bytes) -> None:
    """The first line is an expression over x and y, the others are values as on the command line."""
    text, *settings = data.decode(errors="surrogateescape").split("\n")
    with contextlib.suppress(ValueError):
        node = expr.parse(text, ("x", "y"))
        with np.errstate(all="ignore"), contextlib.suppress(OverflowError, ZeroDivisionError):
            expr.simplify(node, {"x": 0.5})
        for code in ("\n".join(expr.source(node)), expr.latex(node), expr.mathml(node)):
            code.encode()
        compile("def f(x, y):\n " + "\n ".join(expr.source(node)), "printed", "exec")
    with contextlib.suppress(ValueError):
        evaluate(text, read_values(settings or ["x=0.5,-2", "y=3"]))


def command(data: bytes) -> None:
    """The lines are the arguments of `autograd-geo graph` or `step --text`."""
    lines = [line for line in data.decode(errors="replace").replace("\0", "").split("\n") if not line.startswith("-")]
    for first in (["graph"], ["step", "--text"]):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code: Any = main([*first, *(lines or ["x"])])
            except SystemExit as stopped:  # argparse
                code = stopped.code
        assert code in (0, 2), code
        _only_printable(out.getvalue() + err.getvalue())


def table(data: bytes) -> None:
    """A CSV file: what is read is written and read again."""
    with tempfile.TemporaryDirectory() as folder:
        path, copy = Path(folder, "given.csv"), Path(folder, "copy.csv")
        path.write_bytes(data)
        with _refused(DataError):
            read = read_table(path)
            _only_printable(repr(read))
            write_table(copy, read)
            again = read_table(copy)
            assert again.columns == read.columns
            assert all(np.array_equal(again[name], read[name]) for name in read)
        with _refused(DataError):
            read_table(path, ["AI", ""])
        with _refused(DataError):
            grid = read_map(path)
            write_map(copy, grid)
            assert np.array_equal(read_map(copy), grid)
        with _refused(DataError):
            Table({data.decode(errors="replace"): [1.0]})["missing"]


def checkpoints(data: bytes) -> None:
    """The bytes as they are, and with the checksum set right, so that what stands behind it is reached."""
    for content in (data, sealed(data)):
        with _refused(checkpoint.CheckpointError):
            state = checkpoint.read(content)
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, "copy.safetensors")
                checkpoint.save(path, state)
                assert _same(checkpoint.load(path), state)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "expression": expression,
    "command": command,
    "csv": table,
    "checkpoint": checkpoints,
}


def run(name: str, data: bytes) -> None:
    """One input. Raises AssertionError, or whatever undocumented came out."""
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python's own about the text, such as "is" with a number
        TARGETS[name](data)
    took = time.process_time() - start
    assert took < SLOWEST, f"{took:.1f} s for {data!r:.200}"


def sealed(content: bytes) -> bytes:
    """A checkpoint with the checksum that fits it, where it has a place for one."""
    field = re.search(rb'"sha256":"([^"]*)"', content)
    if field is None:
        return content
    before, after = content[: field.start(1)], content[field.end(1) :]
    digest = hashlib.sha256(before + b"0" * 64 + after).hexdigest().encode()
    return before + digest + after


@functools.cache
def seeds(name: str) -> list[bytes]:
    """Inputs that reach deep, to start from."""
    if name in ("expression", "command"):
        lines = [
            "((x+y)*z)**2\nx=-2\ny=5\nz=-4", "sum(tanh(w*x))\nw=1,2,3\nx=0.5", "where(x<1, sqrt(x), log(y))\nx=2\ny=3",
            "x if y else 2", "x**y/maximum(x, y)-pi\nx=1e308\ny=nan", "erf(x)\nx=\u22121",
        ]  # fmt: skip
        return [line.encode() for line in lines]
    if name == "csv":
        return [
            b"AI,Porosity\n1,2\n3,4.5\n", b'"a b";c\n1;2\n3;1e5\n', b"\xef\xbb\xbf,x\tz\n0,1\t2\n",
            b"1,2\n3,nan\n", b'a,"b""c"\n=1+2,"\x1b]0;t\x07"\n5,6\n',
        ]  # fmt: skip
    state = {"model": {"w": np.arange(6.0).reshape(2, 3), "c": np.array(1 + 2j)}, "epoch": 3, "t": (None, True, 1.5)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "seed.safetensors")
        checkpoint.save(path, state)
        nested = path.read_bytes()
        checkpoint.save(path, [float("nan"), "text", np.zeros((0, 2), np.float32), np.array(True)])
        return [nested, path.read_bytes()]


@contextlib.contextmanager
def _refused(error: type[Exception]) -> Iterator[None]:
    try:
        yield
    except error as refusal:
        _only_printable(str(refusal))


def _only_printable(text: str) -> None:
    plain = re.sub(r"[\n\t\u00a0\u202f\u2009]", "", text)  # the spaces that the library itself prints
    assert plain == printable(plain), f"{text!r} is not printable"


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(_same, a, b))
    return type(a) is type(b) and repr(a) == repr(b)
