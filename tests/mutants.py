"""Mutation testing of the op declarations: an error is planted in each, one at a time; the derived tests must notice.

`python tests/mutants.py [OP ...]` plants all of them and prints those that survive.
"""

from __future__ import annotations
import __future__

import ast
import copy
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import CodeType, FunctionType
from typing import Any, NamedTuple

import numpy as np
import test_ops

from autograd_geo import expr
from autograd_geo.declare.by_formula import pointwise_rule
from autograd_geo.expr import Call, Node, Num
from autograd_geo.op import Op, Rule, Rules, functions, registry

#: The derived tests of a family; None: of every op.
TESTS: tuple[tuple[Callable[[Op], None], str | None], ...] = (
    (test_ops.test_gradient_first_and_second_order, None),
    (test_ops.test_gradient_at_awkward_points, "pointwise"),
    (test_ops.test_gradient_where_elements_tie, "custom"),
    (test_ops.test_forward_mode_is_the_transpose_of_reverse, None),
    (test_ops.test_float32_stays_float32, None),
    (test_ops.test_only_what_a_rule_needs_is_kept, None),
    (test_ops.test_shape_rule, None),
    (test_ops.test_what_leaves_elements_out_says_so, None),
    (test_ops.test_value, None),
)

#: What changes nothing, as patterns of the op and the error.
EQUIVALENT = {
    r"(sign|floor|ceil|rint) .*: 2·0$": "zero",
    r"(maximum|minimum) .*(1, 0\)\)$|!= ., (2|-1), 0\))": "of a NaN, which the value shows",
    r"asinh .*hypot\(x, -1\)|elu .*minimum\(x, 1\)": "the same function where it is taken",
    r"silu x: where\(x >= 0, 1, exp\((x\)|where\(x >= 1|where\(x >= 0, (0,|x - 0|0 \+ x|1 - x))": "of the other branch",
    r"silu x: .*exp\(0 - x\), 1\)": "of the other branch",
    r"sinc ": "below rounding, or the same power of -pi x",
    r"(broadcast_to|tile) .*np.reshape\(np.sum": "the reverse loop gives a cotangent its input's shape",
    r"True -> False$": "lengths that are equal are not checked to be, or the reverse loop gives the shape",
    r"_may_repeat: ": "as true as before; or it adds where it could write",
    r"_widths: np.asarray|np.float64\(_count|x != x\) \* 1.0 -> |_share: hit ": "the same numbers of another type",
    r"_share: 1.0 -> 2.0": "a factor that divides out",
    r"setitem .*(np.reshape\(part, shape\)|len\(shape\)|-1 -> 1)": "no elements, more axes of length one, or unread",
    r"prod .*0\.0": "of no elements",
    r"diff .*np.zeros\(shape": "of a difference of higher order than there are elements: test_properties",
    r"(std|norm) .*: 1.0 -> 2.0": "a divisor of zero",
    r"(std|norm) .*return np.expand_dims": "both a factor and a divisor have it",
    r"logsumexp .*_logsumexp_rule": "of infinities: test_gradient_of_logsumexp_of_infinities",
}


class Mutant(NamedTuple):
    """An error in the declaration of an op: `planted()` is a context in which the ops it gives have the error."""

    op: str
    what: str
    planted: Callable[[], Any]

    @property
    def equivalent(self) -> str | None:
        """Why the error is none, where it is known to be none."""
        return next((why for what, why in EQUIVALENT.items() if re.search(what, f"{self.op} {self.what}")), None)

    def survives(self) -> bool:
        """Whether every derived test of the op passes."""
        with self.planted() as ops, warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", RuntimeWarning)
            for op in ops:
                for test, family in TESTS:
                    if family not in (None, op.family):
                        continue
                    try:
                        test(op)
                    except Exception:
                        return False
        return True


# --- in expressions ---------------------------------------------------------------------------------------------

_CONTRARY = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "==": "!=", "!=": "=="}


def _altered(node: Node) -> Iterator[Node]:
    """The expression with an error at its root."""
    match node:
        case Num(value=v):
            yield Num(2 * v if v else 1.0)
            if v:
                yield Num(-v)
        case Call(fn="u-", args=(a,)):
            yield a
        case Call(fn="*", args=(a, b)):
            yield from (a, b)
        case Call(fn="/", args=(a, b)):
            yield from (a, Call("/", (b, a)))
        case Call(fn="+", args=(a, b)):
            yield from (a, b, Call("-", (a, b)))
        case Call(fn="-", args=(a, b)):
            yield from (a, Call("-", (b, a)), Call("+", (a, b)))
        case Call(fn="**", args=(a, b)):
            yield from (a, Call("**", (b, a)))
        case Call(fn="where", args=(c, a, b)):
            yield from (a, b, Call("where", (c, b, a)))
        case Call(fn=fn, args=args) if fn in _CONTRARY:
            yield Call(_CONTRARY[fn], args)


