"""Circular functions and their inverses. The polynomials are fits like those of `exponential`."""

from __future__ import annotations

import math

from .values import (
    By,
    Value,
    absolute,
    elementary,
    fast_two_sum,
    flip,
    fma,
    from_bits,
    intrinsic,
    nearest,
    poly,
    rescue,
    two_product,
    two_sum,
    where,
)

TWO_OVER_PI = 0.6366197723675814
# pi / 2 in three words
HALF_PI = (
    By(1.5707963267948966, 1.5707963705062866),
    By(6.123233995736766e-17, -4.371138828673793e-08),
    By(-1.4973849048591698e-33, -1.7151245100058819e-15),
)
LARGE = By(2.0**40, 2.0**16)  # up to here |r| stays within pi / 4 * 1.001, and the three words suffice

# (sin(r) / r - 1) / r² as a polynomial of r², |r| < pi / 4
SIN = By(
    (
        -0.16666666666666666,
        0.008333333333333045,
        -0.00019841269840970547,
        2.7557319080228774e-06,
        -2.5052073046921865e-08,
        1.6054640127203824e-10,
        -7.408361872543814e-13,
    ),
    (-0.1666666716337204, 0.008333378471434116, -0.000198525027371943, 2.825066530931508e-06),
)
# (cos(r) - 1 + r² / 2) / r⁴ as a polynomial of r²
COS = By(
    (
        0.04166666666666659,
        -0.0013888888888872008,
        2.4801587288094487e-05,
        -2.7557313935450275e-07,
        2.0875664759243116e-09,
        -1.1356535732423808e-11,
    ),
    (0.04166664555668831, -0.0013887296663597226, 2.442974982841406e-05),
)


def quadrant(a: Value) -> tuple[Value, Value, Value]:
    """a = k pi / 2 + r + tail, 0 <= a < LARGE: r, tail, and the integer k in its last bits.

    The first fma is exact whatever k: a and the first word are multiples of 2**-52 (or a is below 1), and the result is
    below 1. No float64 below LARGE comes nearer to a multiple of pi / 2 than 2**-60; what is left out here is 2**-120.
    """
    k, n = nearest(a, TWO_OVER_PI)
    exact = fma(-k, HALF_PI[0], a)
    p, p_tail = two_product(k, exact.like(HALF_PI[1]))
    r, error = two_sum(exact, -p)
    r, tail = fast_two_sum(r, fma(-k, HALF_PI[2], error - p_tail))
    return r, tail, n


def sin_cos(r: Value, tail: Value) -> tuple[tuple[Value, Value], tuple[Value, Value]]:
    """Sine and cosine of r + tail, each in two words not yet added (after fdlibm's k_sin.c and k_cos.c)."""
    z = r * r
    half = 0.5 * z
    sine = fma(r * z, poly(z, SIN), fma(-half, tail, tail))
    one = 1.0 - half
    cosine = ((1.0 - one) - half) + fma(z * z, poly(z, COS), -(r * tail))
    return (r, sine), (one, cosine)


def wave(x: Value, ahead: int, name: str) -> Value:
    """sin(x + ahead pi / 2) with the sign of an even function if `ahead`."""
    a = absolute(x)
    r, tail, n = quadrant(a)
    sine, cosine = sin_cos(r, tail)
    n = n + ahead
    odd = (n & 1) != 0
    y = where(odd, cosine[0], sine[0]) + where(odd, cosine[1], sine[1])
    y = flip(y, from_bits((n >> 1) << (x.layout.integer.width - 1)))
    return rescue(y if ahead else flip(y, x), a, LARGE, name, x)


@elementary
def sin(x: Value) -> Value:
    return wave(x, 0, "sin")


@elementary
def cos(x: Value) -> Value:
    return wave(x, 1, "cos")


@elementary
def tan(x: Value) -> Value:
    """sin / cos or -cos / sin, with the remainder of the division and the second words taken into account."""
    a = absolute(x)
    r, tail, n = quadrant(a)
    sine, cosine = sin_cos(r, tail)
    s, s_tail = fast_two_sum(*sine)
    c, c_tail = fast_two_sum(*cosine)
    odd = (n & 1) != 0
    top, top_tail = where(odd, -c, s), where(odd, -c_tail, s_tail)
    bottom, bottom_tail = where(odd, s, c), where(odd, s_tail, c_tail)
    q, q_tail = quotient(top, top_tail, bottom, bottom_tail)
    y = flip(q + q_tail, x)
    return rescue(where(x == 0.0, x, y), a, LARGE, "tan", x)


def quotient(top: Value, top_tail: Value, bottom: Value, bottom_tail: Value) -> tuple[Value, Value]:
    """(top + top_tail) / (bottom + bottom_tail) in two words, not yet added, with one division."""
    inverse = 1.0 / bottom
    q = top * inverse
    return q, fma(-q, bottom_tail, fma(-q, bottom, top) + top_tail) * inverse


