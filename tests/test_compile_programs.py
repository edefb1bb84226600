"""Random programs, compiled and eager: the same numbers, shapes, dtypes and side effects, call after call.

A program is a few lines of source drawn from a seed. `AUTOGRAD_GEO_PROGRAMS=10000` tries so many,
`AUTOGRAD_GEO_PROGRAM=1234` the one of that seed alone. One that fails is made smaller as long as it fails, and printed.
"""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

import autograd_geo as ag
from autograd_geo import optim
from autograd_geo.compiler import regions
from autograd_geo.tree import leaves

PROGRAMS = int(os.environ.get("AUTOGRAD_GEO_PROGRAMS", "60"))
CALLS = 4
Values = dict[str, Any]

# --- programs ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Input:
    """An argument or something captured: `how` it is given, its shape and dtype."""

    name: str
    how: str  # array, strided, tensor, float, captured array, captured tensor, parameter
    shape: tuple[int, ...]
    dtype: str

    def draw(self, rng: np.random.Generator) -> Any:
        """A value, rounded so that it prints short."""
        if self.how == "float":
            return round(float(rng.normal()), 2)
        if self.dtype == "bool":
            return rng.uniform(size=self.shape) > 0.5
        if self.dtype == "int64":
            return rng.integers(-2, 4, self.shape)
        return np.asarray(rng.normal(size=self.shape).round(2), self.dtype)

    def given(self, value: Any) -> Any:
        """The value as it is passed."""
        if self.how == "tensor":
            return ag.tensor(value)
        if self.how == "strided" and value.ndim:
            return np.repeat(value, 2, axis=-1)[..., ::2]
        return value if self.how == "float" else value.copy()

    @property
    def captured(self) -> str:
        """The name outside the program; inside, arrays become tensors first, or NumPy would compute what nobody records."""
        return f"c{self.name}" if self.how == "captured array" else self.name

    @property
    def is_argument(self) -> bool:
        return self.how in ("array", "strided", "tensor", "float")


@dataclass(frozen=True)
class Program:
    """Lines over inputs; `mode` is value, gradient, second or training."""

    seed: int
    mode: str
    inputs: tuple[Input, ...]
    lines: tuple[str, ...]
    returns: tuple[str, ...]
    optimizer: str = ""

    @property
    def arguments(self) -> list[Input]:
        return [x for x in self.inputs if x.is_argument]

    def values(self, call: int) -> Values:
        """What the inputs are in this call."""
        rng = np.random.default_rng((self.seed, call))
        every = {x.name: x.draw(rng) for x in _drawn(self.seed, self.inputs)}
        return {x.name: every[x.name] for x in self.inputs}

    def source(self) -> str:
        """All of it, as a script that makes `run`."""
        text, first = [], self.values(0)
        for x in self.inputs:
            array = _array_source(first[x.name])
            if x.how == "captured array":
                text.append(f"c{x.name} = {array}")
            elif x.how == "captured tensor":
                text.append(f"{x.name} = ag.tensor({array})")
            elif x.how == "parameter":
                text.append(f"{x.name} = ag.Parameter({array})")
        names = ", ".join(x.name for x in self.arguments)
        body = [
            f"{x.name} = ag.positive({x.captured})"
            if x.dtype != "bool"
            else f"{x.name} = ag.logical_or({x.captured}, False)"
            for x in self.inputs
            if "array" in x.how or x.how == "strided"
        ]
        body += [line for step in self.lines for line in step.splitlines()]
        result = _nested(self.returns, self.seed)
        if self.mode == "training":
            parameters = ", ".join(x.name for x in self.inputs if x.how == "parameter")
            text.append(f"opt = optim.{self.optimizer.replace('(', f'([{parameters}], ', 1)}")
            text += ["", f"def run({names}):", "    opt.zero_grad()", *("    " + line for line in body)]
            text += [f"    loss = total({result})", "    loss.backward()", "    opt.step()", "    return loss"]
            return "\n".join(text)
        text += ["", f"def program({names}):", *("    " + line for line in body), f"    return {result}", ""]
        wrt = tuple(k for k, x in enumerate(self.arguments) if x.dtype.startswith("float"))
        loss = f"def loss({names}):\n    return total(program({names}))"
        if self.mode == "gradient":
            text += [loss, f"\nrun = ag.value_and_grad(loss, {wrt})"]
        elif self.mode == "second":
            text += [loss, f"\ndef slope({names}):", f"    return total(ag.grad(loss, {wrt})({names}))"]
            text.append(f"\nrun = ag.value_and_grad(slope, {wrt})")
        else:
            text.append("run = program")
        return "\n".join(text)


def _drawn(seed: int, inputs: Sequence[Input]) -> Sequence[Input]:
    """All inputs that the seed's program had before it was made smaller: values stay the same."""
    return _inputs_of.get(seed, inputs)


