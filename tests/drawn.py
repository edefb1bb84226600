"""Calls of ops as hypothesis draws them: any shapes, layouts, dtypes and values, any attributes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st
from op_calls import reference
from scipy import special

import autograd_geo as ag
from autograd_geo.op import functions, registry

Array = np.ndarray[Any, Any]

POINTWISE = [
    name
    for name, op in registry.items()
    if op.family == "pointwise" and hasattr(ag, name) and functions[name].__module__.startswith("autograd_geo.ops")
]
_ORDINARY = np.round(np.random.default_rng(0).uniform(-3, 3, 128), 2) + 1 / 64


def _lattice(dtype: Any) -> Array:
    """Special numbers; the first few are such that they tie."""
    f = np.finfo(dtype)
    numbers = [
        1, 0, -1, 0.5, 2, -0.5, -2, 3, 0.1, -0.1, 1.5, 0.7, 0.3, 10, -10, -0.0, np.inf, -np.inf, np.nan,
        f.smallest_subnormal, -f.smallest_subnormal, f.tiny, -f.tiny, f.max, -f.max, f.max / 2, f.max**0.5, f.tiny**0.5,
        1 - f.epsneg, 1 + f.eps, 1e-8, -1e-8, 700, -700, 88, -88, 1e10, -1e10, np.pi, 100, -100, 1000, -1000, 0.9, -0.9,
        1e-3, 4, 16.5, -0.15,
    ]  # fmt: skip
    return np.array([dtype(x) for x in numbers])


_LATTICES = {np.dtype(t): _lattice(t) for t in (np.float64, np.float32)}
_INTEGERS = np.array([1, 0, 2, 3, -1, -2, 7, 100, -100, 127, -128])

SHAPES = [(), (3,), (1,), (0,), (2, 3), (3, 1), (1, 3), (2, 0), (2, 1, 3), (3, 3)]
LAYOUTS = ["C", "Fortran", "reversed", "strided", "read-only", "big-endian", "repeated"]
FLOATING = ["float64", "float32"]
ANY = [*FLOATING, "int64", "int32", "uint8", "bool"]


class Call(NamedTuple):
    """One call of an op, ours or NumPy's: operands are arrays or literal numbers."""

    name: str
    args: tuple[Any, ...]
    attrs: dict[str, Any] = {}  # noqa: RUF012

    def ours(self, *args: Any) -> Any:
        """What we return, for these operands instead of its own where given."""
        args = args or self.args
        make = _OURS.get(self.name)
        return make(*args, **self.attrs) if make else functions[self.name](*args, **self.attrs)

    def of(self, places: Sequence[int], *xs: Any) -> Any:
        """What we return for other values of these operands."""
        args: list[Any] = list(self.args)
        for k, x in zip(places, xs, strict=True):
            args[k] = x
        return self.ours(*args)

    def theirs(self) -> Any:
        """What NumPy or SciPy returns."""
        if (make := _THEIRS.get(self.name)) is not None:
            return make(*self.args, **self.attrs)
        if self.name in POINTWISE:
            op, args = registry[self.name], list(self.args)
            if op.reference:  # SciPy's functions take bytes for half precision
                args = [a if np.asarray(a).dtype.kind == "f" else np.asarray(a, float) for a in args]
            return reference(op, args, dict(op.attrs))
        return getattr(np, self.name)(*self.args, **self.attrs)

    @property
    def floating(self) -> list[int]:
        """The operands that can require a gradient."""
        if self.name in POINTWISE:
            rules = registry[self.name].rules
            usable = [k for k in range(len(self.args)) if rules[k] is not None]
        else:
            usable = list(range(len(self.args)))
        return [k for k in usable if isinstance(a := self.args[k], np.ndarray) and a.dtype.kind == "f"]


def laid_out(values: Array, layout: str) -> Array:
    """The same values in an array of another memory layout; "repeated": the first along the last axis, by stride 0."""
    match layout:
        case "Fortran":
            return np.asfortranarray(values)
        case "reversed" if values.ndim:
            return np.flip(np.flip(values).copy())
        case "strided" if values.ndim:
            wide = np.full((*values.shape[:-1], 2 * values.shape[-1]), 99, values.dtype)
            wide[..., ::2] = values
            return wide[..., ::2]
        case "big-endian":
            return values.astype(values.dtype.newbyteorder(">"))
        case "repeated" if values.size:
            return np.broadcast_to(values[..., :1] if values.ndim else values, values.shape)
        case "read-only":
            values.flags.writeable = False
    return values


