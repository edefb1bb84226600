"""An op by the ops that its NumPy code runs: softmax, norm and their like are taken apart when they are compiled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..op import Op
from ..tape import TRACED, leaf, no_grad, traced_by
from ..tensor import Tensor, wrap
from ..value import SCALAR, Value
from .moves import frozen_key
from .trace import Tracer, needed

_taken: dict[Any, Any] = {}


def recorded_steps(op: Op, specs: Sequence[Any], attrs: dict[str, Any]) -> Any:
    """The entries that an op's NumPy code records when it is run on tensors of these specs; None if it fails."""
    key = op.name, tuple(specs), frozen_key(attrs)
    if key not in _taken:
        _taken[key] = _try_steps(op, specs, attrs)
    return _taken[key]


def _try_steps(op: Op, specs: Sequence[Any], attrs: dict[str, Any]) -> Any:
    tracer = Tracer()
    operands = [leaf(_stand_in(spec), TRACED) for spec in specs]
    try:
        with traced_by(tracer), no_grad(), np.errstate(all="ignore"):
            result = op.forward(*[wrap(e.value, e) for e in operands], **attrs)
    except Exception:
        return None
    if not isinstance(result, Tensor) or result._entry is None or tracer.reads or tracer.inputs:
        return None
    entries = needed([result._entry], tracer.defined)
    if any(e.op is op for e in entries):
        return None  # NumPy's function is this very op: nothing was taken apart
    return entries, operands, result._entry, tracer.defined


def _stand_in(spec: Any) -> Value:
    shape, dtype = spec
    return 0.5 if spec == SCALAR else np.full(shape, 1, dtype)