def altered(node: Node) -> Iterator[Node]:
    """The expression with one error, anywhere in it."""
    yield from (e for e in _altered(node) if e != node)
    if isinstance(node, Call):
        for k, arg in enumerate(node.args):
            for other in altered(arg):
                yield Call(node.fn, (*node.args[:k], other, *node.args[k + 1 :]))


def _partials(op: Op, k: int) -> Iterator[Node]:
    rule = op.rules[k]
    assert rule is not None and rule.partial is not None
    yield expr.negative(rule.partial)
    yield Call("*", (Num(2.0), rule.partial))
    yield from altered(rule.partial)
    if len(op.inputs) == 2:
        yield expr.rename(rule.partial, dict(zip(op.inputs, op.inputs[::-1], strict=True)))


def _with_rule(op: Op, k: int, rule: Rule) -> Op:
    if isinstance(op.rules, Rules):
        return replace(op, rules=Rules(lambda j, rules=op.rules: rule if j == k else rules[j]), _keeps={})
    return replace(op, rules=(*op.rules[:k], rule, *op.rules[k + 1 :]), _keeps={})


def _in_partial(op: Op, k: int, partial: Node) -> Callable[[], Any]:
    @contextmanager
    def planted() -> Iterator[tuple[Op, ...]]:
        d = expr.Declaration(op.name, op.inputs, dict(op.attrs), op.body)
        rule = pointwise_rule(d, k, expr.times(expr.Var("g"), partial))
        support = expr.support(partial)
        made = None if support == expr.ONE else pointwise_rule(d, k, support)
        yield (_with_rule(op, k, replace(rule, partial=partial, support=made)),)

    return planted


def of_pointwise(op: Op) -> Iterator[Mutant]:
    for k, x in enumerate(op.inputs):
        if (rule := op.rules[k]) is not None and rule.partial is not None:
            seen = {rule.partial}
            for partial in _partials(op, k):
                if partial not in seen:
                    seen.add(partial)
                    yield Mutant(op.name, f"{x}: {expr.label(partial)}", _in_partial(op, k, partial))


# --- in Python code ---------------------------------------------------------------------------------------------

_FLAGS = __future__.annotations.compiler_flag
_OPERATORS: dict[type, type] = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Div: ast.Mult}
_KEEP = {"int", "float", "len", "type", "isinstance", "tuple", "normalize_axis_index"}  # calls that change no number