_inputs_of: dict[int, Sequence[Input]] = {}


def _array_source(value: Any) -> str:
    value = np.asarray(value)
    if value.size == 0:
        return f"np.zeros({value.shape}, {value.dtype.name!r})"
    dtype = "" if value.dtype.name in ("float64", "int64", "bool") else f", {value.dtype.name!r}"
    return f"np.array({value.tolist()}{dtype})"


def _nested(names: Sequence[str], seed: int) -> str:
    """The results in some nesting of tuples, lists and dicts."""
    if len(names) < 2 or seed % 3 == 0:
        return "(" + "".join(f"{n}, " for n in names) + ")"
    half = len(names) // 2
    return f"{{'a': [{', '.join(names[:half])}], 'b': ({', '.join(names[half:])},)}}"


def total(tree: Any) -> Any:
    """The sum of the squares of all floating-point numbers in a result."""
    floating = [x for x in leaves(tree) if isinstance(x, float) or x.dtype.kind == "f"]
    return sum((ag.sum(x * x) for x in floating), 0.0)


# --- drawing lines ------------------------------------------------------------------------------------------------

ANYWHERE = ("tanh sin cos atan sigmoid softplus relu leaky_relu elu gelu silu abs square negative positive sign floor ceil "
            "rint asinh erf cbrt log_sigmoid binary_step isnan isfinite").split()  # fmt: skip
BOUNDED = "exp expm1 sinh cosh asin acos atanh tan exp".split()  # of 0.9 tanh(x)
POSITIVE = "log log2 log10 log1p sqrt reciprocal".split()  # of 0.1 + sigmoid(x)
BINARY = [
    "{a} + {b}", "{a} - {b}", "{a} * {b}", "{a} / (1.5 + ag.sigmoid({b}))", "ag.hypot({a}, {b})", "ag.atan2({a}, 2.0 + ag.tanh({b}))",
    "np.maximum({a}, {b})", "np.minimum({a}, {b})", "(0.5 + ag.sigmoid({a})) ** ag.tanh({b})", "ag.where({a} > {b}, {a}, {b} * 2)",
    "ag.where({a} <= {b}, {b}, {c})", "{a} * ({b} > {c})", "ag.where({a} > 0, ag.log(abs({a}) + 0.1), {b})", "({a} < {b}) | ({a} > 1.0)",
    "ag.where(({a} < {b}) & ~({b} < {c}), {a}, 0.0)", "{a} * {c} + {b} * {c}", "({a} == {b}) * 1.0", "({a} != {c}) * {b}",
    "ag.remainder({a}, 1.5 + ag.sigmoid({b}))",
]  # fmt: skip
WITH_NUMBERS = [
    "{a} ** 2", "{a} ** 3", "abs({a}) ** 0.5", "(1.5 + ag.tanh({a})) ** -1", "(1.5 + ag.tanh({a})) ** -2.5", "2.0 ** ag.tanh({a})",
    "2 * {a} - 1", "1 / (2 + ag.tanh({a}))", "{a} / 3", "1.5 - {a}", "{a} % 1.5", "{a}.clip(-0.5, 0.75)", "np.clip({a}, None, 0.3)",
    "np.clip({a}, 0.1, None)", "np.maximum({a}, 0)", "np.minimum(0.2, {a})", "ag.where({a} > 0.2, {a}, 0)", "ag.where({a} > 0, 1.0, -1.0)",
    "{a} * True", "{a} ** 4", "{a} ** 1", "{a} ** 0", "ag.leaky_relu({a}, 0.2)", "np.float32(1.5) * {a}", "np.float64(1.5) * {a}",
    "{a} * np.int64(2)", "{a} + np.pi",
]  # fmt: skip
REDUCTIONS = "sum mean max min prod var std sum sum logsumexp".split()


