"""autograd_geo: automatic differentiation for teaching and research in the geosciences.

`tensor` makes tensors, functions of NumPy's names record what is done to them, `backward` and `grad`
differentiate; `pointwise`, `linear`, `multilinear` and `custom` declare ops of your own.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import cuda as cuda
from . import device as device
from . import ops, random
from .backward import backward
from .check import GradientError, check_dot, check_grad, check_taylor
from .create import arange, eye, full, linspace, ones, zeros
from .declare import custom, linear, multilinear, pointwise, sample
from .op import functions as _functions
from .ops.elementary import *  # noqa: F403
from .ops.indexing import *  # noqa: F403
from .ops.linalg import *  # noqa: F403
from .ops.reduce import *  # noqa: F403
from .ops.shape import *  # noqa: F403
from .random import seed
from .tape import enable_grad, no_grad, set_grad_enabled
from .tensor import Parameter, Tensor, tensor
from .transform import grad, hessian, hvp, jacobian, jvp, value_and_grad, vjp

if TYPE_CHECKING:
    from . import data as data
    from . import nn as nn
    from . import optim as optim
    from . import viz as viz
    from .anomaly import AnomalyError as AnomalyError
    from .anomaly import detect_anomaly as detect_anomaly
    from .checkpoint import CheckpointError as CheckpointError
    from .checkpoint import load as load
    from .checkpoint import save as save
    from .compiler import compile as compile
    from .diagnosis import diagnose as diagnose
    from .interop.dlpack import from_dlpack as from_dlpack
    from .viz.graph import graph as graph
    from .viz.steps import steps as steps

__version__ = "0.1.0"

_SUBMODULES = ("data", "nn", "optim", "viz")
__all__ = [
    "AnomalyError", "CheckpointError", "GradientError", "Parameter", "Tensor", "arange", "backward", "check_dot",
    "check_grad", "check_taylor", "compile", "cuda", "custom", "detect_anomaly", "diagnose", "enable_grad", "eye",
    "from_dlpack", "full", "grad", "graph", "hessian", "hvp", "jacobian", "jvp", "linear", "linspace", "load",
    "multilinear", "no_grad", "ones", "ops", "pointwise", "random", "sample", "save", "seed", "set_grad_enabled",
    "steps", "tensor", "value_and_grad", "vjp", "zeros", *_SUBMODULES,
    *(name for name in _functions if name in globals()),
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Parts that need more than NumPy load when they are first used."""
    if name in _SUBMODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in ("graph", "steps"):
        return getattr(importlib.import_module(f"{__name__}.viz"), name)
    if name in ("CheckpointError", "load", "save"):
        return getattr(importlib.import_module(f"{__name__}.checkpoint"), name)
    if name == "from_dlpack":
        from .interop.dlpack import from_dlpack

        return from_dlpack
    if name == "compile":
        from .compiler import compile

        return compile
    if name in ("AnomalyError", "detect_anomaly"):
        return getattr(importlib.import_module(f"{__name__}.anomaly"), name)
    if name == "diagnose":
        from .diagnosis import diagnose

        return diagnose
    raise AttributeError(f"autograd_geo has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
