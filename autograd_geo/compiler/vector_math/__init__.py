"""Elementary functions in plain arithmetic, for the loops of compiled kernels.

In jitted code `vm.exp(x)`, of a float64 or float32, adds 20 to 150 instructions, no branch and no table, to the loop it
stands in, which LLVM then vectorises. Infinities, NaN, signed zeros and subnormal numbers go as in NumPy and C99.

The largest errors found, in units in the last place of the exact value (float64: 1e5 to 1e6 arguments against mpmath;
float32: 1.6e7 to 7e7 bit patterns against float64, for two arguments 2e5 to 3e5 against mpmath):

| function | float64 | float32 | | function | float64 | float32 | | function | float64 | float32 |
|---|---|---|---|---|---|---|---|---|---|---|
| exp | 0.75 | 0.76 | | sin | 0.77 | 0.77 | | sinh | 1.64 | 1.71 |
| exp2 | 0.77 | 0.85 | | cos | 0.73 | 0.77 | | cosh | 1.04 | 1.12 |
| expm1 | 1.11 | 1.05 | | tan | 0.83 | 0.90 | | tanh | 1.42 | 1.42 |
| log | 0.76 | 0.80 | | asin | 1.08 | 1.09 | | asinh | 0.80 | 0.92 |
| log1p | 0.80 | 0.83 | | acos | 1.03 | 1.09 | | acosh | 0.80 | 0.87 |
| log2 | 0.66 | 0.75 | | atan | 0.78 | 0.81 | | atanh | 0.83 | 0.89 |
| log10 | 0.63 | 0.67 | | atan2 | 0.84 | 1.21 | | erf | 1.00 | 1.07 |
| power | 0.86 | 0.87 | | hypot | 0.92 | 0.94 | | cbrt | 0.50 | 0.50 |

The others equal NumPy's. Angles from 2**40 on (2**16 for float32) and remainders of quotients from 2**53 on (2**24)
come, element by element, from the C library (`values.rescue`). A processor should have fused multiply-add: without it
this is slow.
"""

from .algebraic import (
    absolute,
    cbrt,
    ceil,
    copysign,
    floor,
    heaviside,
    hypot,
    maximum,
    minimum,
    remainder,
    rint,
    sign,
    sqrt,
    trunc,
)
from .exponential import exp, exp2, expm1, log, log1p, log2, log10, power
from .hyperbolic import acosh, asinh, atanh, cosh, erf, sinh, tanh
from .trigonometric import acos, asin, atan, atan2, cos, sin, tan

__all__ = [
    "absolute",
    "acos",
    "acosh",
    "asin",
    "asinh",
    "atan",
    "atan2",
    "atanh",
    "cbrt",
    "ceil",
    "copysign",
    "cos",
    "cosh",
    "erf",
    "exp",
    "exp2",
    "expm1",
    "floor",
    "heaviside",
    "hypot",
    "log",
    "log1p",
    "log2",
    "log10",
    "maximum",
    "minimum",
    "power",
    "remainder",
    "rint",
    "sign",
    "sin",
    "sinh",
    "sqrt",
    "tan",
    "tanh",
    "trunc",
]