@st.composite
def arrays(draw: Any, shape: tuple[int, ...], dtypes: list[str] = ANY, ordinary: bool = False) -> Array:
    """An array of this shape: of special numbers and ordinary ones; if `ordinary`, the special ones are -2 to 2."""
    dtype = np.dtype(draw(st.sampled_from(dtypes)))
    size = int(np.prod(shape))
    codes = np.frombuffer(draw(st.binary(min_size=size, max_size=size)), np.uint8)
    if dtype.kind == "f":
        lattice = _LATTICES[dtype]
        values = _ORDINARY[codes % 128].astype(dtype)
        special = lattice[codes % (7 if ordinary else len(lattice))]
        values = np.where(codes < (64 if ordinary else 128), special, values)
    else:
        values = _INTEGERS[codes % len(_INTEGERS)].astype(dtype)
    return laid_out(values.reshape(shape), draw(st.sampled_from(LAYOUTS)))


@st.composite
def broadcastable(draw: Any, count: int) -> list[tuple[int, ...]]:
    """Shapes of operands: mostly such that broadcast."""
    whole = draw(st.sampled_from(SHAPES))
    found = []
    for _ in range(count):
        how = draw(st.integers(0, 15))
        if how == 15:
            found.append(draw(st.sampled_from(SHAPES)))  # which may not fit
        else:
            shape = tuple(1 if how & 1 << k and how & 8 else n for k, n in enumerate(whole))
            found.append(shape[how & 3 :] if how & 4 else shape)
    return found


@st.composite
def pointwise(draw: Any, dtypes: list[str] = ANY, names: list[str] = POINTWISE, ordinary: bool = False) -> Call:
    name = draw(st.sampled_from(names))
    op = registry[name]
    args: list[Any] = []
    for x, shape in zip(op.inputs, draw(broadcastable(len(op.inputs))), strict=True):
        a = draw(arrays(shape, ["bool"] if x == "condition" else dtypes, ordinary))
        if x != "condition" and a.shape == () and len(args) > 0 and draw(st.booleans()):
            a = a.item()
        args.append(a)
    return Call(name, tuple(args))


# --- attributes of the others -----------------------------------------------------------------------------------

_AXIS = st.sampled_from([None, 0, -1, 1, (0, 1), (), (0,), (-1, 0), 2, -3, (0, 0)])
_ONE_AXIS = st.sampled_from([None, 0, -1, 1, 2, -3])
_SURE_AXIS = st.sampled_from([-1, 0, 1, -2, 2])
_KEEP = st.booleans()
_SMALL = st.integers(-3, 3)
_POSITIONS = st.sampled_from([0, 1, 2, -1, 3, -4])
_INDEX_PART = st.one_of(
    st.sampled_from([0, 1, -1, 2, 5, None, Ellipsis]),
    st.builds(slice, st.none() | _SMALL, st.none() | _SMALL, st.sampled_from([None, 1, -1, 2, -2])),
    st.sampled_from([np.array([0, 1, 0]), np.array([[0], [-1]]), np.array([True, False, True]), np.array([], int)]),
)
_INDEX = st.one_of(_INDEX_PART, st.tuples(_INDEX_PART, _INDEX_PART))

