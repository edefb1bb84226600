"""Exponentials, logarithms and powers.

The polynomials are minimax fits for this module: Remez exchange in 45 digits (mpmath) of the quantity named at each,
the lowest coefficients rounded first and the others fitted again to what that left.
"""

from __future__ import annotations

import math

from .values import (
    DOUBLE,
    By,
    Value,
    absolute,
    bits,
    clamp,
    elementary,
    fast_two_sum,
    flip,
    fma,
    from_bits,
    intrinsic,
    narrow,
    nearest,
    poly,
    power_of_two,
    scale,
    to_float,
    two_product,
    two_sum,
    where,
    widen,
)

INF, NAN = math.inf, math.nan
LOG2_E = 1.4426950408889634
# ln 2 in two words. fma(-k, LN2, x) is exact: x and LN2 are multiples of 2**-53 (2**-24) and the result is below 1/2.
LN2 = By(0.6931471805599453, 0.6931471824645996)
LN2_TAIL = By(2.3190468138462996e-17, -1.9046542121259336e-09)

# (exp(r) - 1 - r) / r², |r| < ln(2) / 2
EXP = By(
    (
        0.5,
        0.16666666666666677,
        0.04166666666666668,
        0.008333333333321417,
        0.0013888888888877423,
        0.00019841269886701452,
        2.4801587340721938e-05,
        2.7557243582376785e-06,
        2.755725905668944e-07,
        2.5109273534609422e-08,
        2.091956641102368e-09,
    ),
    (
        0.5,
        0.1666666716337204,
        0.041666481643915176,
        0.008333191275596619,
        0.001393339829519391,
        0.00019959252676926553,
    ),
)
# (2**r - 1) / r, |r| < 1/2
EXP2 = By(
    (
        0.6931471805599453,
        0.24022650695910072,
        0.05550410866482299,
        0.00961812910762804,
        0.001333355814614883,
        0.00015403530394077444,
        1.5252734051803388e-05,
        1.3215486294850965e-06,
        1.0177979641100862e-07,
        7.05507073568437e-09,
        4.466392592855664e-10,
        2.55083158326039e-11,
    ),
    (
        0.6931471824645996,
        0.24022650718688965,
        0.05550358071923256,
        0.009618077427148819,
        0.0013391742249950767,
        0.00015456430264748633,
    ),
)


def exponent(x: Value) -> tuple[Value, Value, Value]:
    """x = n ln 2 + r + tail: the integer nearest to x / ln 2, r, and its rounding error (Cody & Waite 1980)."""
    k, n = nearest(x, LOG2_E)
    exact = fma(k, -LN2, x)
    r = fma(k, -LN2_TAIL, exact)
    return n, r, fma(k, -LN2_TAIL, exact - r)


def exp_of_rest(x: Value) -> tuple[Value, Value]:
    """n and y of exp(x) = 2**n y."""
    n, r, tail = exponent(x)
    one, error = fast_two_sum(r.like(1.0), r)
    return n, one + fma(r * r, poly(r, EXP), error + tail)


def exp_over(x: Value, shift: int) -> Value:
    """exp(x) / 2**shift where that is a normal number."""
    n, y = exp_of_rest(x)
    return y * power_of_two(n - shift, x)


def expm1_over(x: Value, shift: int) -> tuple[Value, Value]:
    """(exp(x) - 1) / 2**shift as a sum: 2**(k - shift) (exp(r) - 1) + (2**(k - shift) - 2**-shift)."""
    n, r, tail = exponent(x)
    p, p_tail = fast_two_sum(r, fma(r * r, poly(r, EXP), tail))
    h = power_of_two(n - shift, x)
    start = h - 0.5**shift  # the larger addend, or 0
    head = fma(h, p, start)
    return head, fma(h, p_tail, fma(h, p, start - head))


@elementary
def exp(x: Value) -> Value:
    x = clamp(x, By((-746.0, 710.0), (-104.5, 89.0)))
    n, y = exp_of_rest(x)
    return scale(y, n)


@elementary
def exp2(x: Value) -> Value:
    x = clamp(x, By((-1080.0, 1025.0), (-155.0, 129.0)))
    k, n = nearest(x)
    r = x - k
    return scale(fma(r, poly(r, EXP2), 1.0), n)


@elementary
def expm1(x: Value) -> Value:
    half, tail = expm1_over(clamp(x, By((-50.0, 710.0), (-25.0, 89.0))), 1)  # 2**1023 is the largest factor there is
    y = 2.0 * (half + tail)
    return where(absolute(x) < By(2.0**-54, 2.0**-25), x, y)