def _substitutes(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand for a node by mistake: signs, factors, swapped operands, calls left out."""
    match node:
        case ast.BinOp(left=a, op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div() as op, right=b):
            if type(op) in _OPERATORS:
                yield ast.BinOp(a, _OPERATORS[type(op)](), b)
            yield from (a, b)
        case ast.UnaryOp(op=ast.USub(), operand=a):
            yield a
        case ast.Constant(value=bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(value=float() as value):
            yield ast.Constant(2 * value or 1.0)
        case ast.Call(func=ast.Attribute(attr="where"), args=[c, a, b]):
            yield ast.Call(node.func, [c, b, a], [])
        case ast.Call(func=function, args=[first, *_]) if ast.unparse(function) not in _KEEP:
            yield first
        case ast.Return(value=ast.expr() as value):
            yield ast.Return(ast.UnaryOp(ast.USub(), value))
            yield ast.Return(ast.BinOp(ast.Constant(2), ast.Mult(), value))
        case ast.Lambda(args=args, body=value):
            yield ast.Lambda(args, ast.UnaryOp(ast.USub(), value))
            yield ast.Lambda(args, ast.BinOp(ast.Constant(2), ast.Mult(), value))


class _Replace(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> Any:
        return self.new if node is self.old else self.generic_visit(node)


def _code(node: ast.AST, filename: str) -> CodeType:
    """The code of a function from its syntax tree."""
    body = ast.Expr(node) if isinstance(node, ast.Lambda) else node
    module = ast.fix_missing_locations(ast.Module([body], []))  # type: ignore[list-item]
    whole = compile(module, filename, "exec", flags=_FLAGS, dont_inherit=True)
    return next(c for c in whole.co_consts if isinstance(c, CodeType))


def _tree(function: FunctionType) -> ast.AST:
    """The syntax tree of a function."""
    code = function.__code__
    with open(code.co_filename) as file:
        tree = ast.parse(file.read())
    found = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.Lambda) and node.lineno == code.co_firstlineno
    ]
    for node in found:
        made = _code(node, code.co_filename)
        if (made.co_name, made.co_names, made.co_varnames) == (code.co_name, code.co_names, code.co_varnames):
            return node
    raise LookupError(f"no source of {function}")


def _written(function: FunctionType, seen: dict[str, FunctionType]) -> dict[str, FunctionType]:
    """A rule's function and the functions of its module that it is made of, by name."""
    if function.__qualname__ not in seen:
        seen[function.__qualname__] = function
        for name in function.__code__.co_names:
            used = function.__globals__.get(name)
            if (
                isinstance(used, FunctionType)
                and name.startswith("_")
                and used.__module__.startswith("autograd_geo.ops")
            ):
                _written(used, seen)
    return seen


def _in_code(ops: tuple[Op, ...], function: FunctionType, code: CodeType) -> Callable[[], Any]:
    @contextmanager
    def planted() -> Iterator[tuple[Op, ...]]:
        before, function.__code__ = function.__code__, code
        try:
            yield ops
        finally:
            function.__code__ = before

    return planted


def of_code(op: Op) -> Iterator[Mutant]:
    """Errors in the rules of a linear or custom op, written in NumPy."""
    ops = (op, registry[f"{op.name}.T"]) if op.family == "linear" else (op,)
    for k, x in enumerate(op.inputs):
        rule = op.rules[k]
        if rule is None:
            continue
        for name, function in _written(rule.raw.__globals__["_rule"], {}).items():
            tree = _tree(function)
            for at, node in enumerate(ast.walk(tree)):
                for which in range(len(list(_substitutes(node)))):
                    whole = copy.deepcopy(tree)
                    old = list(ast.walk(whole))[at]
                    new = list(_substitutes(old))[which]
                    text = f"{x}: {name}: {ast.unparse(old)[:70]} -> {ast.unparse(new)[:70]}"
                    code = _code(_Replace(old, new).visit(whole), function.__code__.co_filename)
                    yield Mutant(op.name, " ".join(text.split()), _in_code(ops, function, code))


# --- in products ------------------------------------------------------------------------------------------------


def of_multilinear(op: Op) -> Iterator[Mutant]:
    """Errors in the contraction that makes a cotangent."""
    changes: dict[str, Callable[[Any], Any]] = {
        "-": lambda c: -c, "2 *": lambda c: 2 * c, "0 *": lambda c: 0 * c, "flip of": lambda c: np.flip(c),
    }  # fmt: skip
    for k in range(max(len(s.args) for s in op.samples)) if op.variadic else range(len(op.inputs)):
        for what, change in changes.items():
            rule = op.rules[k]
            assert rule is not None

            def planted(k: int = k, rule: Rule = rule, change: Any = change) -> Any:
                @contextmanager
                def plant() -> Iterator[tuple[Op, ...]]:
                    made = replace(
                        rule,
                        raw=lambda g, entry: change(rule.raw(g, entry)),
                        scalar=lambda g, entry: change(rule.scalar(g, entry)),
                        traced=lambda g, entry: change(rule.traced(g, entry)),
                    )
                    yield (_with_rule(op, k, made),)

                return plant()

            yield Mutant(op.name, f"{k}: {what} contraction", planted)


_FAMILIES = {"pointwise": of_pointwise, "linear": of_code, "custom": of_code, "multilinear": of_multilinear}


def mutants(names: list[str] | None = None) -> Iterator[Mutant]:
    """Every error, in every built-in op or in these."""
    for name, op in list(registry.items()):
        built_in = functions[name].__module__.startswith("autograd_geo.ops")
        if built_in and op.transposes is None and not op.surrogate and (not names or name in names):
            yield from _FAMILIES[op.family](op)


def main() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))  # some recur without end
    count = 0
    for mutant in mutants(sys.argv[1:]):
        count += 1
        if mutant.survives():
            why = mutant.equivalent
            print(f"{mutant.op:18}{mutant.what}" + (f"  [{why}]" if why else ""), flush=True)
    print(f"{count} errors planted")


if __name__ == "__main__":
    main()
