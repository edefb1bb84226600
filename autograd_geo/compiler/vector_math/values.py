"""Values of LLVM's intermediate language that are written like numbers, and `elementary`, which makes Numba functions.

A function here is Python that runs while a kernel is compiled: `x * y + 1` on a `Value` appends a multiplication and an
addition to the kernel. So one body serves both float types, nothing is type-inferred or inlined afterwards (a
`@njit` function costs ten times as long to compile), and the loop around it stays one block that LLVM vectorises.

Additions and products carry the flag `afn`, which means nothing for them but keeps Numba from adding the kernel's own
fast-math flags. They are rounded as written, which the error-free transformations below rely on; where one rounding is
wanted `fma` says so.
"""

from __future__ import annotations

import functools
import inspect
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import numba
from llvmlite import ir
from numba.core.typing.templates import ConcreteTemplate, infer, infer_global, signature
from numba.extending import lower_builtin

DOUBLE, SINGLE = ir.DoubleType(), ir.FloatType()
AS_WRITTEN = ("afn",)


class Layout(NamedTuple):
    """How a float type keeps its bits."""

    integer: ir.IntType
    fraction: int  # bits of the fraction
    bias: int
    suffix: str


LAYOUT = {
    DOUBLE: Layout(ir.IntType(64), 52, 1023, "f64"),
    SINGLE: Layout(ir.IntType(32), 23, 127, "f32"),
}


class By(NamedTuple):
    """A constant, or a tuple of them, that differs between the float types."""

    double: Any
    single: Any

    def __neg__(self) -> By:
        return By(-self.double, -self.single)