# ln((1 + s) / (1 - s)) = 2 s + s z P(z) with z = s²: P, for (1 + s) / (1 - s) within [sqrt(1/2), sqrt(2)]
LOG = By(
    (
        0.6666666666666735,
        0.399999999994086,
        0.2857142874396626,
        0.22222198391433284,
        0.181835746887775,
        0.15313763902484628,
        0.1479901886649794,
    ),
    (0.6666677594184875, 0.39977553486824036, 0.2987228035926819),
)
SQRT_HALF_BITS = By(0x3FE6A09E667F3BCD, 0x3F3504F3)
ONE_BITS = By(0x3FF0000000000000, 0x3F800000)
SMALLEST_NORMAL = By(2.0**-1022, 2.0**-126)
LOG2_10 = By((0.3010299956639812, -2.8037281277851704e-18), (0.3010300099849701, -1.432098883924482e-08))


def normal(x: Value, shift: By) -> tuple[Value, Value]:
    """A subnormal x times 2**shift, and minus the shift or 0 to add to its exponent: x >= 0."""
    tiny = x < SMALLEST_NORMAL
    up = x.pick(shift)
    return where(tiny, x * 2.0**up, x), where(tiny, x.like(-float(up)), 0.0)


def mantissa(x: Value) -> tuple[Value, Value]:
    """Integer k and m of x = 2**k m with m within [sqrt(1/2), sqrt(2)), for normal x > 0 (as in musl's log)."""
    layout, low, one = x.layout, x.pick(SQRT_HALF_BITS), x.pick(ONE_BITS)
    shifted = bits(x) + (one - low)
    return (shifted >> layout.fraction) - layout.bias, from_bits((shifted & ((1 << layout.fraction) - 1)) + low)


def log_series(f: Value) -> tuple[Value, Value]:
    """f²/2 and log(1 + f) - f + f²/2, as in fdlibm's e_log.c: the rest is small, so its rounding hardly counts."""
    s = f / (2.0 + f)
    z = s * s
    half = 0.5 * f * f
    return half, s * fma(z, poly(z, LOG), half)


def log_limits(x: Value, y: Value) -> Value:
    """`y`, the logarithm of x, with the values at zero, below it and at infinity."""
    y = where(x == INF, INF, y)
    return where(x > 0.0, y, where(x == 0.0, x.like(-INF), NAN))


@elementary
def log(x: Value) -> Value:
    scaled, below = normal(x, By(54, 25))
    n, m = mantissa(scaled)
    k = to_float(n, x) + below
    f = m - 1.0
    half, rest = log_series(f)
    return log_limits(x, fma(k, LN2, f - (half - fma(k, LN2_TAIL, rest))))


def log_to_base(x: Value, inverse: By, per_octave: By | None) -> Value:
    """log(x) times `inverse`, given as two words, as is the logarithm of 2 in that base (None for 1)."""
    scaled, below = normal(x, By(54, 25))
    n, m = mantissa(scaled)
    k = to_float(n, x) + below
    f = m - 1.0
    half, rest = log_series(f)
    head = f - half
    tail = ((f - head) - half) + rest
    factor, factor_tail = x.pick(inverse)
    p, p_tail = two_product(head, factor)
    p_tail = fma(tail, factor, fma(head, factor_tail, p_tail))
    if per_octave is not None:
        octave, octave_tail = x.pick(per_octave)
        octaves, octaves_tail = two_product(k, octave)
        p_tail = p_tail + fma(k, octave_tail, octaves_tail)
        k = octaves
    total, error = fast_two_sum(k, p)
    return log_limits(x, total + (error + p_tail))


@elementary
def log2(x: Value) -> Value:
    inverse = By((1.4426950408889634, 2.0355273740931033e-17), (1.4426950216293335, 1.925963033500011e-08))
    return log_to_base(x, inverse, None)


@elementary
def log10(x: Value) -> Value:
    inverse = By((0.4342944819032518, 1.098319650216765e-17), (0.4342944920063019, -1.0103049952192578e-08))
    return log_to_base(x, inverse, LOG2_10)


