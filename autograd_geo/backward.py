"""The reverse loop.

It exists once, as `events`, a generator that pauses at each thing it does: `backward` and the function
transforms drain it, a lesson steps through it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from math import prod
from operator import attrgetter
from sys import getrefcount
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy import add, float64, ndarray

from .cuda.array import DeviceArray, on_host
from .device import move
from .op import Rule, functions, registry
from .support import Support, doubts
from .tape import (
    CONSTANT,
    CONSUMED,
    TRACING,
    WATCHING,
    Entry,
    consume,
    describe,
    mode,
    recording,
    set_grad_enabled,
    tape,
    tracer,
    value_of,
    watcher,
)
from .tensor import Tensor, constant, entry_of, tensor, wrap
from .value import SCALAR, UNSHARED, Value, as_value, from_user, strong


class Seed(NamedTuple):
    """Where the pass starts: the output and its cotangent."""

    entry: Entry
    cotangent: Any


class Local(NamedTuple):
    """`entry`'s cotangent passed through its op; `contribution` is what arrived at input number `operand`."""

    entry: Entry
    operand: int
    cotangent: Any
    contribution: Any


class Accumulate(NamedTuple):
    """Paths meet: a further `contribution` reached `entry`, whose cotangent is now `total`."""

    entry: Entry
    contribution: Any
    total: Any


class Write(NamedTuple):
    """The pass ends here, at a leaf: its cotangent is complete."""

    entry: Entry
    cotangent: Any


Event: TypeAlias = Seed | Local | Accumulate | Write


def events(
    output: Entry, seed: Any, *, retain: bool = False, traced: bool = False, since: int = 0, again: bool = False,
    quiet: bool = False,
) -> Iterator[tuple[Any, ...]]:  # fmt: skip
    """The reverse pass from `output` with cotangent `seed`, one event at a time, as (kind, *fields).

    `kind(*fields)` is the event; most are never looked at, and making one costs more than what it reports. If
    `quiet`, for those who want the result only, just the `Write` events are told.

    Cotangents are raw values; tensors if `traced`, when the pass itself is to be recorded. Entries numbered
    below `since` are left alone. Unless `retain`, each entry is consumed once no pass needs it; `again` passes over
    consumed entries that are still complete, to look at them.

    A pass that ends in a NaN is made again with the supports of its cotangents: an infinite derivative of what the
    output does not depend on does not count. One that is differentiated again has them in any case.
    """
    if quiet and mode() & WATCHING:
        yield from watcher().passed(events(output, seed, retain=retain, traced=traced, since=since, again=again))
        return
    order, cotangents = tape(output, since, again)
    done = None if retain else _mark if traced else consume
    support, finished = None, False
    if any(map(_selects, order)):
        if traced and recording():
            support = Support(output, traced) if doubts(order) else None
        else:
            found, passed = dict(cotangents), list[Entry]()
            with np.errstate(divide="ignore", invalid="ignore"):  # of what may not count
                for _ in _loop(output, seed, order, found, traced, True, passed.append):
                    pass
            if _has_nan(found.values(), traced, order):
                on_device = DeviceArray in map(type, [seed, *found.values()]) or move in map(_op, order)
                support = Support(output, traced or on_device)
            elif quiet:
                finished, cotangents = True, found
                if done is not None:
                    deque(map(done, passed), 0)
    if not finished:
        yield from _loop(output, seed, order, cotangents, traced, quiet, done, support)
    for entry, g in cotangents.items():
        if g is not None:
            if type(g) is DeviceArray and type(entry.value) in (float, ndarray):  # a leaf on the host
                g = on_host(g)
            yield Write, entry, g


_op, _selects = attrgetter("op"), attrgetter("op.selects")


def _mark(entry: Entry) -> None:
    """Consumed, but all that it holds stays: a pass that was recorded refers to it."""
    entry.state = CONSUMED