ATTRIBUTES: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    **{name: {"axis": _AXIS, "keepdims": _KEEP} for name in ("sum", "mean", "prod", "max", "min", "logsumexp")},
    "norm": {"axis": st.sampled_from([None, 0, -1, 1, (0, 1), (0,), 2]), "keepdims": _KEEP},
    **{name: {"axis": _AXIS, "keepdims": _KEEP, "ddof": st.integers(0, 2)} for name in ("var", "std")},
    **{name: {"axis": _ONE_AXIS, "keepdims": _KEEP} for name in ("argmax", "argmin")},
    "cumsum": {"axis": _ONE_AXIS}, "softmax": {"axis": _SURE_AXIS}, "log_softmax": {"axis": _SURE_AXIS},
    "reshape": {"shape": st.sampled_from([(-1,), (3, 2), (6,), (1, -1), (), (0,), (3, 3), (-1, 2), (2, 3, 1)])},
    "transpose": {"axes": st.sampled_from([None, (0,), (1, 0), (0, 1), (2, 0, 1), (-1, 0), (0, 0)])},
    "moveaxis": {"source": _SURE_AXIS, "destination": _SURE_AXIS},
    "swapaxes": {"axis1": _SURE_AXIS, "axis2": _SURE_AXIS},
    "squeeze": {"axis": st.sampled_from([None, 0, 1, -1, (0, 1), 3])},
    "expand_dims": {"axis": st.sampled_from([0, 1, -1, (0, 1), (0, -1), 4])},
    "broadcast_to": {"shape": st.sampled_from([(3,), (2, 3), (2, 2, 3), (), (0, 3), (3, 3), (2, 0)])},
    "tile": {"reps": st.sampled_from([2, (2,), (1, 2), (2, 1, 2), 0, (2, 0)])},
    "repeat": {"repeats": st.sampled_from([2, 0, 1, (1, 2, 0), (1, 2)]), "axis": _ONE_AXIS},
    "flip": {"axis": _AXIS}, "roll": {"shift": st.one_of(_SMALL, st.just((1, 2))), "axis": _AXIS},
    "pad": {"pad_width": st.sampled_from([1, (1, 2), ((1, 0), (0, 2)), 0, ((1, 1),), -1]),
            "mode": st.sampled_from(["constant", "edge", "reflect", "symmetric", "wrap"])},
    "diff": {"n": st.integers(0, 3), "axis": _SURE_AXIS}, "tril": {"k": _SMALL}, "triu": {"k": _SMALL},
    "ravel": {}, "trace": {"offset": _SMALL, "axis1": _SURE_AXIS, "axis2": _SURE_AXIS},
    "getitem": {"index": _INDEX}, "setitem": {"index": _INDEX},
    "take": {"indices": st.lists(_POSITIONS, max_size=3).map(lambda i: np.array(i, int)), "axis": _ONE_AXIS},
    "astype": {"dtype": st.sampled_from(["float64", "float32", "int64", "bool"])},
    "concatenate": {"axis": _ONE_AXIS}, "stack": {"axis": _SURE_AXIS},
    "matmul": {}, "dot": {}, "outer": {}, "dense": {},
    "einsum": {"subscripts": st.sampled_from(["ij,jk->ik", "i,i", "ij,ij->j", "i,j->ij", "ij,j",
                                              "...i,...i->...", "ij,kj"])},
}  # fmt: skip
_OPERANDS = {"setitem": 2, "concatenate": 2, "stack": 2, "matmul": 2, "dot": 2, "outer": 2, "dense": 2, "einsum": 2}
OTHERS = sorted(ATTRIBUTES)
_SUMS = ("einsum", "matmul", "dot", "dense")  # which terms meet first, and overflow, is not defined


def _assigned(x: Any, value: Any, *, index: Any) -> Any:
    x = np.array(x)
    x[index] = value
    return x


def _ours_assigned(x: Any, value: Any, *, index: Any) -> Any:
    x = (x if isinstance(x, ag.Tensor) else ag.tensor(x)).copy()
    x[index] = value
    return x


def _dense(x: Any, weight: Any) -> Any:
    return functions["dense"](x, weight) if np.ndim(x) and np.ndim(weight) == 2 else ag.matmul(x, weight.T)


def _norm(x: Any, *, axis: Any, keepdims: bool) -> Any:
    """NumPy's, without its overflow."""
    z = np.linalg.norm(x, axis=axis, keepdims=keepdims)
    wide = np.square(x.astype(np.longdouble))
    return np.sqrt(np.sum(wide, axis=axis, keepdims=keepdims)).astype(z.dtype)


