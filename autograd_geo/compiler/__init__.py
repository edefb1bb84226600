"""The compiler: a recorded tape becomes a program of fused kernels.

`function` is `ag.compile`; `trace` records, `graph` and `moves` say what was computed, `regions` groups it, `printer`
and `kernels` make code of it, `program` runs it. `scalars` finds long runs of different ops on single numbers, of which
`table` makes a table instead. `explain`, `profile` and `report` say what became of it.
"""

from .function import Compiled, compile

__all__ = ["Compiled", "compile"]
