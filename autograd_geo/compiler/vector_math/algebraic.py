"""Roots, rounding, remainders, and choices."""

from __future__ import annotations

import math

from . import values
from .exponential import ONE_BITS, normal
from .values import (
    By,
    Value,
    bits,
    elementary,
    flip,
    fma,
    from_bits,
    intrinsic,
    nearest,
    poly,
    power_of_two,
    rescue,
    to_float,
    two_product,
    where,
)

absolute = elementary(values.absolute)
copysign = elementary(values.with_sign)


@elementary
def sqrt(x: Value) -> Value:
    return intrinsic("sqrt", x)


@elementary
def floor(x: Value) -> Value:
    return intrinsic("floor", x)


@elementary
def ceil(x: Value) -> Value:
    return intrinsic("ceil", x)


@elementary
def trunc(x: Value) -> Value:
    return intrinsic("trunc", x)


@elementary
def rint(x: Value) -> Value:
    """The nearest integer, the even one of two."""
    return intrinsic("rint", x)


@elementary
def maximum(x: Value, y: Value) -> Value:
    """The larger, `y` if they are equal; NaN if one is."""
    return where((x > y) | (x != x), x, y)


@elementary
def minimum(x: Value, y: Value) -> Value:
    """The smaller, `y` if they are equal; NaN if one is."""
    return where((x < y) | (x != x), x, y)


@elementary
def sign(x: Value) -> Value:
    """-1, 0, 1; NaN of NaN."""
    return where(x > 0.0, 1.0, where(x < 0.0, -1.0, where(x == 0.0, 0.0, x)))


@elementary
def heaviside(x: Value, middle: Value) -> Value:
    """0 below zero, `middle` at zero, 1 above; NaN of NaN."""
    return where(x > 0.0, 1.0, where(x < 0.0, 0.0, where(x == 0.0, middle, x)))


@elementary
def remainder(x: Value, y: Value) -> Value:
    """x - floor(x / y) y, exact, with the sign of y: a rounded quotient is too large by one at most."""
    a, b = absolute(x), absolute(y)
    ratio = a / b
    rest = fma(-intrinsic("trunc", ratio), b, a)
    rest = where(rest < 0.0, rest + b, rest)
    rest = where((b == math.inf) & (a < math.inf), a, rest)
    rest = rescue(rest, ratio, By(2.0**53, 2.0**24), "fmod", a, b)
    rest = flip(rest, x)
    other_side = flip(rest, y) < 0.0
    return where(rest == 0.0, copysign(rest, y), where(other_side, rest + y, rest))


@elementary
def hypot(x: Value, y: Value) -> Value:
    """sqrt(x² + y²), scaled by a power of two where a square would leave the range."""
    a, b = absolute(x), absolute(y)
    high, low = where(a > b, a, b), where(a > b, b, a)
    large, small = high > By(2.0**511, 2.0**63), high < By(2.0**-459, 2.0**-50)
    down, up = By(2.0**-600, 2.0**-90), By(2.0**600, 2.0**90)
    one = x.like(1.0)
    factor, back = where(large, down, where(small, up, one)), where(large, up, where(small, down, one))
    high, low = high * factor, low * factor
    length = intrinsic("sqrt", fma(high, high, low * low)) * back
    return where((a == math.inf) | (b == math.inf), math.inf, length)


# m ** (-1/3), 1 < m < 2
CBRT = By(
    (1.6700071802981415, -1.172881373537956, 0.6954832858076802, -0.22123774135057322, 0.028590919042220077),
    (1.3881365060806274, -0.48329100012779236, 0.093387171626091),
)
CBRT_2 = 1.2599210498948732


@elementary
def cbrt(x: Value) -> Value:
    """An inverse cube root from a polynomial and a step of third order, then Newton's step with an exact remainder."""
    a = absolute(x)
    scaled, below = normal(a, By(54, 24))
    fraction = x.layout.fraction
    e = to_float((bits(scaled) >> fraction) - x.layout.bias, x) + below
    third, n = nearest(e, 1 / 3)
    step = fma(third, -3.0, e)  # -1, 0 or 1
    m = from_bits((bits(scaled) & ((1 << fraction) - 1)) | x.pick(ONE_BITS))
    y = poly(m, CBRT) * where(step > 0.0, 1 / CBRT_2, where(step < 0.0, CBRT_2, x.like(1.0)))
    m = m * where(step > 0.0, 2.0, where(step < 0.0, 0.5, x.like(1.0)))
    error = fma(-m * y, y * y, 1.0)
    y = fma(y * error, fma(error, 2 / 9, 1 / 3), y)
    c = m * y * y
    square, square_tail = two_product(c, c)
    rest = fma(-square_tail, c, fma(-square, c, m))
    root = fma(rest * (1 / 3), y * y, c) * power_of_two(n, x)
    return where((a > 0.0) & (a < math.inf), flip(root, x), x)