class Drawer:
    """Draws lines, given the values that there are."""

    def __init__(self, rng: np.random.Generator, values: Values, inputs: Sequence[Input]) -> None:
        self.rng, self.values, self.inputs = rng, values, inputs
        self.fresh = 0

    def one(self, options: Sequence[Any]) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def new(self) -> str:
        self.fresh += 1
        return f"v{self.fresh - 1}"

    def names(self, test: Callable[[Any], bool], kinds: str = "f") -> list[str]:
        return [n for n, v in self.values.items() if _kind(v) in kinds and test(np.shape(v))]

    def some(self, test: Callable[[Any], bool] = lambda shape: True, kinds: str = "f") -> str:
        found = self.names(test, kinds)
        recent = found[-4:] if self.rng.uniform() < 0.6 else found
        return str(self.one(recent))

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(np.shape(self.values[name]))

    def beside(self, a: str) -> str:
        """Something that broadcasts with `a`."""
        kinds = "f" if self.rng.uniform() < 0.9 else "fiub"

        def fits(shape: Any) -> bool:
            try:
                return int(np.prod(np.broadcast_shapes(shape, self.shape(a)))) <= 400
            except ValueError:
                return False

        found = self.some(fits, kinds)
        if self.rng.uniform() < 0.1 and len(self.shape(a)) == len(self.shape(found)) == 1:
            return f"{found}[:, None]"
        return found

    def axis(self, a: str) -> int:
        n = len(self.shape(a))
        return int(self.rng.integers(-n, n))

    def axes(self, a: str) -> Any:
        n = len(self.shape(a))
        if n == 0 or self.rng.uniform() < 0.3:
            return None
        if n > 1 and self.rng.uniform() < 0.3:
            chosen = self.rng.permutation(n)[: int(self.rng.integers(1, n + 1))]
            return tuple(int(k) - n * int(self.rng.integers(2)) for k in chosen)
        return self.axis(a)

    def index(self, a: str, write: bool = False) -> str:
        """An index into `a`, of slices, numbers, new axes, arrays and masks."""
        shape, parts = self.shape(a), []
        if self.rng.uniform() < 0.12:
            return f"{a} > 0.1" if self.rng.uniform() < 0.5 else self._mask(shape)
        arrays = 0
        for n in shape[: int(self.rng.integers(0, len(shape) + 1)) or None]:
            options = ["{s}:{e}", ":", "::2", "::-1", "1:", ":-1", "1:-1", "-2:", "::-2", "{e}:{s}:-1", "2:2", "..."]
            s, e = sorted(int(k) for k in self.rng.integers(-1, n + 1, 2))
            choice = self.rng.uniform()
            if choice < 0.25 and n:
                parts.append(str(int(self.rng.integers(-n, n))))
            elif choice < 0.37 and n and not arrays:
                arrays += 1
                parts.append(f"np.array({self.rng.integers(-n, n, int(self.rng.integers(0, 5))).tolist()}, int)")
            elif choice < 0.42 and not arrays:
                arrays += 1
                parts.append(self._mask((n,)))
            else:
                part = self.one(options)
                parts.append(":" if part == "..." and "..." in parts else part.format(s=s, e=e))
        if not write and self.rng.uniform() < 0.25:
            parts.insert(int(self.rng.integers(len(parts) + 1)), "None")
        return ", ".join(parts) or "..."

    def _mask(self, shape: tuple[int, ...]) -> str:
        return _array_source(self.rng.uniform(size=shape) > 0.4).replace("'bool'", "bool")

    # --- kinds of lines ---------------------------------------------------------------------------------------------

    def unary(self) -> str:
        a, choice = self.some(), self.rng.uniform()
        if choice < 0.6:
            return f"{self.new()} = {self.one(['ag', 'ag', 'np']) if False else 'ag'}.{self.one(ANYWHERE)}({a})"
        if choice < 0.8:
            return f"{self.new()} = ag.{self.one(BOUNDED)}(0.9 * ag.tanh({a}))"
        return f"{self.new()} = ag.{self.one(POSITIVE)}(0.1 + ag.sigmoid({a}))"

    def binary(self) -> str:
        a = self.some()
        return f"{self.new()} = " + self.one(BINARY).format(a=a, b=self.beside(a), c=self.beside(a))

    def number(self) -> str:
        return f"{self.new()} = " + self.one(WITH_NUMBERS).format(a=self.some())

    def integer(self) -> str:
        a = self.some(kinds="iub")
        text = self.one([
            "{a} * 2", "{a} + 1", "{a} % 3", "{a} // 2", "abs({a})", "{a} * {b}", "{a} > 0", "{a}.sum()", "{a} ** 2", "np.maximum({a}, 1)",
            "{a}.mean()", "{a} / 2", "{a} & {a}", "ag.sign({a})", "np.max({a})", "{a}.astype('float32')", "{a}.astype('int32') * 3", "-{a}",
            "ag.square({a})", "ag.exp({a} * 0.1)", "{a}.astype(bool)", "{a} * 0.5", "{a} == 1", "ag.cumsum({a})", "ag.prod({a})",
        ])  # fmt: skip
        return f"{self.new()} = " + text.format(a=a, b=self.beside(a))

    def reduction(self) -> str:
        a = self.some()
        keep = self.one(["", ", keepdims=True"])
        choice, axes = self.rng.uniform(), self.axes(a)
        if choice < 0.65:
            return f"{self.new()} = ag.{self.one(REDUCTIONS)}({a}, axis={axes}{keep})"
        if choice < 0.75:
            return f"{self.new()} = ag.norm({a}, axis={axes}{keep})"
        if not self.shape(a):
            return f"{self.new()} = {a}.sum()"
        op = self.one(["softmax", "log_softmax", "cumsum", "argmax", "argmin"])
        if op.startswith("arg"):
            return f"{self.new()} = ag.{op}({a}, axis={self.axis(a)}{keep})"
        return f"{self.new()} = ag.{op}({a}, axis={self.axis(a)})"

    def product(self) -> str:
        a = self.some(lambda s: len(s) >= 1)
        s = self.shape(a)
        options = [
            "ag.einsum('...i->...', {a})",
            "np.dot({a}, {a}.T)",
            "ag.outer({a}, {a})",
            "ag.einsum('...i,...i->...', {a}, {a})",
        ]
        for b in self.names(lambda t: len(t) >= 1 and s[-1] == t[-1]):
            options += [f"ag.dense({{a}}, {b})", f"{{a}} @ {b}.T", f"ag.einsum('...i,...i', {{a}}, {b})"]
        for b in self.names(lambda t: len(t) >= 1 and s[-1] == t[max(-2, -len(t))]):
            options += [f"{{a}} @ {b}", f"ag.matmul(ag.tanh({{a}}), {b})", f"ag.tensordot({{a}}, {b}, 1)"]
        if len(s) == 2:
            options += [
                "ag.einsum('ij->ji', {a})",
                "ag.einsum('ij,kj->ik', {a}, {a})",
                "{a}.T @ {a}",
                "ag.einsum('ij,ij->j', {a}, {a})",
            ]
        if len(s) == 2 and s[0] == s[1]:
            options += ["ag.einsum('ii', {a})", "ag.einsum('ii->i', {a})", "ag.trace({a})", "{a} @ {a}"]
        if len(s) == 3:
            options += [
                "ag.einsum('bij,bkj->bik', {a}, {a})",
                "ag.einsum('ijk->kji', {a})",
                "{a} @ {a}.transpose(0, 2, 1)",
            ]
        return f"{self.new()} = " + self.one(options[-12:]).format(a=a)

    def move(self) -> str:
        a = self.some(lambda s: len(s) >= 1)
        s, ax, k = self.shape(a), self.axis(a), int(self.rng.integers(-3, 4))
        size = int(np.prod(s))
        shapes = [(size,), (-1, 1), (1, size)] + [(m, size // m) for m in (2, 3) if size and size % m == 0]
        pads = [(int(p), int(q)) for p, q in self.rng.integers(0, 3, (len(s), 2))]
        order = self.one(list(permutations(range(len(s)))))
        n = s[ax]
        others = self.names(
            lambda t: (
                len(t) == len(s) and t[: ax % len(s)] + t[ax % len(s) + 1 :] == s[: ax % len(s)] + s[ax % len(s) + 1 :]
            )
        )
        b = self.one(others)
        same = self.one(self.names(lambda t: t == s))
        options = [
            f"np.roll({a}, {k})", f"np.roll({a}, {k}, axis={ax})", f"ag.flip({a}, {ax})", f"np.flip({a})", f"np.pad({a}, {pads})",
            f"np.pad({a}, 1)", f"{a}.reshape({self.one(shapes)})", f"ag.ravel({a})", f"np.transpose({a}, {order})", f"{a}.T",
            f"np.concatenate([{a}, {b}], axis={ax})", f"np.concatenate([{a}, {b}, {a}], axis={ax})", f"np.stack([{a}, {same}], axis={ax})",
            f"np.stack([{a}, {same}, {a} * 2])", f"np.tile({a}, 2)", f"np.tile({a}, (2, 1))", f"np.repeat({a}, 2, axis={ax})", f"np.repeat({a}, 3)",
            f"np.diff({a}, axis={ax})", f"np.diff({a}, n=2, axis={ax})", f"ag.cumsum({a})", f"ag.expand_dims({a}, {ax})", f"ag.squeeze({a})",
            f"ag.broadcast_to({a}, {(2, *s)})", f"ag.moveaxis({a}, {ax}, 0)", f"ag.tril({a})", f"ag.triu({a}, {k})",
            f"{a}.astype('float32')", f"{a}.astype('float64')", f"{a}.astype(int)", f"np.split({a}, [1, {max(1, n - 1)}], axis={ax})[1]",
            f"{a}[1:] - {a}[:-1]", f"2 * {a}[1:-1] - {a}[2:] - {a}[:-2]", f"np.pad({a}, {pads}) * np.pad({same}, {pads})",
            f"np.repeat({a}, {self.rng.integers(0, 3, n).tolist()}, axis={ax})", f"np.swapaxes({a}, 0, {ax})",
        ]  # fmt: skip
        if n:
            at = self.rng.integers(-n, n, 3).tolist()
            options += [f"np.take({a}, {at}, axis={ax})", f"ag.take({a}, {at[0]}, axis={ax})"]
            options += [f"ag.take_along_axis({a}, np.argsort({a}.detach().numpy(), axis={ax}), axis={ax})"]
            options += [f"ag.take_along_axis({a}, ag.argmax({a}, axis={ax}, keepdims=True), axis={ax})"]
        return f"{self.new()} = {self.one(options)}"

    def read(self) -> str:
        a = self.some(lambda s: len(s) >= 1)
        return f"{self.new()} = {a}[{self.index(a)}]"

    def write(self) -> str:
        a = self.some(lambda s: len(s) >= 1)
        index = self.index(a, write=True)
        target = a
        first = []
        if self.rng.uniform() < 0.7:
            target = self.new()
            first = [
                f"{target} = {self.one(['{a} * 1.0', '{a}.copy()', 'ag.sin({a})', 'ag.zeros({s})']).format(a=a, s=self.shape(a))}"
            ]
        value = self.one(
            [
                "0.5",
                f"ag.tanh({a}[{index}])",
                f"{a}[{index}] * 2",
                self.some(),
                self.some(lambda s: s == ()) if self.names(lambda s: s == ()) else "1",
            ]
        )
        line = self.one(["{t}[{i}] = {v}", "{t}[{i}] += {v}", "{t}[{i}] *= {v}", "{t}[{i}] -= {v}"]).format(
            t=target, i=index, v=value
        )
        return "\n".join([*first, line])

    def in_place(self) -> str:
        a = self.some()
        b = self.beside(a)
        first = []
        target = a
        if self.rng.uniform() < 0.5:
            target = self.new()
            first = [f"{target} = {self.one(['{a} * 1.0', '{a}.copy()', '{a}', 'ag.cos({a})']).format(a=a)}"]
        line = self.one(["{t} += {b}", "{t} -= 0.5 * {b}", "{t} *= {b}", "{t} *= 0.5", "{t} /= 2", "{t} **= 2"])
        return "\n".join([*first, line.format(t=target, b=b)])

    def loop(self) -> str:
        a = self.some(lambda s: len(s) >= 1)
        v, w, count, c = self.new(), self.new(), int(self.rng.integers(2, 6)), self.beside(a)
        return self.one([
            f"{v}, {w} = {a} * 0.1, {a} * 0.1\nfor _ in range({count}):\n"
            f"    {v}, {w} = {w}, 2 * {w} - {v} + 0.1 * {c} * (np.roll({w}, 1) - 2 * {w} + np.roll({w}, -1))",
            f"{v} = {a} * 1.0\n{w} = 0.0\nfor k in range({count}):\n    {v} = ag.tanh({v} + k * {c})\n    {w} = {w} + ag.sum({v} * {v})",
            f"{v} = {a} * 1.0\nfor k in range({count}):\n    {v}[1:-1] = {v}[1:-1] + 0.2 * ({v}[2:] - 2 * {v}[1:-1] + {v}[:-2])\n{w} = {v} * 2",
            f"{v} = {a} * 1.0\nfor k in range({count}):\n    {v}[1:-1] += 0.2 * ({v}[2:] - 2 * {v}[1:-1] + {v}[:-2])\n    {v} *= 0.9\n{w} = -{v}",
            f"{v} = ag.zeros({(count, *self.shape(a))})\n{w} = {a} * 1.0\nfor k in range({count}):\n    {w} = ag.sin({w})\n    {v}[k] = {w}",
            f"{v} = []\n{w} = {a}\nfor k in range({count}):\n    {w} = 0.5 * {w} + ag.sin({w})\n    {v}.append({w}.sum())\n{v} = np.stack({v})",
            f"{v} = {a} * 1.0\nfor k in range(len({v})):\n    {v}[k] = ag.tanh({v}[k - 1]) + {v}[k]\n{w} = {v}.mean()",
            f"{w} = ag.zeros({self.shape(a)})\n{v} = 0.0\nfor row in {a}:\n    {v} = {v} + ag.sum(row * row)",
        ])  # fmt: skip

    def control(self) -> str:
        a = self.some()
        v, t = self.new(), round(float(self.rng.normal()), 1)
        return self.one([
            f"if {a}.sum() > {t}:\n    {v} = {a} * 2\nelse:\n    {v} = ag.sin({a})",
            f"{v} = {a}\nwhile ag.norm({v}) > 0.5:\n    {v} = {v} * 0.6",
            f"if ag.mean({a} * {a}).item() > 0.5:\n    {v} = {a}.sum()\nelse:\n    {v} = {a} * {a}",
            f"{v} = {a} * round({a}.detach().sum().item())",
            f"{v} = {a} * 1.0\nif bool(ag.sum({a}) > {t}):\n    {v} += 1",
            f"{v} = {a} * {a}.detach().numpy()",
            f"{v} = [{a} * k for k in range(1 + int(ag.sum({a}).detach() > {t}))][-1]",
        ])  # fmt: skip

    def cut(self) -> str:
        a, v = self.some(), self.new()
        return self.one([
            f"with ag.no_grad():\n    {v} = ag.sin({a}) * 2", f"{v} = {a}.detach() * {a}", f"{v} = {a}.detach()",
            f"with ag.no_grad():\n    {v} = {a} * 2\n    {v} += 1", f"{v} = ag.tensor({a}.detach())\n{v} *= 2",
            f"{v} = ag.grad(lambda y: total(ag.sin(y)))({a}.detach())\n{v} = {a} * {v}",
            f"{v} = ag.grad(lambda y: total([y * {a}]))({a})", f"{v} = ag.jvp(ag.sin, ({a},), ({a},))[1]",
            f"{v} = ag.vjp(ag.tanh, {a})[1]({a})[0]", f"{v} = ag.tensor({a}.detach(), requires_grad=True)\ntotal(ag.sin({v})).backward()\n{v} = {v}.grad * {a}",
            f"{v} = ag.where({a} > 0, {a}, {a}.detach())",
        ])  # fmt: skip

    def constant(self) -> str:
        a = self.some()
        s = self.shape(a)
        return f"{self.new()} = " + self.one([
            f"{a} + ag.ones({s})", f"{a} * np.arange({int(np.prod(s))}.0).reshape({s})", f"ag.linspace(0, 1, 3) * {a}.sum()",
            f"ag.tensor([1.0, 2.0]) + {a}.mean()", f"{a} * np.full({s}, 2)", f"np.ones({s}, 'float32') * {a}", f"ag.full({s}, 0.5)",
            f"ag.eye(3) * {a}.sum()", f"ag.arange(4) * {a}.sum()",
        ])  # fmt: skip


def _kind(value: Any) -> str:
    return "f" if isinstance(value, float) else value.dtype.kind if hasattr(value, "dtype") else "-"


LINES = [
    (Drawer.unary, 3), (Drawer.binary, 5), (Drawer.number, 2), (Drawer.integer, 0.7), (Drawer.reduction, 3), (Drawer.product, 2), (Drawer.move, 4),
    (Drawer.read, 2.5), (Drawer.write, 2), (Drawer.in_place, 1.5), (Drawer.loop, 0.8), (Drawer.control, 0.5), (Drawer.cut, 0.8), (Drawer.constant, 0.7),
]  # fmt: skip


def draw(seed: int) -> Program:
    """The program of a seed: lines that run on its first values and give moderate numbers."""
    rng = np.random.default_rng(seed)
    mode = str(rng.choice(["value", "gradient", "second", "training"], p=[0.3, 0.4, 0.15, 0.15]))
    common = str(rng.choice(["float64", "float32", "mixed"], p=[0.7, 0.2, 0.1]))
    sizes = [0, 1, 2, 3, 4, 5, 6]
    lengths = rng.choice(sizes, 4, p=[0.04, 0.12, 0.16, 0.24, 0.2, 0.12, 0.12])
    inputs = []
    for k in range(int(rng.integers(1, 5))):
        how = str(
            rng.choice(
                ["array", "strided", "tensor", "float", "captured array", "captured tensor"],
                p=[0.3, 0.1, 0.3, 0.1, 0.1, 0.1],
            )
        )
        if k == 0:
            how = "parameter" if mode == "training" else str(rng.choice(["array", "tensor"]))
        elif mode == "training" and rng.uniform() < 0.4:
            how = "parameter"
        floating = str(rng.choice(["float64", "float32"])) if common == "mixed" else common
        dtype = floating if k == 0 or how == "parameter" or rng.uniform() < 0.85 else str(rng.choice(["int64", "bool"]))
        ndim = int(rng.choice([0, 1, 2, 3], p=[0.1, 0.35, 0.4, 0.15]))
        shape = tuple(int(n) for n in rng.choice(lengths, ndim))
        inputs.append(Input(f"x{k}", how, () if how == "float" else shape, "float64" if how == "float" else dtype))
    optimizer = ""
    if mode == "training":
        optimizer = str(rng.choice(["SGD(lr=0.1)", "SGD(lr=0.1, momentum=0.9)", "Adam(lr=0.05)", "Adam(lr=0.05, weight_decay=0.1)",
                                    "SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)"]))  # fmt: skip
    _inputs_of[seed] = tuple(inputs)
    program = Program(seed, mode, tuple(inputs), (), (), optimizer)
    drawer = Drawer(rng, {}, inputs)
    kinds, weights = [kind for kind, _ in LINES], np.array([w for _, w in LINES])
    drawer.values = _try(program, ())
    wanted = int(rng.integers(2, 11))
    for _ in range(3 * wanted):
        if len(program.lines) == wanted:
            break
        kind = kinds[int(rng.choice(len(kinds), p=weights / weights.sum()))]
        try:
            line = kind(drawer)
        except (IndexError, ValueError):  # nothing there that would fit
            continue
        try:
            found = _try(program, (*program.lines, line))
        except Exception:
            continue
        program, drawer.values = replace(program, lines=(*program.lines, line)), found
    made = [n for n in drawer.values if n.startswith("v") or (mode == "value" and n[0] == "x")]
    return replace(program, returns=tuple(made or [n for n in drawer.values if n == "x0"]))


def _try(program: Program, lines: Sequence[str]) -> Values:
    """The values after these lines. Raises an error if that is not possible, or numbers grow large."""
    first = program.values(0)
    scope: Values = {"np": np, "ag": ag, "total": total}
    for x in program.inputs:
        scope[x.name] = first[x.name] if x.how == "float" else (
            ag.tensor(first[x.name], requires_grad=x.how == "parameter" or (program.mode in ("gradient", "second") and x.is_argument and x.dtype.startswith("float"))))  # fmt: skip
        if x.is_argument and scope[x.name].__class__ is ag.Tensor and scope[x.name].requires_grad:
            scope[x.name] = ag.positive(scope[x.name])
    with np.errstate(all="ignore"):
        exec("\n".join(lines), scope)
    values = {n: v for n, v in scope.items() if n[0] in "xv" and n[1:].isdigit()}
    for v in values.values():
        array = v.numpy() if isinstance(v, ag.Tensor) else np.asarray(v)
        if array.size > 2000 or not np.all(np.abs(array.astype(float)) < 100):
            raise ValueError("large")
    return values


# --- running ------------------------------------------------------------------------------------------------------


class Machine:
    """A program ready to run, with its own copies of all that it captures."""

    def __init__(self, program: Program, compiled: bool) -> None:
        self.program = program
        self.scope: Values = {"np": np, "ag": ag, "total": total, "optim": optim}
        exec(compile(program.source(), "<program>", "exec"), self.scope)
        self.run = ag.compile(self.scope["run"]) if compiled else self.scope["run"]

    def call(self, k: int) -> Iterator[tuple[str, Any]]:
        """All that there is to see of call number k, with a name for each."""
        values = self.program.values(k)
        for x in self.program.inputs:
            if x.how == "captured array" and k:
                self.scope[x.captured][...] = values[x.name]
            elif x.how == "captured tensor" and k > 1:
                self.scope[x.name].assign(values[x.name])
        if self.program.mode == "training" and k > 1:
            self.scope["opt"].lr *= 0.5
        given = [x.given(values[x.name]) for x in self.program.arguments]
        with np.errstate(all="ignore"):
            result = self.run(*given)
        yield from ((f"result {n}", v) for n, v in enumerate(leaves(result)))
        yield from ((f"argument {x.name}", v) for x, v in zip(self.program.arguments, given, strict=True))
        for x in self.program.inputs:
            if not x.is_argument:
                yield x.name, self.scope[x.captured]
            if x.how == "parameter" and self.scope[x.name].grad is not None:
                yield f"{x.name}.grad", self.scope[x.name].grad
        if self.program.mode == "training":
            for n, state in enumerate(self.scope["opt"].state):
                yield from ((f"state {n} {key}", v) for key, v in state.items())


def as_array(value: Any) -> np.ndarray[Any, Any]:
    return value.numpy() if isinstance(value, ag.Tensor) else np.asarray(value)


class NotAProgram(Exception):
    """It does not run eagerly."""


def failure(program: Program) -> str | None:
    """What is different when the program is compiled; None if nothing is."""
    try:
        eager = Machine(program, False)
        expected = [[(n, as_array(v).copy()) for n, v in eager.call(k)] for k in range(CALLS)]
    except Exception as error:
        raise NotAProgram from error
    compiled = Machine(program, True)
    single = "float32" in program.source() + "".join(x.dtype for x in program.inputs)
    rtol = 2e-4 if single else 1e-10
    for k, wanted in enumerate(expected):
        what = "recorded" if k == 0 else f"replay {k}"
        try:
            found = [(n, as_array(v)) for n, v in compiled.call(k)]
        except Exception as error:
            return f"{type(error).__name__} ({what}) in {_where(error)}: {error}"
        if [n for n, _ in found] != [n for n, _ in wanted]:
            return f"results ({what}): {[n for n, _ in found]}, not {[n for n, _ in wanted]}"
        floor = max([1.0, *(abs(v[np.isfinite(v)]).max(initial=0) for _, v in wanted if v.dtype.kind == "f")])
        for (name, got), (_, want) in zip(found, wanted, strict=True):
            if (got.dtype, got.shape) != (want.dtype, want.shape):
                return f"type ({what}): {name} is {got.dtype} {got.shape}, not {want.dtype} {want.shape}"
            with np.errstate(all="ignore"):
                same = np.allclose(got, want, rtol=rtol, atol=rtol * floor, equal_nan=True)
            if not same and program.mode == "training" and is_chaotic(program, k, name, want, rtol):
                return None  # from here on
            if not same:
                return f"numbers ({what}): {name} is\n{got}\nnot\n{want}"
    return None


def is_chaotic(program: Program, k: int, name: str, value: Any, rtol: float) -> bool:
    """Whether a few roundings of the parameters alone change a number of call k by more than is tolerated."""
    eager = Machine(program, False)
    for x in program.inputs:
        if x.how == "parameter":
            p = eager.scope[x.name]
            p.assign(p.numpy() * p.dtype.type(1 + 8 * np.finfo(p.dtype).eps))
    for i in range(k + 1):
        found = dict(eager.call(i))
    with np.errstate(all="ignore"):
        return not np.allclose(as_array(found[name]), value, rtol=rtol, equal_nan=True)


def _where(error: BaseException) -> str:
    """The library's line that raised."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "autograd_geo" in f.filename]
    return f"{os.path.basename(frames[-1].filename)}, {frames[-1].name}" if frames else "the program"


def smaller(program: Program, found: str) -> tuple[Program, str]:
    """A program that fails in the same way with as little as possible."""
    kind = found.split(" ")[0]

    def fails(other: Program) -> str | None:
        try:
            result = failure(other)
        except NotAProgram:
            return None
        return result if result is not None and result.split(" ")[0] == kind else None

    progress = True
    while progress:
        progress = False
        candidates = [
            replace(program, returns=program.returns[:k] + program.returns[k + 1 :])
            for k in range(len(program.returns))
        ]
        candidates += [
            replace(program, lines=program.lines[:k] + program.lines[k + 1 :]) for k in range(len(program.lines))
        ]
        if program.mode in ("second", "gradient"):
            candidates.insert(0, replace(program, mode={"second": "gradient", "gradient": "value"}[program.mode]))
        for k, line in enumerate(program.lines):  # the lines of a step one by one
            rows = line.splitlines()
            for j in range(len(rows) if len(rows) > 1 else 0):
                rest = "\n".join(rows[:j] + rows[j + 1 :])
                candidates.append(replace(program, lines=(*program.lines[:k], rest, *program.lines[k + 1 :])))
        for k, line in enumerate(program.lines):  # a variable before in place of the one that a line makes
            made = line.split(" ")[0]
            before = [x.name for x in program.inputs] + [row.split(" ")[0] for row in program.lines[:k]]
            for other_name in dict.fromkeys(before) if "\n" not in line and made.isidentifier() else ():
                rest = tuple(re.sub(rf"\b{made}\b", other_name, row) for row in program.lines[k + 1 :])
                returns = tuple(dict.fromkeys(other_name if n == made else n for n in program.returns))
                candidates.append(replace(program, lines=program.lines[:k] + rest, returns=returns))
        if len(program.inputs) > 1:
            candidates += [
                replace(program, inputs=program.inputs[:k] + program.inputs[k + 1 :])
                for k in range(len(program.inputs))
            ]
        for other in candidates:
            if (again := fails(other)) is not None:
                program, found, progress = other, again, True
                break
    return program, found


def report(program: Program, found: str) -> str:
    """The program as a script, what it was called with, and what is wrong."""
    calls = [{x.name: program.values(k)[x.name] for x in program.arguments} for k in range(CALLS)]
    given = "\n".join(
        f"# call {k}: " + ", ".join(f"{n} = {_array_source(v)}" for n, v in c.items()) for k, c in enumerate(calls)
    )
    hows = ", ".join(f"{x.name}: {x.how} {x.dtype} {x.shape}" for x in program.inputs)
    return f"seed {program.seed}: {found}\n\n# {hows}\n{program.source()}\n{given}"


def check(seed: int) -> None:
    program = draw(seed)
    try:
        found = failure(program)
    except NotAProgram:  # later values do not fit, such as a mask that selects another number of elements
        return
    if found is not None:
        pytest.fail(report(*smaller(program, found)), pytrace=False)


CHOSEN = os.environ.get("AUTOGRAD_GEO_PROGRAM")


@pytest.mark.parametrize("seed", range(PROGRAMS) if CHOSEN is None else [int(CHOSEN)])
def test_compiled_program_is_eager(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if seed % 2:
        monkeypatch.setattr(regions, "LEAST_ROW", 2)  # these arrays are small
    check(seed)
