"""The two pen-and-paper examples and the worked 3-2-1 network, computed by the engine."""

from __future__ import annotations

import numpy as np

from ..op import functions
from ..tensor import Tensor, tensor
from ..viz import backward_text

INPUTS, TARGET = (0.5, 0.2, 0.7), 0.3


def chain_rule() -> tuple[Tensor, Tensor]:
    """f = ((x+y)z)^2 and g = ((sin x + y)z)^3 at x = -2, y = 5, z = -4, recorded."""
    x, y, z = (tensor(v, requires_grad=True, name=n) for n, v in (("x", -2.0), ("y", 5.0), ("z", -4.0)))
    f = ((x + y) * z) ** 2
    x, y, z = (tensor(v, requires_grad=True, name=n) for n, v in (("x", -2.0), ("y", 5.0), ("z", -4.0)))
    g = ((functions["sin"](x) + y) * z) ** 3
    f.name, g.name = "f", "g"
    return f, g


def chain_rule_text() -> str:
    """Both backward passes, derivative by derivative."""
    f, g = chain_rule()
    return f"f = ((x + y) z)^2\n{backward_text(f)}\n\ng = ((sin x + y) z)^3\n{backward_text(g)}"


def worked_network() -> dict[str, Tensor]:
    """The 3-2-1 network after its backward pass: every quantity by its name in the lecture.

    Inputs I1 I2 I3, hidden sigmoid units H4 H5 (of the sums S4 S5), output O6 = identity, loss L = (O6 - y)^2 / 2.
    Weights are uniform in ±1/sqrt(n) for n inputs, biases (U(0, 1) - 0.5) / 2, drawn with NumPy's legacy seed 3.
    """
    draw = np.random.RandomState(3).uniform
    first, second = 1 / np.sqrt(3), 1 / np.sqrt(2)
    values = {w: draw(-first, first) for w in ("w14", "w24", "w34", "w15", "w25", "w35")}
    values |= {w: draw(-second, second) for w in ("w46", "w56")}
    values |= {b: (draw() - 0.5) * 0.5 for b in ("b4", "b5", "b6")}
    values |= {f"I{i}": x for i, x in enumerate(INPUTS, 1)}
    t = {name: tensor(float(v), requires_grad=True, name=name) for name, v in values.items()}
    for unit in (4, 5):
        t[f"S{unit}"] = t[f"w1{unit}"] * t["I1"] + t[f"w2{unit}"] * t["I2"] + t[f"w3{unit}"] * t["I3"] + t[f"b{unit}"]
        t[f"H{unit}"] = functions["sigmoid"](t[f"S{unit}"])
    t["O6"] = t["w46"] * t["H4"] + t["w56"] * t["H5"] + t["b6"]
    t["L"] = (t["O6"] - TARGET) ** 2 / 2
    for name in ("S4", "S5", "H4", "H5", "O6", "L"):
        t[name].name = name
    t["L"].backward()
    return t


def worked_network_text() -> str:
    """The worked network as a table: forward values, then every derivative of the loss."""
    t = worked_network()
    lines = [
        f"inputs {INPUTS}, target {TARGET}; sigmoid hidden layer, identity output, L = (O6 - y)^2 / 2",
        "forward   " + "   ".join(f"{n} = {t[n].item():.5f}" for n in ("H4", "H5", "O6", "L")),
        "            value      dL/d(.)",
    ]
    for name, p in t.items():
        if p.is_leaf and p.grad is not None:
            lines.append(f"  {name:<4} {p.item():+11.5f}  {p.grad.item():+.4e}")
    lines.append(
        "The lecture prints these with the opposite sign: it differentiates towards y - O6 and adds eta times that, "
        "where its text\nadds eta dL/dw; descending, w - eta dL/dw, with the true signs above is the same step."
    )
    return "\n".join(lines)


__all__ = ["chain_rule", "chain_rule_text", "worked_network", "worked_network_text"]