class Value:
    """A float, an integer or a truth value in the kernel being built. Constants become its type."""

    __slots__ = ("build", "of")

    def __init__(self, build: ir.IRBuilder, of: ir.Value) -> None:
        self.build, self.of = build, of

    @property
    def layout(self) -> Layout:
        return LAYOUT[self.of.type]

    def pick(self, constant: Any) -> Any:
        """What `constant` is for this float type."""
        if isinstance(constant, By):
            return constant.double if self.of.type == DOUBLE else constant.single
        return constant

    def like(self, other: Any) -> Value:
        """`other`, a value or a Python constant, as a value of this type."""
        if isinstance(other, Value):
            return other
        other = self.pick(other)
        if self.of.type == SINGLE:
            other = as_single(other)
        return Value(self.build, ir.Constant(self.of.type, other))

    def _emit(self, opcode: str, left: Any, right: Any) -> Value:
        left, right = self.like(left).of, self.like(right).of
        if left.type in LAYOUT:
            return Value(self.build, getattr(self.build, "f" + opcode)(left, right, flags=AS_WRITTEN))
        return Value(self.build, getattr(self.build, opcode)(left, right))

    def __add__(self, other: Any) -> Value:
        return self._emit("add", self, other)

    def __radd__(self, other: Any) -> Value:
        return self._emit("add", other, self)

    def __sub__(self, other: Any) -> Value:
        return self._emit("sub", self, other)

    def __rsub__(self, other: Any) -> Value:
        return self._emit("sub", other, self)

    def __mul__(self, other: Any) -> Value:
        return self._emit("mul", self, other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Value:
        return self._emit("div", self, other)

    def __rtruediv__(self, other: Any) -> Value:
        return self._emit("div", other, self)

    def __neg__(self) -> Value:
        return Value(self.build, self.build.fneg(self.of) if self.of.type in LAYOUT else self.build.neg(self.of))

    def __and__(self, other: Any) -> Value:
        return self._emit("and_", self, other)

    def __or__(self, other: Any) -> Value:
        return self._emit("or_", self, other)

    def __xor__(self, other: Any) -> Value:
        return self._emit("xor", self, other)

    def __invert__(self) -> Value:
        return Value(self.build, self.build.not_(self.of))

    def __lshift__(self, count: int) -> Value:
        return self._emit("shl", self, count)

    def __rshift__(self, count: int) -> Value:
        """The bits shifted right, zeros shifted in: AVX2 has no other shift for 64 bits."""
        return self._emit("lshr", self, count)

    def _compare(self, operator: str, other: Any) -> Value:
        left, right = self.of, self.like(other).of
        if left.type not in LAYOUT:
            return Value(self.build, self.build.icmp_signed(operator, left, right))
        compare = self.build.fcmp_unordered if operator == "!=" else self.build.fcmp_ordered
        return Value(self.build, compare(operator, left, right, flags=AS_WRITTEN))

    def __lt__(self, other: Any) -> Value:
        return self._compare("<", other)

    def __le__(self, other: Any) -> Value:
        return self._compare("<=", other)

    def __gt__(self, other: Any) -> Value:
        return self._compare(">", other)

    def __ge__(self, other: Any) -> Value:
        return self._compare(">=", other)

    def __eq__(self, other: Any) -> Value:  # type: ignore[override]
        return self._compare("==", other)

    def __ne__(self, other: Any) -> Value:  # type: ignore[override]
        return self._compare("!=", other)

    __hash__ = None  # type: ignore[assignment]


def as_single(number: float) -> float:
    """`number` rounded to float32."""
    return float(struct.unpack("f", struct.pack("f", number))[0])


def intrinsic(name: str, *operands: Value) -> Value:
    """LLVM's own `name`, an instruction of the processor."""
    build, kind = operands[0].build, operands[0].of.type
    function = declare(build, f"llvm.{name}.{LAYOUT[kind].suffix}", kind, len(operands))
    return Value(build, build.call(function, [operand.of for operand in operands]))


def declare(build: ir.IRBuilder, name: str, kind: ir.Type, arity: int) -> ir.Function:
    """The function `name` of `arity` arguments of one type, declared once in the module being built."""
    known = build.module.globals.get(name)
    return known or ir.Function(build.module, ir.FunctionType(kind, [kind] * arity), name)


def fma(a: Value, b: Any, c: Any) -> Value:
    """a * b + c, rounded once."""
    return intrinsic("fma", a, a.like(b), a.like(c))


def where(condition: Value, yes: Any, no: Any) -> Value:
    """`yes` where the condition holds, else `no`; at least one of them is a value. Both are computed."""
    kind = yes if isinstance(yes, Value) else no
    return Value(condition.build, condition.build.select(condition.of, kind.like(yes).of, kind.like(no).of))


def absolute(x: Value) -> Value:
    return intrinsic("fabs", x)


def with_sign(x: Value, sign: Value) -> Value:
    """The magnitude of `x` with the sign of `sign`."""
    return intrinsic("copysign", x, sign)


def flip(x: Value, sign: Value) -> Value:
    """`x` with its sign changed where `sign` has a minus: x times the sign of `sign`."""
    negative = sign.build.and_(bits(sign).of, ir.Constant(x.layout.integer, -1 << (x.layout.integer.width - 1)))
    return from_bits(Value(x.build, x.build.xor(bits(x).of, negative)))


def bits(x: Value) -> Value:
    """The bits of a float as an integer of its width."""
    return Value(x.build, x.build.bitcast(x.of, x.layout.integer))


def from_bits(i: Value) -> Value:
    """The float with these bits."""
    return Value(i.build, i.build.bitcast(i.of, DOUBLE if i.of.type.width == 64 else SINGLE))


def widen(x: Value) -> Value:
    """`x` as float64."""
    return x if x.of.type == DOUBLE else Value(x.build, x.build.fpext(x.of, DOUBLE))


def narrow(x: Value, kind: ir.Type) -> Value:
    """A float64 rounded to the float type `kind`."""
    return x if kind == DOUBLE else Value(x.build, x.build.fptrunc(x.of, kind))


def poly(x: Value, coefficients: By | tuple[float, ...]) -> Value:
    """c[0] + c[1] x + c[2] x² + ... by Horner's rule: the fewest instructions, and loops overlap their latency."""
    *rest, last = x.pick(coefficients)
    total = x.like(last)
    for c in reversed(rest):
        total = fma(total, x, c)
    return total


# A float of 1.5 * 2**52 (2**23) counts whole numbers in its last bits: adding it rounds to the nearest integer, and its
# bits are that integer. No conversion instruction is needed (AVX2 has none to int64), and NaN is harmless.
COUNTER = By(1.5 * 2.0**52, 1.5 * 2.0**23)


def nearest(x: Value, factor: Any = 1.0) -> tuple[Value, Value]:
    """The integer nearest to x * factor, as a float and as an integer plus a multiple of 2**51 (2**22)."""
    counted = x + COUNTER if factor == 1.0 else fma(x, factor, COUNTER)
    return counted - COUNTER, bits(counted)


def to_float(i: Value, x: Value) -> Value:
    """The integer `i`, below 2**51 (2**22) in size, as a float of the type of `x`."""
    counter = x.like(COUNTER)
    return from_bits(bits(counter) + i) - counter


def scale(x: Value, k: Value) -> Value:
    """x * 2**k for k from `nearest`, |k| < 2 bias: in two factors, so that a subnormal result is rounded once."""
    layout = x.layout
    # COUNTER has zeros in its last bits: an offset makes k positive, so that the logical shift halves it
    offset = 4 * layout.bias + 4
    half = ((k + offset) & (8 * layout.bias + 7)) >> 1
    rest = k + offset - half
    bias = offset // 2 - layout.bias
    return x * from_bits((half - bias) << layout.fraction) * from_bits((rest - bias) << layout.fraction)


def power_of_two(k: Value, x: Value) -> Value:
    """2**k for k from `nearest` within the normal exponents of the type of `x`."""
    return from_bits((k + x.layout.bias) << x.layout.fraction)


def fast_two_sum(a: Value, b: Value) -> tuple[Value, Value]:
    """a + b and its rounding error, for |a| >= |b| or a = 0 (Dekker 1971)."""
    total = a + b
    return total, b - (total - a)


def two_sum(a: Value, b: Value) -> tuple[Value, Value]:
    """a + b and its rounding error (Knuth)."""
    total = a + b
    b_part = total - a
    return total, (a - (total - b_part)) + (b - b_part)


def two_product(a: Value, b: Any) -> tuple[Value, Value]:
    """a * b and its rounding error."""
    product = a * b
    return product, fma(a, b, -product)


def clamp(x: Value, bounds: By | tuple[float, float]) -> Value:
    """`x` within (low, high); NaN stays."""
    low, high = x.pick(bounds)
    x = where(x < low, low, x)
    return where(x > high, high, x)


def rescue(y: Value, size: Value, bound: By, name: str, *arguments: Value) -> Value:
    """`y`, but the C library's `name(*arguments)`, computed in float64, where `size` >= `bound`, which is rare.

    A branch in the loop would keep LLVM from vectorising it. It may call a function that has versions for vectors,
    though: those are defined here, test all lanes at once, and turn aside only if one lane has to.
    """
    build, kind = y.build, y.of.type
    operands = [y, size, *arguments]
    scalar = f"autograd_geo_rescue_{name}_{y.layout.suffix}"
    versions = {lanes: f"{scalar}_{lanes}" for lanes in ((2, 4, 8) if kind == DOUBLE else (4, 8, 16))}
    if scalar not in build.module.globals:
        _define_rescue(build.module, scalar, kind, 1, len(operands), limit := y.pick(bound), name)
        for lanes, version in versions.items():
            _define_rescue(build.module, version, kind, lanes, len(operands), limit, name)
    call = build.call(
        build.module.globals[scalar], [operand.of for operand in operands], attrs=("readnone", "nounwind")
    )
    # LLVM's naming of vector variants, all arguments vectors; llvmlite's own `add` knows no attributes with values
    mangled = ",".join(f"_ZGV_LLVM_N{n}{'v' * len(operands)}_{scalar}({versions[n]})" for n in versions)
    set.add(call.attributes, f'"vector-function-abi-variant"="{mangled}"')
    return Value(build, call)


def _define_rescue(
    module: ir.Module, name: str, kind: ir.Type, lanes: int, arity: int, bound: float, slow: str
) -> ir.Function:
    """What `rescue` calls, for vectors of so many lanes or, for 1, for a scalar."""
    whole = kind if lanes == 1 else ir.VectorType(kind, lanes)
    function = ir.Function(module, ir.FunctionType(whole, [whole] * arity), name)
    function.linkage = (
        "weak_odr"  # may be defined in many modules, and stays though nothing calls it until the loop is vectorised
    )
    for attribute in ("readnone", "nounwind", "noinline"):
        function.attributes.add(attribute)
    build = ir.IRBuilder(function.append_basic_block())
    y, size, *arguments = function.args
    limit = ir.Constant(kind, bound)
    large = build.fcmp_ordered(">=", size, limit if lanes == 1 else ir.Constant(whole, [limit] * lanes))
    if lanes > 1:
        mask = ir.IntType(lanes)
        large = build.icmp_unsigned("!=", build.bitcast(large, mask), ir.Constant(mask, 0))
    with build.if_then(large, likely=False):
        if lanes == 1:
            library = declare(build, slow, DOUBLE, len(arguments))
            exact = build.call(library, [widen(Value(build, a)).of for a in arguments])
            build.ret(narrow(Value(build, exact), kind).of)
        else:
            one = module.globals[name.rpartition("_")[0]]
            result = y
            for i in range(lanes):
                lane = ir.Constant(ir.IntType(32), i)
                element = build.call(one, [build.extract_element(a, lane) for a in function.args])
                result = build.insert_element(result, element, lane)
            build.ret(result)
    build.ret(y)
    return function


def elementary(body: Callable[..., Value]) -> Callable[..., Any]:
    """A function for jitted code from its `body`, for arguments all float64 or all float32 (mixed ones are promoted).

    Called with `Value`s, in the body of another function, it is the body; called from Python it is compiled.
    """

    @functools.wraps(body)
    def function(*arguments: Any) -> Any:
        return body(*arguments) if isinstance(arguments[0], Value) else compiled(function)(*arguments)

    arity = len(inspect.signature(body).parameters)
    cases = [signature(kind, *[kind] * arity) for kind in (numba.float32, numba.float64)]  # type: ignore[no-untyped-call]
    template = type(body.__name__, (ConcreteTemplate,), {"key": function, "cases": cases})
    infer(template)  # type: ignore[no-untyped-call]
    infer_global(function, numba.types.Function(template))  # type: ignore[no-untyped-call]

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, values: list[ir.Value]) -> ir.Value:
        return body(*(Value(builder, value) for value in values)).of

    for case in cases:
        lower_builtin(function, *case.args)(lower)  # type: ignore[no-untyped-call]
    return function


@functools.cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` as one that Python can call."""
    names = ", ".join(inspect.signature(function).parameters)
    scope: dict[str, Any] = {"function": function}
    exec(f"def call({names}): return function({names})", scope)
    return numba.njit(error_model="numpy")(scope["call"])
