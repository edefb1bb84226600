"""Where a tensor's value is: in the host's memory, "cpu", or in that of a GPU, "cuda"; and how it gets there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .cuda.array import DeviceArray, DeviceError, on_host
from .op import Op, Rule, apply
from .tape import Entry
from .tensor import Tensor
from .value import Value

DEVICES = ("cpu", "cuda")


def device_of(value: Value) -> str:
    """Where a value is."""
    return "cuda" if type(value) is DeviceArray else "cpu"


def checked(device: Any) -> str:
    """The name of a device. Raises ValueError for one that is not known, DeviceError where there is no GPU."""
    name = "cuda" if device == "cuda:0" else device
    if name not in DEVICES:
        raise ValueError(f"device must be 'cpu' or 'cuda', not {device!r}")
    if name == "cuda":
        from .cuda.driver import driver

        driver()
    return str(name)


def put(value: Value, device: str) -> Value:
    """A value on a device; itself if it is there."""
    if device_of(value) == device:
        return value
    if device == "cpu":
        return on_host(value)
    from .cuda.eager import to_device

    return to_device(value)


def _moved_back(g: Any, entry: Entry) -> Any:
    return put(g, "cpu" if entry.attrs["device"] == "cuda" else "cuda")


def _traced_back(g: Tensor, entry: Entry) -> Tensor:
    return g.to("cpu" if entry.attrs["device"] == "cuda" else "cuda")


_rule = Rule(_moved_back, _moved_back, _traced_back, frozenset(), (r"\mathrm{to}^{\top}", "toᵀ"))
#: Not in the registry: it computes nothing.
move = Op(
    name="to", family="linear", inputs=("x",), attrs={"device": "cpu"}, forward=put, rules=(_rule,), symbol="to",
)  # fmt: skip


def to(self: Tensor, device: str) -> Tensor:
    """The tensor on a device, "cpu" or "cuda": itself if it is there, else a copy, through which gradients flow.

    Raises ValueError for another device, DeviceError (a RuntimeError) where there is no GPU, MemoryError where it
    has no room.
    """
    device = checked(device)
    return self if self.device == device else apply(move, (self,), {"device": device})


def evaluate(op: Op, values: Sequence[Any], attrs: dict[str, Any], operands: Sequence[Any] = ()) -> Value:
    """What an op computes of values some of which are on the GPU.

    Arrays, lists, indices and masks go there; raises DeviceError for other tensors in the host's memory, unless they
    are single numbers.
    """
    if op is move:
        return put(values[0], attrs["device"])
    refuse_mixed(op, operands)
    from .cuda.eager import evaluate as run

    return run(op, values, attrs)


def refuse_mixed(op: Op, operands: Sequence[Any]) -> None:
    """Raise DeviceError for a tensor in the host's memory among operands of an op that runs on the GPU."""
    for x in operands:
        if isinstance(x, Tensor) and x.device == "cpu" and x.shape and x.dtype.kind == "f":
            shapes = " and ".join(
                f"{x.shape} on {x.device!r}" if isinstance(x, Tensor) else repr(x)[:40] for x in operands
            )
            raise DeviceError(
                f"{op.name}: its operands are on two devices, {shapes}; move them together "
                'with .to("cuda") or .to("cpu")'
            )


Tensor.to = to

__all__ = ["DEVICES", "checked", "device_of", "evaluate", "move", "put", "refuse_mixed", "to"]
