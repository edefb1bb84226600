"""Machine code for NVIDIA's devices, as `cuobjdump -sass` prints it: its instructions, and its main loop."""

from __future__ import annotations

import re
from collections import Counter
from typing import NamedTuple


class Instruction(NamedTuple):
    address: int
    name: str
    operands: str


def instructions(sass: str) -> list[Instruction]:
    pattern = r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)(.*?);"
    return [Instruction(int(a, 16), name, rest) for a, name, rest in re.findall(pattern, sass, re.MULTILINE)]


def main_loop(sass: str, name: str) -> Counter[str]:
    """How often each instruction occurs in the loop, a branch backwards, that has most of the named one."""
    found = instructions(sass)
    loops: list[Counter[str]] = [Counter()]
    for branch in found:
        target = re.search(r"0x([0-9a-f]+)", branch.operands)
        if branch.name.startswith("BRA") and target and int(target[1], 16) < branch.address:
            loops.append(Counter(x.name for x in found if int(target[1], 16) <= x.address <= branch.address))
    return max(loops, key=lambda loop: loop[name])
