"""Functions of functions: gradients, Jacobians, products with them; any order, by calling them on each other.

Arguments and results may be numbers, arrays, tensors, or nested lists, tuples and dicts of them. Derivatives are
taken with respect to fresh variables, so nothing outside is written to, and nested calls never mix up theirs.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

from .backward import Accumulate, Local, Write, added, events, fit, seed_of
from .cuda.array import DeviceArray
from .declare import pointwise
from .memory import afford
from .op import Op, Rule, Rules, apply, functions
from .tape import (
    ACTIVE,
    CONSTANT,
    TRACING,
    WATCHING,
    Entry,
    enable_grad,
    leaf,
    mode,
    next_number,
    recording,
    set_grad_enabled,
    tape,
    tracer,
    watcher,
)
from .tensor import Tensor, constant, entry_of, tensor, wrap
from .tree import fill, leaves, leaves_like, map_leaves, paths
from .value import Value, as_value, strong

Function = Callable[..., Any]

_variable = pointwise(
    "variable(x) = x", x="1", reference="x", method=False, doc="The independent variable of a function transform."
)


def _watch(argument: Any, name: str) -> Any:
    """The argument with its leaves replaced by variables that record; errors begin with its `name`."""
    done = 0

    def watch(x: Any) -> Tensor:
        nonlocal done
        done += 1
        if isinstance(x, Tensor) and x.requires_grad:
            return _variable(x)
        try:
            v = tensor(x, requires_grad=True)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{next(islice(paths(argument, name), done - 1, None))}: {error}") from None
        entry = entry_of(v)  # no leaf: writing into it is recorded, and nobody outside depends on it
        source = tracer().defined.pop(entry, None) if mode() & TRACING else None  # none for a Python number
        if source is None:
            source = leaf(v._value, CONSTANT)
            entry.number = next_number()  # after what it is computed from
        entry.op, entry.inputs = _variable.op, (source,)  # type: ignore[attr-defined]
        return v

    return map_leaves(watch, argument)


def _seeds(outputs: Sequence[Tensor], given: Sequence[Any], names: Iterable[str]) -> list[Value]:
    """Cotangents or tangents of these tensors, checked; errors begin with the name of the one at fault."""
    found = []
    for t, u, name in zip(outputs, given, names, strict=True):
        try:
            found.append(seed_of(t, u))
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name}: {str(error).removeprefix('backward: ')}") from None
    return found


def _zeros(t: Tensor | Entry) -> Tensor:
    value = t._value if isinstance(t, Tensor) else t.value
    where = "cuda" if type(value) is DeviceArray else "cpu"
    return constant(wrap(as_value(np.zeros(t.shape, t.dtype))).to(where)._value)


def _tensor_out(name: str, out: Any) -> Tensor:
    if not isinstance(out, Tensor):
        raise TypeError(f"{name}: the function must return a tensor, it returned {type(out).__name__}")
    return out


def _reaches_outside(order: Iterable[Entry], variables: set[Entry], since: int) -> bool:
    """Whether a tape depends on anything that requires a gradient besides these variables."""
    return any(
        (e.op is None and e not in variables)
        or any(type(i) is Entry and i.state > 0 and i.number < since for i in e.inputs)
        for e in order
    )


def _recorded(outer: bool, order: Iterable[Entry], variables: set[Entry], since: int) -> bool:
    """Whether a derivative is itself to be recorded: for a derivative further out, or by a tracer."""
    return bool(mode() & TRACING) or (outer and _reaches_outside(order, variables, since))


def pulled(
    out: Tensor,
    seed: Any,
    variables: Sequence[Entry],
    since: int,
    outer: bool,
    retain: bool = False,
    traced: bool = False,
) -> tuple[list[Tensor], bool]:
    """Cotangents of `variables`, and whether they are part of an outer tape (and so recorded)."""
    entry = out._entry
    if entry is None or entry.state <= CONSTANT or entry.number < since:
        return [_zeros(v) for v in variables], out.requires_grad
    again = traced or (outer and _reaches_outside(tape(entry, since)[1], set(variables), since))
    if not traced and (again or mode() & TRACING):
        seed, traced = [constant(s) for s in seed] if isinstance(seed, list) else constant(seed), True
    with set_grad_enabled(again):
        passed = events(entry, seed, retain=retain or traced, traced=traced, since=since, quiet=True)
        found = {end: cotangent for _, end, cotangent in passed}
    cotangents = [found.get(e) for e in variables]
    return [
        _zeros(v) if c is None else c if isinstance(c, Tensor) else wrap(c)
        for v, c in zip(variables, cotangents, strict=True)
    ], traced


def _detached(x: Any) -> Any:
    return x.detach() if isinstance(x, Tensor) else x


def value_and_grad(fn: Function, argnums: int | Sequence[int] = 0, has_aux: bool = False) -> Function:
    """A function that returns (fn(*args), its gradient with respect to the arguments `argnums`).

    `fn` returns one number (with `has_aux`, a pair of that and anything). The gradient has the nesting, shapes
    and dtypes of the argument; it is a tuple of such for several `argnums`. Raises TypeError for arguments that
    are not floating point, ValueError for a result that is not one number.
    """
    single = isinstance(argnums, int | np.integer)
    positions = (int(argnums),) if single else tuple(argnums)  # type: ignore[arg-type]

    @functools.wraps(fn)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if max(positions) >= len(args):
            raise TypeError(f"grad: argument number {max(positions)} is asked for, {len(args)} positional are given")
        outer, since, watched = recording(), next_number(), list(args)
        with enable_grad():
            for n in positions:
                watched[n] = _watch(args[n], f"grad: argument {n}")
            variables = [entry_of(v) for v in leaves([watched[n] for n in positions])]
            result = fn(*watched, **kwargs)
        value, aux = result if has_aux else (result, None)
        value = _tensor_out("grad", value)
        if value.size != 1:
            raise ValueError(
                f"grad: the function must return one number, it returned shape {value.shape}; see jacobian"
            )
        found, traced = pulled(value, seed_of(value, None), variables, since, outer)
        values = iter(found)
        gradients = tuple(fill(watched[n], values) for n in positions)
        gradient = gradients[0] if single else gradients
        if not traced:
            value, aux = value.detach(), map_leaves(_detached, aux)
        return ((value, aux), gradient) if has_aux else (value, gradient)

    return wrapped


def grad(fn: Function, argnums: int | Sequence[int] = 0) -> Function:
    """A function that returns the gradient of `fn`; see `value_and_grad`. `grad(grad(f))` is the second derivative."""
    both = value_and_grad(fn, argnums)

    @functools.wraps(fn)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return both(*args, **kwargs)[1]

    return wrapped


def joined(outputs: Sequence[Tensor]) -> Tensor:
    """Several outputs as one: its cotangent is the list of theirs."""
    if not outputs:
        return tensor(0.0)

    def rule(k: int) -> Rule:
        def take(g: Any, entry: Entry) -> Any:
            return g[k]

        return Rule(take, take, take, frozenset())

    entry = leaf(0.0, ACTIVE)
    entry.op = Op(
        name="results", family="custom", inputs=("results",), attrs={}, forward=list, rules=Rules(rule), variadic=True
    )
    entry.inputs = tuple([entry_of(t) for t in outputs])
    return wrap(0.0, entry)


def vjp(fn: Function, *primals: Any) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
    """(fn(*primals), pull), where pull(cotangent) gives the vector-Jacobian product for each primal.

    `pull` takes a cotangent nested and shaped like the result, and may be called again. Raises ValueError where
    shapes differ, TypeError for what holds no numbers.
    """
    outer, since = recording(), next_number()
    with enable_grad():
        watched = _watch(primals, "vjp: primals")
        variables = [entry_of(v) for v in leaves(watched)]
        out = fn(*watched)
    outputs = [_tensor_out("vjp", t) for t in leaves(out)]

    def pull(cotangent: Any) -> tuple[Any, ...]:
        given = list(leaves_like(cotangent, out, f"vjp: the function has {len(outputs)} results; the cotangent"))
        seeds = _seeds(outputs, given, paths(out, "vjp: the cotangent"))
        live = [
            k for k, t in enumerate(outputs) if t._entry is not None and t.requires_grad and t._entry.number >= since
        ]
        traced = bool(mode() & TRACING) or (outer and any(isinstance(u, Tensor) and u.requires_grad for u in given))
        if traced:
            seeds = [
                u.astype(t.dtype) if isinstance(u, Tensor) else constant(s)
                for t, u, s in zip(outputs, given, seeds, strict=True)
            ]
        found, _ = pulled(
            joined([outputs[k] for k in live]), [seeds[k] for k in live], variables, since, outer, True, traced
        )
        return tuple(fill(watched, iter(found)))

    order = [e for t in outputs if t.requires_grad for e in tape(entry_of(t), since)[1]]
    if _recorded(outer, order, set(variables), since):
        return out, pull
    return map_leaves(lambda t: t.detach(), out), pull


def _push(entry: Entry, k: int, tangent: Any, traced: bool) -> Any:
    """The tangent that input k sends to the output.

    That of an op which is linear in the input is the op itself, of an elementwise one its rule, of any other the
    transpose of its rule, which is linear in the cotangent.
    """
    assert entry.op is not None
    if type(tangent) is DeviceArray:  # by ops on tensors, which run there
        with set_grad_enabled(False):
            return _push(entry, k, wrap(tangent), True)._value
    rule = entry.op.rules[k]
    assert rule is not None
    if entry.op.family in ("linear", "multilinear"):
        values: list[Any] = list(entry.inputs)
        values[k] = tangent
        if traced:
            return apply(entry.op, [wrap(v.value, v) if type(v) is Entry else v for v in values], entry.attrs)
        return entry.op.evaluate([strong(v.value if type(v) is Entry else v) for v in values], entry.attrs)
    if entry.op.family == "pointwise":
        pushed = rule.traced(tangent, entry) if traced else rule.raw(strong(tangent), entry)
        if rule.support is not None:  # an infinite tangent of a branch not taken does not count
            of_rule = rule.support.traced if traced else rule.support.raw
            chosen = functions["where"] if traced else np.where
            pushed = chosen(of_rule(tangent, entry) != 0, pushed, 0.0)
        if traced:
            return functions["broadcast_to"](pushed, entry.shape).astype(entry.dtype)
        return np.asarray(np.broadcast_to(pushed, entry.shape), entry.dtype)
    since = next_number()
    with enable_grad():
        where = tangent.device if isinstance(tangent, Tensor) else None
        cotangent = tensor(np.zeros(entry.shape, entry.dtype), requires_grad=True, device=where)
        there = rule.traced(cotangent, entry)
        there = there if isinstance(there, Tensor) else constant(as_value(np.asarray(there)))
        source = entry.inputs[k]
        assert type(source) is Entry
        there = fit(there, entry, k, source)
        seed = tangent._value if isinstance(tangent, Tensor) else tangent
        if traced:
            back = functions["sum"](there * tangent)
            one = 1.0 if back.device == "cpu" else tensor(1.0, dtype=back.dtype, device=back.device)._value
            (result,), _ = pulled(back, one, [entry_of(cotangent)], since, True)
            return result
        (result,), _ = pulled(there, seed, [entry_of(cotangent)], since, False)
    return result._value


def _pushes(
    order: Iterable[Entry], known: dict[Entry, Any], ends: Iterable[Entry], traced: bool
) -> Iterator[tuple[Any, ...]]:
    """Complete the `known` tangents by those of the entries in `order`, telling what happens as `events` does.

    What arrives at `ends` is told last.
    """
    variables = set(known)
    for entry in order:
        if entry in variables or entry.op is None:
            continue
        for k, source in enumerate(entry.inputs):
            if type(source) is not Entry or source not in known or not entry.op.rules[k]:
                continue
            pushed = _push(entry, k, known[source], traced)
            yield Local, entry, k, known[source], pushed
            before = known.get(entry)
            known[entry] = pushed if before is None else added(before, pushed)
            if before is not None:
                yield Accumulate, entry, pushed, known[entry]
    for entry in ends:
        if entry in known:
            yield Write, entry, known[entry]


def jvp(fn: Function, primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    """(fn(*primals), its derivative along `tangents`): forward mode, one pass for one direction.

    `tangents` is nested and shaped like `primals`. Raises ValueError where it is not, TypeError where it holds no
    numbers.
    """
    outer, since = recording(), next_number()
    with enable_grad():
        watched = _watch(tuple(primals), "jvp: primals")
        variables = [entry_of(v) for v in leaves(watched)]
        originals = [wrap(v._value, v._entry) for v in leaves(watched)]
        out = fn(*watched)
    given = list(leaves_like(tuple(tangents), watched, f"jvp: there are {len(variables)} primals; their tangents"))
    outputs = [_tensor_out("jvp", t) for t in leaves(out)]
    order = sorted({e for t in outputs if t.requires_grad for e in tape(entry_of(t), since)[1]}, key=lambda e: e.number)
    traced = _recorded(outer, order, set(variables), since) or (
        outer and any(isinstance(t, Tensor) and t.requires_grad for t in given)
    )
    known: dict[Entry, Any] = {}
    values = _seeds(originals, given, paths(watched, "jvp: tangents"))
    for v, t, value in zip(originals, given, values, strict=True):
        known[entry_of(v)] = (t.astype(v.dtype) if isinstance(t, Tensor) else constant(value)) if traced else value
    steps = _pushes(order, known, [t._entry for t in outputs if t._entry is not None], traced)
    with enable_grad():
        deque(watcher().passed(steps, forward=True) if mode() & WATCHING else steps, 0)
    tangent_out = []
    for t in outputs:
        pushed = known.get(t._entry) if t._entry is not None else None
        found = _zeros(t) if pushed is None else pushed if isinstance(pushed, Tensor) else wrap(as_value(pushed))
        tangent_out.append(found)
    if not traced:
        out = map_leaves(lambda t: t.detach(), out)
    return out, fill(out, iter(tangent_out))


def jacobian(fn: Function, argnum: int = 0) -> Function:
    """A function that returns the Jacobian of `fn`, of shape result.shape + argument.shape, row by row in reverse.

    Raises TypeError for an argument or a result that is a list, tuple or dict.
    """

    @functools.wraps(fn)
    def wrapped(*args: Any, **kwargs: Any) -> Tensor:
        def of_one(x: Any) -> Any:
            given = list(args)
            given[argnum] = x
            return fn(*given, **kwargs)

        if isinstance(args[argnum], list | tuple | dict):
            raise TypeError(
                f"jacobian, hessian: argument {argnum} must be one tensor, array or number, not a "
                f"{type(args[argnum]).__name__}; join its parts in one array, or take one part at a time"
            )
        out, pull = vjp(of_one, args[argnum])
        out = _tensor_out("jacobian", out)
        if out.size == 0:
            return wrap(np.zeros((*out.shape, *np.shape(args[argnum])), out.dtype))
        afford("jacobian", (*out.shape, *np.shape(args[argnum])), out.dtype)
        rows = []
        for i in range(out.size):
            basis = np.zeros(out.size, out.dtype)
            basis[i] = 1.0
            rows.append(pull(basis.reshape(out.shape))[0])
        return functions["stack"](rows).reshape(*out.shape, *rows[0].shape)

    return wrapped


def hessian(fn: Function, argnum: int = 0) -> Function:
    """A function that returns the matrix of second derivatives of a scalar `fn`, shape argument.shape twice."""
    return jacobian(grad(fn, argnum), argnum)


def hvp(fn: Function, x: Any, v: Any) -> Any:
    """The Hessian of a scalar `fn` at `x` times `v`, nested like `x`, without forming the Hessian.

    Raises ValueError where `v` is not nested and shaped like `x`, TypeError where it holds no numbers.
    """
    given = list(leaves_like(v, x, "hvp: the vector"))

    def slope(x: Any) -> Tensor:
        along = tensor(0.0)
        gradient = list(leaves(grad(fn)(x)))
        _seeds(gradient, given, paths(x, "hvp: the vector"))
        for g, u in zip(gradient, given, strict=True):
            along = along + functions["sum"](g * (u.to(g.device) if isinstance(u, Tensor) else u))
        return along

    return grad(slope)(x)