def _loop(
    output: Entry, seed: Any, order: Iterable[Entry], cotangents: dict[Any, Any], traced: bool, quiet: bool,
    done: Callable[[Entry], None] | None, support: Support | None = None,
) -> Iterator[tuple[Any, ...]]:  # fmt: skip
    """Take the cotangents from `seed` to where they end, telling what happens; each entry passed is given to `done`."""
    cotangents[output] = seed
    if not quiet:
        yield Seed, output, seed
    for entry in order:
        g = cotangents.pop(entry)
        if g is None:
            continue
        end = True
        rules = entry.op.rules  # type: ignore[union-attr]
        source: Any  # an entry, or a literal number
        for k, source in enumerate(entry.inputs):
            if source not in cotangents:  # a number, a constant, or no part of this pass
                continue
            end = False
            rule = rules[k]
            if rule is None:
                continue
            if support is not None:
                c = support.contribution(rule, entry, k, g)
            elif type(g) is float:
                try:
                    c = rule.scalar(g, entry)
                except (ArithmeticError, ValueError):  # math raises where NumPy has an infinity or NaN
                    c = rule.raw(float64(g), entry)
            elif traced:
                c = rule.traced(g, entry)
            elif type(g) is DeviceArray:
                c = _on_device(rule, g, entry)
            else:
                c = rule.raw(g, entry)
            spec = source.spec
            if type(c) is float:
                if spec is not SCALAR:
                    c = fit(c, entry, k, source)
            elif type(c) is not ndarray or c.shape != spec[0] or c.dtype is not spec[1]:
                c = fit(c, entry, k, source)
            if not quiet:
                yield Local, entry, k, g, c
            before = cotangents[source]
            if before is None:
                cotangents[source] = c
            elif quiet and type(before) is ndarray and getrefcount(before) <= _ALONE and before.base is None:
                before += c  # an array that only the dict of cotangents holds
            else:
                total = added(before, c)
                if type(total) is not float and type(total) is not ndarray and not traced:
                    total = as_value(total)
                cotangents[source] = total
                if not quiet:
                    yield Accumulate, source, c, total
        if end:
            cotangents[entry] = g  # where the pass ends, as at the leaves that were never taken out
        elif done is not None:
            done(entry)


_ALONE = UNSHARED + 1


def added(x: Any, y: Any) -> Any:
    """The sum of two cotangents, where they are."""
    if type(x) is DeviceArray or type(y) is DeviceArray:
        return registry["add"].evaluate([strong(x), strong(y)], {})
    return x + y


def _on_device(rule: Rule, g: Any, entry: Entry) -> Value:
    """The same by ops on tensors, which run where their operands are."""
    with set_grad_enabled(False):
        return rule.traced(wrap(g), entry)._value


def _has_nan(ends: Collection[Any], traced: bool, order: Sequence[Entry]) -> bool:
    """Whether a pass over `order` ended in a NaN that supports may explain. A tracer notes the answer."""
    ends = [g for g in ends if g is not None]
    if traced and mode() & TRACING:
        return _may_have_nan(ends, order)
    return any(map(_is_nan, ends)) and bool(doubts(order))


def _may_have_nan(ends: Sequence[Any], order: Sequence[Entry]) -> bool:
    """The same by operations that are recorded. Products that are finite tell early that there is no NaN."""
    found = doubts(order)
    if not found:
        return False
    if found.elsewhere or sum(prod(e.shape) for e in found.products) > _EARLY * sum(prod(g.shape) for g in ends):
        count = tensor(0)
        for g in ends:
            count = count + functions["sum"](functions["isnan"](g))
        return bool(count > 0)
    zero = tensor(0.0)  # or NaN
    for entry in found.products:
        zero = zero + functions["sum"](wrap(value_of(entry), entry) * 0.0)
    return not bool(zero == 0)


#: Products with so many elements to each of a gradient are looked at instead: updates need not wait for them.
_EARLY = 4


def _is_nan(g: Any) -> bool:
    """Whether a cotangent has a NaN in it."""
    g = g._value if isinstance(g, Tensor) else g
    if type(g) is DeviceArray:
        return bool(functions["sum"](functions["isnan"](wrap(g))).numpy())
    if type(g) is ndarray:
        return bool(np.isnan(np.vdot(g, g)))  # squares: no infinities cancel
    return bool(g != g)