# (asin(s) / s - 1) / s² as a polynomial of s², |s| < 1/2
ASIN = By(
    (
        0.16666666666666763,
        0.07499999999970124,
        0.04464285717526344,
        0.030381942676349503,
        0.022372215875532092,
        0.017351596055541915,
        0.013981011727954056,
        0.011397350051759151,
        0.010788994349346425,
        0.003673446242297086,
        0.021787516373432788,
        -0.021112205076062276,
        0.0326992894719877,
    ),
    (
        0.16666659712791443,
        0.07500521093606949,
        0.04451363533735275,
        0.03183605149388313,
        0.014329207129776478,
        0.03767312318086624,
    ),
)


def asin_parts(x: Value) -> tuple[Value, Value, Value]:
    """Whether |x| < 1/2, s, and asin(s) - s: s is |x|, else sqrt((1 - |x|) / 2), where acos(|x|) = 2 asin(s)."""
    a = absolute(x)
    small = a < 0.5
    z = where(small, a * a, 0.5 * (1.0 - a))
    s = where(small, a, intrinsic("sqrt", z))
    return small, s, s * (z * poly(z, ASIN))


@elementary
def asin(x: Value) -> Value:
    small, s, rest = asin_parts(x)
    head, error = fast_two_sum(s.like(HALF_PI[0]), -2.0 * s)
    large = head + fma(rest, -2.0, error + HALF_PI[1])
    return flip(where(small, s + rest, large), x)


@elementary
def acos(x: Value) -> Value:
    small, s, rest = asin_parts(x)
    # pi / 2 - asin(x), or 2 asin(s), or pi - 2 asin(s)
    negative = x < 0.0
    start = where(small, 1.0, where(negative, 2.0, x.like(0.0)))
    sign = where(small, flip(x.like(-1.0), x), where(negative, x.like(-2.0), 2.0))
    head, error = fast_two_sum(start * HALF_PI[0], sign * s)
    exact_zero = start == 0.0  # |0| < |s| there, which fast_two_sum does not allow
    error = where(exact_zero, 0.0, error)
    return head + fma(sign, rest, fma(start, HALF_PI[1], error))


# (atan(t) / t - 1) / t² as a polynomial of t², |t| < tan(pi / 8)
ATAN = By(
    (
        -0.333333333333332,
        0.19999999999953813,
        -0.14285714280218384,
        0.11111110784488423,
        -0.09090897785330969,
        0.07692060669515295,
        -0.06663108793451439,
        0.05847920709810877,
        -0.05039432254022653,
        0.03806745429439791,
        -0.017910009303055717,
    ),
    (-0.33333316445350647, 0.1999853104352951, -0.1424446851015091, 0.1059979647397995, -0.06091661751270294),
)
TAN_PI_8 = 0.4142135623730951


def angle(low: Value, high: Value, turned: Value, backward: Value | None) -> Value:
    """The angle in [0, pi] whose tangent is low / high, 0 <= low <= high, or high / low where `turned`.

    Where low / high > tan(pi / 8) the angle is pi / 4 more than that of (low - high) / (low + high) (Cephes).
    Where `backward` it is pi minus the angle that is returned.
    """
    middle = low > TAN_PI_8 * high
    total, total_tail = fast_two_sum(high, low)
    less, less_tail = fast_two_sum(high, -low)
    zero = low.like(0.0)
    top, top_tail = where(middle, -less, low), where(middle, -less_tail, zero)
    bottom, bottom_tail = where(middle, total, high), where(middle, total_tail, zero)
    t, t_tail = quotient(top, top_tail, bottom, bottom_tail)
    z = t * t
    rest = fma(t * z, poly(z, ATAN), t_tail)
    # eighths of a turn to start from, and whether to go back from there
    eighths = where(middle, 1.0, zero)
    eighths, back = where(turned, 2.0 - eighths, eighths), turned
    if backward is not None:
        eighths, back = where(backward, 4.0 - eighths, eighths), back ^ backward
    t, rest = where(back, -t, t), where(back, -rest, rest)
    half = 0.5 * eighths
    return fma(half, HALF_PI[0], t + fma(half, HALF_PI[1], rest))


@elementary
def atan(x: Value) -> Value:
    a = where(absolute(x) > 1e30, 1e30, absolute(x))
    turned = a > 1.0
    return flip(angle(where(turned, 1.0, a), where(turned, a, 1.0), turned, None), x)


@elementary
def atan2(y: Value, x: Value) -> Value:
    a, b = absolute(y), absolute(x)
    turned = a > b
    low, high = where(turned, b, a), where(turned, a, b)
    # so that sum and inverse neither overflow nor underflow; the ratio stays
    large, small = high > By(2.0**1000, 2.0**100), high < By(2.0**-900, 2.0**-70)
    factor = where(large, By(2.0**-60, 2.0**-28), where(small, By(2.0**200, 2.0**60), x.like(1.0)))
    infinite = high == math.inf
    low = where(infinite, where(low == math.inf, 1.0, y.like(0.0)), low * factor)
    high = where(infinite | (high == 0.0), 1.0, high * factor)
    z = flip(angle(low, high, turned, flip(x.like(1.0), x) < 0.0), y)
    return where((x == x) & (y == y), z, x + y)
