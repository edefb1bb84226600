"""The compiler: a recorded tape becomes a program of fused kernels.

`function` is `ag.compile`; `trace` records (`records` are what it notes, `outside` what it compares); `graph` says
what was computed, in `nodes` and `moves` (`lowering`, `decompose` and `powers` say how); `regions` and `stages` group
it; `accesses` says where a region reads and writes; `printer` (with `phrases`, and `loops` for what is no region) and
`kernels` make code of it; `program` lays it out, `call` runs it. `scalars` finds long runs of different ops on single
numbers, of which `table` makes a table instead. `explain`, `profile` and `report` say what became of it.
"""

from .function import Compiled, compile

__all__ = ["Compiled", "compile"]