def fit(c: Any, entry: Entry, k: int, source: Entry) -> Any:
    """A contribution in its input's shape and dtype: what the op broadcast is summed."""
    shape, dtype = source.spec
    if type(c) is DeviceArray:
        if (c.shape, c.dtype) == (shape, dtype):
            return c
        with set_grad_enabled(False):
            return fit(wrap(c), entry, k, source)._value
    if type(c) is ndarray and c.dtype is dtype and c.shape[1:] == shape:
        return as_value(add.reduce(c))  # over the first axis: a bias, say
    c = c if isinstance(c, Tensor) else np.asarray(c)
    found = c.shape
    if found != shape:
        spread = len(found) - len(shape)
        axes = tuple([i for i, n in enumerate((1,) * spread + shape) if n == 1 and (i < spread or found[i] != 1)])
        c = c.sum(axis=axes, keepdims=True)
        if spread == 0 and entry.op.family == "multilinear":  # type: ignore[union-attr]
            c = np.broadcast_to(c, shape)  # an index of length one in the other operands
        if spread < 0 or c.shape[spread:] != shape:
            raise ValueError(
                f"the rule of op {entry.op.name!r} for input {k} returned shape {found} "  # type: ignore[union-attr]
                f"for an input of shape {shape}, at {describe(entry)}"
            )
        c = c.reshape(shape)
    if c.dtype != dtype:
        c = c.astype(dtype)
    return c if isinstance(c, Tensor) else as_value(c)


def backward(
    output: Tensor, gradient: Any = None, *, retain_graph: bool | None = None, create_graph: bool = False
) -> None:
    """Add the derivative of `output` to `.grad` of every leaf it depends on.

    Args:
        output: a tensor of one element; of any shape if `gradient` is given.
        gradient: the cotangent of `output`, of its shape; default 1.
        retain_graph: keep the tape for another pass (default: as `create_graph`). Otherwise it is consumed.
        create_graph: record the pass itself, so that gradients can be differentiated again.

    Raises RuntimeError where nothing was recorded or the tape is consumed, ValueError where `gradient` is
    missing or has the wrong shape. After an error no `.grad` has changed.
    """
    entry = output._entry
    if entry is None or entry.state <= CONSTANT:
        raise RuntimeError(
            "backward: this tensor depends on nothing that requires a gradient. Make its inputs with "
            "ag.tensor(..., requires_grad=True), and compute it outside ag.no_grad() and without .detach()"
        )
    seed = 1.0 if gradient is None and type(output._value) is float else seed_of(output, gradient)
    retain = create_graph if retain_graph is None else retain_graph
    tracing = bool(mode() & TRACING)
    if not (create_graph or tracing):
        for _, leaf, g in events(entry, seed, retain=retain, quiet=True):
            leaf = leaf.root or leaf
            if leaf.grad is not None:
                g = as_value(added(leaf.grad._value, g))
            leaf.grad = total = Tensor()
            total._value, total._entry = g, None
        return
    given = gradient.to(output.device).astype(output.dtype) if isinstance(gradient, Tensor) else None
    seed = constant(seed) if given is None else given
    with set_grad_enabled(create_graph):
        for _, leaf, g in events(entry, seed, retain=retain, traced=True, quiet=True):
            before = tracer().gradient(leaf) if tracing else (leaf.root or leaf).grad
            (leaf.root or leaf).grad = g if before is None else before + g


Tensor.backward = backward


def seed_of(output: Tensor, gradient: Any) -> Value:
    """The cotangent a pass starts with, checked, where the output is. Raises ValueError, TypeError."""
    seed = _checked_seed(output, gradient)
    return wrap(seed).to("cuda")._value if type(output._value) is DeviceArray else seed


def _checked_seed(output: Tensor, gradient: Any) -> Value:
    shape, dtype = output.shape, output.dtype
    if gradient is None:
        if output.size != 1:
            raise ValueError(
                f"backward: {describe(entry_of(output))} is no single number, so there is no one gradient. "
                f"Reduce it, as in .sum() or .mean(), or pass a gradient of shape {shape}"
            )
        return as_value(np.ones(shape, dtype))
    value = on_host(gradient._value) if isinstance(gradient, Tensor) else from_user(gradient)
    found = np.shape(value)
    if found != shape:
        raise ValueError(f"backward: the gradient has shape {found}, the tensor {shape}; they must be equal")
    if not np.can_cast(np.asarray(value).dtype, dtype, "same_kind"):
        raise TypeError(
            f"backward: a gradient of dtype {np.asarray(value).dtype} does not fit a tensor of dtype {dtype}"
        )
    return value if type(value) is float and type(output._value) is float else as_value(np.asarray(value, dtype))


__all__ = ["Accumulate", "Event", "Local", "Seed", "Write", "backward", "events", "fit", "seed_of"]