_OURS: dict[str, Callable[..., Any]] = {
    "getitem": lambda x, index: (x if isinstance(x, ag.Tensor) else ag.tensor(x))[index],
    "setitem": _ours_assigned,
    "reshape": lambda x, shape: ag.reshape(x, shape),
    "transpose": lambda x, axes: ag.transpose(x) if axes is None else ag.transpose(x, axes), "dense": _dense,
    "concatenate": lambda *xs, axis: ag.concatenate(xs, axis), "stack": lambda *xs, axis: ag.stack(xs, axis),
    "einsum": lambda *xs, subscripts: ag.einsum(subscripts, *xs),
}  # fmt: skip
_THEIRS: dict[str, Callable[..., Any]] = {
    "getitem": lambda x, index: x[index],
    "setitem": _assigned,
    "clip": np.clip, "where": np.where,
    "concatenate": lambda *xs, axis: np.concatenate(xs, axis), "stack": lambda *xs, axis: np.stack(xs, axis),
    "einsum": lambda *xs, subscripts: np.einsum(subscripts, *xs), "dense": lambda x, weight: x @ weight.T,
    "norm": _norm,
    "dot": lambda x, y: np.dot(x, y) if np.ndim(x) and np.ndim(y) else np.multiply(x, y),  # BLAS has 0 * inf = 0
    "logsumexp": lambda x, axis, keepdims: special.logsumexp(x, axis=axis, keepdims=keepdims),
    "softmax": special.softmax, "log_softmax": special.log_softmax,
    "astype": lambda x, dtype: x.astype(dtype),
}  # fmt: skip


@st.composite
def others(draw: Any, dtypes: list[str] = ANY, names: list[str] = OTHERS, ordinary: bool = False) -> Call:
    name = draw(st.sampled_from(names))
    ordinary = ordinary or name in _SUMS
    attrs = {k: draw(strategy) for k, strategy in ATTRIBUTES[name].items()}
    shape = draw(st.sampled_from(SHAPES))
    args = [draw(arrays(shape, dtypes, ordinary))]
    for _ in range(1, _OPERANDS.get(name, 1)):
        args.append(draw(arrays(draw(st.sampled_from([shape, *SHAPES])), dtypes, ordinary)))
    return Call(name, tuple(args), attrs)


# --- programs ---------------------------------------------------------------------------------------------------

_UNARY = [name for name in POINTWISE if len(registry[name].inputs) == 1 and registry[name].differentiable]
_BINARY = ["add", "subtract", "multiply", "divide", "maximum", "minimum", "hypot", "power", "atan2"]
LANES = 4


class Program(NamedTuple):
    """Statements on vectors of independent lanes, each made from those before; the last is the result.

    A statement ("branch", mask, ops, i, j) takes what the ops make of vector i in the lanes of its mask, else vector j;
    "write" and "assign" do the same in place.
    """

    statements: list[tuple[Any, ...]]

    def __call__(self, x: Any, lanes: Array, clean: bool = False) -> Any:
        """Run for those of the lanes. If `clean`, what a branch computes in vain it computes of harmless numbers."""
        found = [x]
        for kind, *rest in self.statements:
            match kind:
                case "call":
                    name, *operands = rest
                    found.append(functions[name](*[found[i] for i in operands]))
                case _:
                    mask, ops, i, j = rest
                    taken = np.array(mask)[lanes]
                    v = ag.where(taken, found[i], 0.7) if clean else found[i]
                    for name in ops:
                        v = functions[name](v)
                    if kind == "branch":
                        found.append(ag.where(taken, v, found[j]))
                    elif kind == "write":
                        whole = ag.positive(v)
                        whole[~taken] = found[j][~taken]
                        found.append(whole)
                    else:
                        whole = ag.positive(found[j])
                        whole[taken] = v[taken]
                        found.append(whole)
        return found[-1]


@st.composite
def programs(draw: Any) -> Program:
    statements: list[tuple[Any, ...]] = []
    for n in range(1, draw(st.integers(2, 7))):
        before = st.integers(0, n - 1)
        kind = draw(st.sampled_from(["branch", "call", "write", "assign", "call"]))
        if kind == "call":
            name = draw(st.sampled_from(_UNARY + _BINARY * 3))
            statements.append(("call", name, *[draw(before) for _ in registry[name].inputs]))
        else:
            mask = draw(st.lists(st.booleans(), min_size=LANES, max_size=LANES))
            ops = draw(st.lists(st.sampled_from(_UNARY), min_size=1, max_size=3))
            statements.append((kind, mask, ops, draw(before), draw(before)))
    return Program(statements)
