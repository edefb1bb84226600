"""Optimisers: from gradients to new parameters."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from ..cuda.array import DeviceArray, on_host
from ..device import put
from ..tape import TRACING, mode, no_grad, tracer
from ..tensor import Tensor, wrap
from ..value import unmasked

State = dict[str, Any]


def _step_on_device(optimizer: Optimizer) -> None:
    """Update the parameters that are on a device: recorded, or, after too many recordings, op by op."""
    there = [p for p in optimizer.parameters if p.device != "cpu"]
    if mode() & TRACING:
        return optimizer._traced_step(tracer(), there)
    with no_grad():
        for p, g, state in optimizer._with_gradients(there):
            held = {name: wrap(v) if isinstance(v, DeviceArray) else v for name, v in state.items()}
            change, fresh = optimizer.update(p.detach(), g.detach(), held, optimizer)
            new = (p.detach() - change)._value
            state |= {name: v._value if isinstance(v, Tensor) else v for name, v in fresh.items()}
            p.hold(new)


class Optimizer:
    """Base class: `step()` updates every parameter that has a gradient, `zero_grad()` forgets the gradients.

    Raises TypeError for parameters that are not leaves requiring a gradient, ValueError for none, for one twice, or for
    settings out of range.
    """

    lr: float

    def __init__(self, parameters: Iterable[Tensor], lr: float) -> None:
        self.parameters = tuple(parameters)
        if not self.parameters:
            raise ValueError(f"{type(self).__name__} got no parameters; pass model.parameters()")
        for p in self.parameters:
            if not isinstance(p, Tensor) or not p.requires_grad or not p.is_leaf:
                raise TypeError(f"{type(self).__name__} updates leaves that require a gradient, not {p!r:.80}")
        first: dict[int, int] = {}
        for k, p in enumerate(self.parameters):
            if first.setdefault(id(p), k) != k:
                raise ValueError(
                    f"{type(self).__name__} got one tensor twice, as parameters {first[id(p)]} and {k}, and would step "
                    "it twice; pass each once, as one module's parameters() does"
                )
        if not lr >= 0 or math.isinf(lr):
            raise ValueError(f"the learning rate must be a finite number >= 0, not {lr!r}")
        self.lr = lr
        self.state: tuple[State, ...] = tuple([{} for _ in self.parameters])

    def step(self) -> None:
        """Update the parameters from their gradients."""
        if mode() & TRACING:
            return self._traced_step(tracer(), self.parameters)
        if any(p.device != "cpu" and p.grad is not None for p in self.parameters):
            self._step_there(self)
        for p, state in zip(self.parameters, self.state, strict=True):
            g = p.grad
            if g is not None and p.device == "cpu":
                out = p.buffer()  # first: any further reference would make it a new one
                self._settle(p, state)
                change, fresh = self.update(p._value, g._value, state, self)
                state |= fresh
                p.hold(np.subtract(p._value, change, out=out))

    @functools.cached_property
    def _step_there(self) -> Any:
        """Updates all parameters that are on a device in one launch: the step is recorded there once."""
        from ..compiler import compile

        return compile(_step_on_device)

    def _settle(self, p: Tensor, state: State) -> None:
        """What is accumulated is where the parameter is, also after that has moved."""
        if not state:
            state |= self._initial(p)
        elsewhere = DeviceArray if p.device == "cpu" else np.ndarray
        if elsewhere in map(type, state.values()):
            state |= {name: put(v, p.device) for name, v in state.items() if type(v) is elsewhere}

    def _initial(self, p: Tensor) -> State:
        """What is accumulated for a parameter before its first update, where the parameter is."""
        if p.device == "cpu":
            return self.initial(p._value)
        state = self.initial(np.empty(p.shape, p.dtype))
        return {name: put(v, p.device) if isinstance(v, np.ndarray) else v for name, v in state.items()}

    def _traced_step(self, tracer: Any, parameters: Collection[Tensor]) -> None:
        """The same as ops on tensors; settings and state are read anew each time the recording runs."""
        settings = tracer.settings(self)
        with no_grad():
            for p, g, state in self._with_gradients(parameters):
                slots = {name: tracer.slot(state, name) for name in state}
                change, fresh = self.update(p, g, slots, settings)
                tracer.assign(p, p - change)
                for name, new in fresh.items():
                    tracer.fill(state, name, new)

    def _with_gradients(self, parameters: Collection[Tensor]) -> Iterator[tuple[Tensor, Tensor, State]]:
        """Those of these that have a gradient, with it and with what is accumulated for them."""
        some = set(map(id, parameters))
        for p, state in zip(self.parameters, self.state, strict=True):
            g = p.grad if id(p) in some else None
            if g is not None:
                self._settle(p, state)
                yield p, g, state

    def initial(self, value: Any) -> State:
        """What is accumulated for a parameter before its first update."""
        return {}

    def update(self, value: Any, grad: Any, state: Mapping[str, Any], settings: Any) -> tuple[Any, State]:
        """What to subtract from a parameter, and what changes of its state, as new arrays.

        Written for arrays and tensors alike; `settings` has the attributes of this optimiser.
        """
        raise NotImplementedError

    def zero_grad(self) -> None:
        """Set every parameter's `.grad` to None."""
        for p in self.parameters:
            p.grad = None

    def state_dict(self) -> dict[str, Any]:
        """A copy of the learning rate and of what was accumulated for each parameter."""
        return {"lr": self.lr, "state": [{k: copy.copy(on_host(v)) for k, v in s.items()} for s in self.state]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict()` returned.

        Raises KeyError for other names than this optimiser's, ValueError for another number of parameters, shapes
        that differ and numbers out of range, TypeError for what is not numeric; then nothing has been changed.
        """
        if state.keys() != {"lr", "state"}:
            raise KeyError(f"a state of {type(self).__name__} has lr and state, not {sorted(state)}")
        if len(state["state"]) != len(self.parameters):
            raise ValueError(f"this state is for {len(state['state'])} parameters, here are {len(self.parameters)}")
        lr = float(state["lr"])
        if not 0 <= lr < math.inf:
            raise ValueError(f"the learning rate must be a finite number >= 0, not {lr!r}")
        fresh = [self._fitting(n, p, s) for n, (p, s) in enumerate(zip(self.parameters, state["state"], strict=True))]
        self.lr = lr
        for mine, new in zip(self.state, fresh, strict=True):  # in place: recordings hold these dicts
            mine.clear()
            mine |= new

    def _fitting(self, n: int, parameter: Tensor, given: Mapping[str, Any]) -> State:
        """A copy of what was accumulated for parameter `n`, if that is what this optimiser accumulates for it."""
        wanted = self.initial(np.empty(parameter.shape, parameter.dtype))
        if given and given.keys() != wanted.keys():
            raise KeyError(
                f"state[{n}]: {type(self).__name__} accumulates {sorted(wanted)}, the state has {sorted(given)}"
            )
        fresh: State = {}
        for name, value in given.items():
            like, array = np.asarray(wanted[name]), unmasked(value, f"state[{n}][{name!r}]")
            if array.dtype.kind not in ("iu" if like.dtype.kind == "i" else "iuf"):
                raise TypeError(f"state[{n}][{name!r}] has dtype {array.dtype}, this optimiser needs {like.dtype}")
            if array.shape != like.shape:
                raise ValueError(f"state[{n}][{name!r}] has shape {array.shape}, its parameter needs {like.shape}")
            if like.dtype.kind == "i" and array < 0:
                raise ValueError(f"state[{n}][{name!r}] counts from 0, the state gives {array}")
            fresh[name] = int(array) if like.dtype.kind == "i" else put(np.array(array), parameter.device)
        return fresh


class SGD(Optimizer):
    """Stochastic gradient descent, w -= lr * v.

    v is the gradient; with `momentum` m, v = m v + g (Polyak, 1964); with `nesterov`, the step is g + m v
    (Sutskever et al., 2013). `weight_decay` d adds d w to the gradient.
    """

    def __init__(
        self, parameters: Iterable[Tensor], lr: float = 0.01, momentum: float = 0.0, nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__(parameters, lr)
        if not 0 <= momentum < 1 or weight_decay < 0:
            raise ValueError(f"momentum must be in [0, 1) and weight_decay >= 0, not {momentum!r}, {weight_decay!r}")
        if nesterov and not momentum:
            raise ValueError("Nesterov's method needs a momentum above 0")
        self.momentum, self.nesterov, self.weight_decay = momentum, nesterov, weight_decay

    def initial(self, value: Any) -> State:
        return {"velocity": np.zeros_like(value)} if self.momentum else {}

    def update(self, value: Any, grad: Any, state: Mapping[str, Any], settings: Any) -> tuple[Any, State]:
        if self.weight_decay:
            grad = grad + settings.weight_decay * value
        if not self.momentum:
            return settings.lr * grad, {}
        v = settings.momentum * state["velocity"] + grad
        return settings.lr * (grad + settings.momentum * v if self.nesterov else v), {"velocity": v}


class Adam(Optimizer):
    """Adam (Kingma and Ba, 2015, algorithm 1): steps of size about `lr` along m/sqrt(v), both bias-corrected.

    `weight_decay` d adds d w to the gradient.
    """

    def __init__(
        self, parameters: Iterable[Tensor], lr: float = 0.001, betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8, weight_decay: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__(parameters, lr)
        if not all(0 <= b < 1 for b in betas) or eps < 0 or weight_decay < 0:
            raise ValueError(
                f"betas must be in [0, 1), eps and weight_decay >= 0; not {betas}, {eps!r}, {weight_decay!r}"
            )
        self.betas, self.eps, self.weight_decay = betas, eps, weight_decay

    def initial(self, value: Any) -> State:
        return {"step": 0, "mean": np.zeros_like(value), "square": np.zeros_like(value)}

    def update(self, value: Any, grad: Any, state: Mapping[str, Any], settings: Any) -> tuple[Any, State]:
        if self.weight_decay:
            grad = grad + settings.weight_decay * value
        b1, b2 = settings.betas
        t = state["step"] + 1
        m = b1 * state["mean"] + (1 - b1) * grad
        v = b2 * state["square"] + (1 - b2) * (grad * grad)
        correction = (1 - b2**t) ** 0.5
        rate = settings.lr * correction / (1 - b1**t)
        step = rate * m / (np.sqrt(v) + settings.eps * correction)
        return step, {"step": t, "mean": m, "square": v}
