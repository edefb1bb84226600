"""Hyperbolic functions, their inverses, the error function. The polynomials are fits as in `exponential`."""

from __future__ import annotations

import math

from .exponential import exp_over, expm1_over, log1p_of
from .trigonometric import quotient
from .values import (
    By,
    Value,
    absolute,
    elementary,
    fast_two_sum,
    flip,
    fma,
    intrinsic,
    poly,
    two_product,
    two_sum,
    where,
    with_sign,
)


def magnitude(x: Value, largest: By) -> Value:
    """|x|, at most `largest`; NaN stays."""
    a = absolute(x)
    return where(a > largest, largest, a)


@elementary
def sinh(x: Value) -> Value:
    """(E + E / (E + 1)) / 2 with E = exp(|x|) - 1 (fdlibm), of E / 4, which does not overflow."""
    q, tail = expm1_over(magnitude(x, By(710.6, 89.5)), 2)
    y = flip((q + q) + fma(tail, 2.0, q / fma(q, 2.0, 0.5)), x)
    return where(absolute(x) < By(2.0**-28, 2.0**-13), x, y)


@elementary
def cosh(x: Value) -> Value:
    q = exp_over(magnitude(x, By(710.6, 89.5)), 2)
    return (q + q) + 0.125 / q


@elementary
def tanh(x: Value) -> Value:
    """-E / (E + 2) with E = exp(-2 |x|) - 1 (fdlibm), of E / 2, in two words."""
    h, tail = expm1_over(-2.0 * magnitude(x, By(22.0, 11.0)), 1)
    bottom, bottom_tail = fast_two_sum(h.like(1.0), h)
    y, y_tail = quotient(h, tail, bottom, bottom_tail + tail)
    y = y + y_tail
    return where(absolute(x) < By(2.0**-28, 2.0**-13), x, with_sign(y, x))


def square_root(head: Value, tail: Value) -> tuple[Value, Value]:
    """sqrt(head + tail) in two words."""
    s = intrinsic("sqrt", head)
    return s, where(s > 0.0, (fma(-s, s, head) + tail) * (0.5 / s), 0.0)


HUGE = By(2.0**28, 2.0**14)  # from here on x² + 1 is x²


@elementary
def asinh(x: Value) -> Value:
    """log1p(|x| + (sqrt(x² + 1) - 1)), all in two words; log(2 |x|) for huge x."""
    a = absolute(x)
    huge = a > HUGE
    square, square_tail = two_product(a, a)
    w, w_tail = two_sum(a.like(1.0), square)
    s, s_tail = square_root(w, w_tail + square_tail)
    head, error = fast_two_sum(a, s - 1.0)
    y = log1p_of(where(huge, a - 1.0, head), where(huge, 0.0, error + s_tail), where(huge, 1.0, a.like(0.0)))
    y = where(a < math.inf, y, a)
    return flip(where(a < By(2.0**-28, 2.0**-13), a, y), x)


@elementary
def acosh(x: Value) -> Value:
    """log1p(x - 1 + sqrt(x² - 1)), all in two words; log(2 x) for huge x."""
    huge = x > HUGE
    square, square_tail = two_product(x, x)
    w, w_tail = fast_two_sum(square, x.like(-1.0))
    s, s_tail = square_root(w, w_tail + square_tail)
    head, error = fast_two_sum(s, x - 1.0)
    y = log1p_of(where(huge, x - 1.0, head), where(huge, 0.0, error + s_tail), where(huge, 1.0, x.like(0.0)))
    y = where(x < math.inf, y, x)
    return where(x >= 1.0, y, math.nan)


@elementary
def atanh(x: Value) -> Value:
    """log1p(2 |x| / (1 - |x|)) / 2, the quotient in two words."""
    a = absolute(x)
    bottom, bottom_tail = fast_two_sum(a.like(1.0), -a)
    y = 0.5 * log1p_of(*quotient(a + a, a.like(0.0), bottom, bottom_tail))
    y = where(a < 1.0, y, where(a == 1.0, a.like(math.inf), math.nan))
    return flip(where(a < By(2.0**-28, 2.0**-13), a, y), x)


# erf(x) / x - 1 as a polynomial of x², |x| < 1
ERF = By(
    (
        0.1283791670955126,
        -0.3761263890318411,
        0.11283791670972064,
        -0.026866170648280976,
        0.0052239776556846085,
        -0.0008548328735288824,
        0.00012055394331125103,
        -1.4927094882573066e-05,
        1.6484730787608593e-06,
        -1.6598346951444656e-07,
        1.6303893148139535e-08,
        -1.7633637268608606e-09,
        1.638806505223451e-10,
    ),
    (
        0.12837916612625122,
        -0.3761262893676758,
        0.11283618211746216,
        -0.02685512602329254,
        0.005190733354538679,
        -0.0008030750323086977,
        7.920303323771805e-05,
    ),
)
# -log(1 - erf(x)), 1 < x < 6 (4 for float32), the error weighted by 1 - erf(x)
ERFC = By(
    (
        1.845418153141771e-07,
        1.128377280831114,
        0.6366287110378983,
        0.10274662147002697,
        -0.01907691295228495,
        -0.0002822912034532608,
        0.0017709957625191674,
        -0.0006428953446043997,
        4.599864814111728e-05,
        6.972687791074869e-05,
        -4.4759523979945326e-05,
        1.641782328523112e-05,
        -4.3007590283667615e-06,
        8.449701185200307e-07,
        -1.2479368868401352e-07,
        1.3517657454235057e-08,
        -1.016656966260965e-09,
        4.7496431894717634e-11,
        -1.038541036608147e-12,
    ),
    (
        0.0003538133460097015,
        1.1270396709442139,
        0.6382262706756592,
        0.10303685069084167,
        -0.021805062890052795,
        0.0029395404271781445,
        -0.00018556672148406506,
    ),
)


@elementary
def erf(x: Value) -> Value:
    """x + x P(x²) below 1, 1 - exp(-P(x)) above (the split of N. Juffa's erf)."""
    a = magnitude(x, By(6.0, 4.0))
    near = fma(a, poly(a * a, ERF), a)
    far = 1.0 - exp_over(-poly(a, ERFC), 0)
    return flip(where(a < 1.0, near, far), x)
