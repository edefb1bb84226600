"""Elementwise ops: one formula and its partial derivatives each. `z` is the output."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..declare import pointwise
from ..op import composite
from ..tensor import Tensor
from ..value import unmasked

_positive = (0.1, 3.0)
_unit = (-0.9, 0.9)

# --- arithmetic -----------------------------------------------------------------------------------------------
add = pointwise("add(x, y) = x + y", x="1", y="1", symbol="+")
subtract = pointwise("subtract(x, y) = x - y", x="1", y="-1", symbol="−")
multiply = pointwise("multiply(x, y) = x * y", x="y", y="x", symbol="×")
divide = pointwise("divide(x, y) = x / y", x="1 / y", y="-z / y", symbol="÷", domain={"x": (-2, 2), "y": (0.5, 2)})
_BASE = "where(y == 0, where(abs(x) <= 3e-39, 1, x), x)"  # x, but for x**0 where x**-1 may be infinite
power = pointwise(
    "power(x, y) = x ** y",
    # Above 2**53 y - 1 is rounded to an even number, and the power is odd all the same.
    x=f"where(y - (y - 1) != 1, where(x < 0, 0 - y, y), y) * {_BASE} ** (y - 1)",
    y="z * log(where(x == 0, 1, x))",  # 0 at 0 ** y; NaN at a negative base, where there is no derivative
    symbol="^",
    domain={"x": _positive, "y": (-2, 2)},
)
remainder = pointwise(
    "remainder(x, y)", x="1", y="-rint((x - z) / y)", symbol="%",  # x / y may round up to the next integer
    domain={"x": (1.1, 1.9), "y": (0.7, 0.9)},
)  # fmt: skip
negative = pointwise("negative(x) = -x", x="-1", symbol="−")
positive = pointwise("positive(x) = x", x="1", symbol="+")
abs = pointwise("abs(x)", x="sign(x)", symbol="|x|", domain=(0.1, 2))
sign = pointwise("sign(x)", x="0")
floor = pointwise("floor(x)", x="0", domain=(0.1, 0.9))
ceil = pointwise("ceil(x)", x="0", domain=(0.1, 0.9))
rint = pointwise("rint(x)", x="0", doc="Rounds to the nearest integer, halves to even.", domain=(0.6, 0.9))
reciprocal = pointwise("reciprocal(x)", x="-z * z", symbol="1/x", domain=(0.5, 2))
square = pointwise("square(x) = x * x", x="2 * x", symbol="x²")
hypot = pointwise("hypot(x, y)", x="x / where(z == 0, 1, z)", y="y / where(z == 0, 1, z)")  # 0 at the origin

# --- comparison and choice: equal values share the gradient -----------------------------------------------------
equal = pointwise("equal(x, y) = x == y", symbol="=")
not_equal = pointwise("not_equal(x, y) = x != y", symbol="≠")
less = pointwise("less(x, y) = x < y", symbol="<")
less_equal = pointwise("less_equal(x, y) = x <= y", symbol="≤")
greater = pointwise("greater(x, y) = x > y", symbol=">")
greater_equal = pointwise("greater_equal(x, y) = x >= y", symbol="≥")
maximum = pointwise(
    "maximum(x, y)",
    x="where(x == y, 0.5, where(x > y, 1, where(x != x, 1, 0)))",
    y="where(x == y, 0.5, where(y > x, 1, where(y != y, 1, 0)))",
)
minimum = pointwise(
    "minimum(x, y)",
    x="where(x == y, 0.5, where(x < y, 1, where(x != x, 1, 0)))",
    y="where(x == y, 0.5, where(y < x, 1, where(y != y, 1, 0)))",
)
_clip = pointwise(
    "clip(x, lower, upper) = minimum(maximum(x, lower), upper)",
    x="where(x < lower, 0, where(x > upper, 0, where(lower == upper, 0, 1)))",
    lower="where(x < lower, where(lower < upper, 1, 0), 0)",
    upper="where(x > upper, 1, where(lower < upper, 0, 1))",
    domain={"x": (0.1, 0.9), "lower": (-1, 0), "upper": (1, 2)}, reference="np.clip(x, lower, upper)", method=False,
)  # fmt: skip


@composite()
def clip(x: Any, min: Any = None, max: Any = None) -> Tensor:
    """x limited to [min, max], None for no limit; the gradient passes where x is within, ends included."""
    if min is None or max is None:
        if np.result_type(getattr(x, "dtype", None) or np.asarray(x)).kind != "f":  # infinities would make floats
            x = x if min is None else maximum(x, min)
            return positive(x) if max is None else minimum(x, max)
        min, max = (-math.inf if min is None else min), (math.inf if max is None else max)
    return _clip(x, min, max)


logical_and = pointwise("logical_and(x, y) = (x != 0) and (y != 0)", symbol="∧")
logical_or = pointwise("logical_or(x, y) = (x != 0) or (y != 0)", symbol="∨")
logical_not = pointwise("logical_not(x) = x == 0", symbol="¬")


def _booleans(name: str, operands: tuple[Any, ...]) -> None:
    for x in operands:
        if np.result_type(x.dtype if isinstance(x, Tensor) else x) != np.bool_:
            raise TypeError(f"{name} combines booleans; the bits of integers are not recorded, use .numpy()")


@composite(method=False)
def bitwise_and(x: Any, y: Any) -> Tensor:
    """x & y of boolean tensors. Raises TypeError for others."""
    _booleans("&", (x, y))
    return logical_and(x, y)


@composite(method=False)
def bitwise_or(x: Any, y: Any) -> Tensor:
    """x | y of boolean tensors. Raises TypeError for others."""
    _booleans("|", (x, y))
    return logical_or(x, y)


@composite(method=False)
def invert(x: Any) -> Tensor:
    """~x of a boolean tensor. Raises TypeError for others."""
    _booleans("~", (x,))
    return logical_not(x)


for _function, *_operators in (
    (bitwise_and, "__and__", "__rand__"), (bitwise_or, "__or__", "__ror__"), (invert, "__invert__")
):  # fmt: skip
    for _operator in _operators:
        setattr(Tensor, _operator, _function)
isnan = pointwise("isnan(x) = x != x")
isfinite = pointwise("isfinite(x) = abs(x) < inf")
_where = pointwise(
    "where(condition, x, y)", x="where(condition, 1, 0)", y="where(condition, 0, 1)", method=False,
    doc="x where the condition holds, else y; the branch not taken gets no gradient.",
)  # fmt: skip


@composite(method=False)
def where(condition: Any, x: Any, y: Any) -> Tensor:
    """x where the condition holds, else y; the branch not taken gets no gradient."""
    if not isinstance(condition, Tensor):
        condition = unmasked(condition, "where: argument 'condition'", bool)
    return _where(condition, x, y)


# --- exponentials and logarithms --------------------------------------------------------------------------------
exp = pointwise("exp(x)", x="z")
expm1 = pointwise("expm1(x)", x="exp(x)")
log = pointwise("log(x)", x="1 / x", domain=_positive)
log1p = pointwise("log1p(x)", x="1 / (1 + x)", domain=(-0.9, 3))
log2 = pointwise("log2(x)", x="1.4426950408889634 / x", domain=_positive)
log10 = pointwise("log10(x)", x="0.4342944819032518 / x", domain=_positive)
_SAME = "x == y and abs(x) == inf"  # no difference of infinities
_APART = f"exp(where({_SAME}, 0, minimum(x, y) - where({_SAME}, 0, maximum(x, y))))"
# The same for further derivatives: equal numbers are on one side, where `minimum` and `maximum` would share.
_SMOOTH = f"exp(where({_SAME}, 0, where(x >= y, y, x) - where({_SAME}, 0, where(x >= y, x, y))))"
logaddexp = pointwise(
    f"logaddexp(x, y) = maximum(x, y) + log1p({_APART})",
    x=f"where(x >= y, 1, {_SMOOTH}) / (1 + {_SMOOTH})", y=f"where(x >= y, {_SMOOTH}, 1) / (1 + {_SMOOTH})",
    doc="log(exp(x) + exp(y)), without overflow.", reference="np.logaddexp(x, y)",
)  # fmt: skip
sqrt = pointwise("sqrt(x)", x="0.5 / z", symbol="√", domain=_positive)
cbrt = pointwise("cbrt(x)", x="1 / (3 * z * z)", symbol="∛", domain=_positive)

# --- trigonometric and hyperbolic -------------------------------------------------------------------------------
sin = pointwise("sin(x)", x="cos(x)")
cos = pointwise("cos(x)", x="-sin(x)")
tan = pointwise("tan(x)", x="1 + z * z", domain=(-1.2, 1.2))
asin = pointwise("asin(x)", x="1 / sqrt((1 - x) * (1 + x))", domain=_unit)
acos = pointwise("acos(x)", x="-1 / sqrt((1 - x) * (1 + x))", domain=_unit)
atan = pointwise("atan(x)", x="1 / (1 + x * x)")
_RADIUS = "where(hypot(x, y) == 0, 1, hypot(x, y))"
atan2 = pointwise(
    "atan2(y, x)",
    y=f"x / {_RADIUS} / {_RADIUS}",  # 0 at the origin
    x=f"-y / {_RADIUS} / {_RADIUS}",
    domain={"y": (0.2, 2), "x": (-2, 2)},
)
_T = "(3.141592653589793 * x)"
sinc = pointwise(
    "sinc(x) = sin(3.141592653589793 * where(x == 0, 1e-20, x)) / (3.141592653589793 * where(x == 0, 1e-20, x))",
    x=f"where(abs(x) < 0.15, -3.141592653589793 * {_T} * (1 / 3 - {_T}**2 * (1 / 30 - {_T}**2 * (1 / 840 - {_T}**2 * "
    f"(1 / 45360 - {_T}**2 * (1 / 3991680 - {_T}**2 * (1 / 518918400 - {_T}**2 / 93405312000)))))), "
    f"(cos({_T}) - z) / where(x == 0, 1, x))",  # a power series where the difference would cancel
    doc="sin(pi x) / (pi x), and 1 at 0.",
)
sinh = pointwise("sinh(x)", x="cosh(x)")
cosh = pointwise("cosh(x)", x="sinh(x)")
tanh = pointwise("tanh(x)", x="1 - z * z")
asinh = pointwise("asinh(x)", x="1 / hypot(x, 1)")
acosh = pointwise("acosh(x)", x="1 / (sqrt(x - 1) * sqrt(x + 1))", domain=(1.2, 3))
atanh = pointwise("atanh(x)", x="1 / ((1 - x) * (1 + x))", domain=_unit)
erf = pointwise("erf(x)", x="1.1283791670955126 * exp(-x * x)", reference="special.erf(x)")

# --- activations ------------------------------------------------------------------------------------------------
_E = "exp(0 - abs(x))"  # a float, where the negative of an unsigned integer would be another integer
_SIGMOID = f"where(x >= 0, 1, {_E}) / (1 + {_E})"
_D = "exp(where(x >= 0, 0 - x, x))"  # the same, to be differentiated again: abs has the derivative 0 at 0

sigmoid = pointwise(
    f"sigmoid(x) = {_SIGMOID}", x="z * (1 - z)", symbol="σ", reference="special.expit(x)",
    doc="Logistic function 1 / (1 + exp(-x)), without overflow.",
)  # fmt: skip
log_sigmoid = pointwise(
    f"log_sigmoid(x) = minimum(x, 0) - log1p({_E})", x="-expm1(z)", reference="special.log_expit(x)",
    doc="log(sigmoid(x)), accurate where sigmoid underflows.",
)  # fmt: skip
softplus = pointwise(
    f"softplus(x) = maximum(x, 0) + log1p({_E})", x="-expm1(-z)", reference="np.logaddexp(0, x)",
    doc="log(1 + exp(x)), without overflow.",
)  # fmt: skip
relu = pointwise(
    "relu(x) = maximum(x, 0)", x="where(x <= 0, 0, 1)", domain=(0.1, 2), reference="np.maximum(x, 0)",
    doc="max(x, 0), with derivative 0 at 0.",
)  # fmt: skip
leaky_relu = pointwise(
    "leaky_relu(x, *, negative_slope=0.01) = where(x > 0, x, negative_slope * x)",
    x="where(x > 0, 1, negative_slope)", domain=(-2, -0.1), reference="np.maximum(x, 0.01 * x)",
)  # fmt: skip
elu = pointwise(
    "elu(x, *, alpha=1.0) = where(x > 0, x, alpha * expm1(minimum(x, 0)))",
    x="where(x > 0, 1, alpha * exp(minimum(x, 0)))", domain=(-2, -0.1), reference="np.where(x > 0, x, np.expm1(x))",
    doc="Exponential linear unit (Clevert et al., 2016).",
)  # fmt: skip
gelu = pointwise(
    "gelu(x) = 0.5 * x * (1 + erf(x * 0.7071067811865476))",
    x="0.5 * (1 + erf(x * 0.7071067811865476)) + x * 0.3989422804014327 * exp(-0.5 * x * x)",
    reference="x * special.ndtr(x)", doc="Gaussian error linear unit, exact (Hendrycks and Gimpel, 2016).",
)  # fmt: skip
silu = pointwise(
    f"silu(x) = x * ({_SIGMOID})",
    x=f"where(x >= 0, 1, {_D}) / (1 + {_D}) * (1 + x * (where(x >= 0, {_D}, 1) / (1 + {_D})))",
    reference="x * special.expit(x)", doc="x * sigmoid(x), also called swish (Ramachandran et al., 2017).",
)  # fmt: skip
binary_step = pointwise(
    "binary_step(x, *, width=1.0) = heaviside(x, 1)", x="where(abs(x) <= width, 0.5 / width, 0)",
    reference="np.heaviside(x, 1)", surrogate=True,
    doc="1 where x >= 0, else 0. Its derivative is 0 almost everywhere, so training gets a surrogate: that of the "
    "straight line through [-width, width], the straight-through estimator (Bengio et al., 2013).",
)  # fmt: skip