def log1p_of(head: Value, tail: Value, octaves: Value | float = 0.0) -> Value:
    """log(1 + head + tail) for head + tail > -1, plus `octaves` times ln 2."""
    u, error = two_sum(head.like(1.0), head)
    n, m = mantissa(u)
    k = to_float(n, head)
    # 1 + head + tail = 2**k (m + lost); a lost part of 2**-60 changes nothing
    lost = where(head < By(2.0**60, 2.0**30), (error + tail) * power_of_two(-n, head), 0.0)
    near = k == 0.0
    f, lost = where(near, head, m - 1.0), where(near, tail, lost)
    half, rest = log_series(f)
    rest = fma(fma(f, f - 1.0, 1.0), lost, rest)  # lost / (1 + f)
    k = k + octaves
    return fma(k, LN2, f - (half - fma(k, LN2_TAIL, rest)))


@elementary
def log1p(x: Value) -> Value:
    y = where(absolute(x) < By(2.0**-54, 2.0**-25), x, log1p_of(x, x.like(0.0)))
    y = where(x == INF, INF, y)
    return where(x > -1.0, y, where(x == -1.0, x.like(-INF), NAN))


# log2((1 + s) / (1 - s)) = s (2 / ln 2 + z (2 / (3 ln 2) + z P(z))): the first two in two words, and P
LOG2_FIRST = (2.8853900817779268, 4.0710547481862066e-17)
LOG2_SECOND = (0.9617966939259756, 5.0577616648125907e-17)
LOG2 = (
    0.5770780163555851,
    0.41219858311134655,
    0.32059889791244606,
    0.26230819871137995,
    0.22195226609079408,
    0.19240150532239486,
    0.1684474854295736,
    0.1728530291845813,
)


def log2_in_two_words(x: Value) -> tuple[Value, Value]:
    """log2(x) to 2**-64 of its size, for float64 x > 0: where |log2(x) y| is 1024 the power needs 11 bits more."""
    scaled, below = normal(x, By(54, 25))
    n, m = mantissa(scaled)
    f = m - 1.0
    d, d_tail = fast_two_sum(f.like(2.0), f)
    inverse = 1.0 / d
    s = f * inverse
    s_tail = fma(-s, d_tail, fma(-s, d, f)) * inverse
    z, z_tail = two_product(s, s)
    z_tail = fma(s + s, s_tail, z_tail)
    b, b_tail = fast_two_sum(z.like(LOG2_SECOND[0]), z * poly(z, LOG2))
    t, t_tail = two_product(z, b)
    t_tail = fma(z, b_tail + LOG2_SECOND[1], fma(z_tail, b, t_tail))
    c, c_tail = fast_two_sum(z.like(LOG2_FIRST[0]), t)
    c_tail = c_tail + (t_tail + LOG2_FIRST[1])
    p, p_tail = two_product(s, c)
    p_tail = fma(s, c_tail, fma(s_tail, c, p_tail))
    total, error = fast_two_sum(to_float(n, x) + below, p)
    return fast_two_sum(total, error + p_tail)


def log2_for_single(x: Value) -> Value:
    """log2(x) to 2**-40 of its size, for float64 x > 0 that was a float32."""
    n, m = mantissa(x)
    f = m - 1.0
    s = f / (2.0 + f)
    z = s * s
    return fma(s, fma(z, fma(z, poly(z, LOG2[:4]), LOG2_SECOND[0]), LOG2_FIRST[0]), to_float(n, x))


@elementary
def power(x: Value, y: Value) -> Value:
    """2**(y log2|x|), the logarithm in two words for float64, in float64 for float32. Special cases: C99, F.9.4.4."""
    size = absolute(x)
    wide_size, wide_y = widen(size), widen(y)
    if x.of.type == DOUBLE:
        log, log_tail = log2_in_two_words(size)
    else:
        log = log2_for_single(wide_size)
        log_tail = log.like(0.0)
    log = where(wide_size == 0.0, -INF, where(wide_size < INF, log, wide_size))
    e, e_tail = two_product(wide_y, log)
    e_tail = where(absolute(e) < 1100.0, fma(wide_y, log_tail, e_tail), 0.0)
    e = clamp(e, (-1100.0, 1100.0) if x.of.type == DOUBLE else (-160.0, 160.0))  # of `e`, a float64
    k, _ = nearest(e)
    r = narrow((e - k) + e_tail, x.of.type)
    _, n = nearest(narrow(k, x.of.type))
    z = scale(fma(r, poly(r, EXP2), 1.0), n)
    whole = intrinsic("floor", y) == y
    half = 0.5 * y
    odd = whole & (intrinsic("floor", half) != half)
    z = where((x < 0.0) & ~whole & (x > -INF), NAN, z)
    z = where(odd, flip(z, x), z)
    is_one = (x == 1.0) | (y == 0.0) | ((x == -1.0) & (absolute(y) == INF))
    return where(is_one, 1.0, z)
