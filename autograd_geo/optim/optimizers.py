"""Optimisers: from gradients to new parameters."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..tensor import Tensor

State = dict[str, Any]


class Optimizer:
    """Base class: `step()` updates every parameter that has a gradient, `zero_grad()` forgets the gradients.

    Raises TypeError for parameters that are not leaves requiring a gradient, ValueError for none, or for
    settings out of range.
    """

    lr: float

    def __init__(self, parameters: Iterable[Tensor], lr: float) -> None:
        self.parameters = list(parameters)
        if not self.parameters:
            raise ValueError(f"{type(self).__name__} got no parameters; pass model.parameters()")
        for p in self.parameters:
            if not isinstance(p, Tensor) or not p.requires_grad or not p.is_leaf:
                raise TypeError(f"{type(self).__name__} updates leaves that require a gradient, not {p!r:.80}")
        if not lr >= 0 or math.isinf(lr):
            raise ValueError(f"the learning rate must be a finite number >= 0, not {lr!r}")
        self.lr = lr
        self.state: list[State] = [{} for _ in self.parameters]

    def step(self) -> None:
        """Update the parameters from their gradients."""
        for p, state in zip(self.parameters, self.state, strict=True):
            g = p.grad
            if g is not None:
                out = p.buffer()  # first: any further reference would make it a new one
                if p.ndim:
                    p.hold(self.update(p._value, g._value, state, out))
                else:
                    value, grad, out = np.atleast_1d(p._value, g._value, out)
                    p.hold(self.update(value, grad, state, out)[0])

    def update(self, value: Any, grad: Any, state: State, out: Any) -> Any:
        """The new value of one parameter, written into `out` and returned.

        All are arrays of at least one axis; `out` may be `value` itself.
        """
        raise NotImplementedError

    def zero_grad(self) -> None:
        """Set every parameter's `.grad` to None."""
        for p in self.parameters:
            p.grad = None

    def state_dict(self) -> dict[str, Any]:
        """A copy of the learning rate and of what was accumulated for each parameter."""
        return {"lr": self.lr, "state": [{k: np.copy(v) for k, v in s.items()} for s in self.state]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict()` returned. Raises ValueError where it is for another number of parameters."""
        if len(state["state"]) != len(self.parameters):
            raise ValueError(f"this state is for {len(state['state'])} parameters, here are {len(self.parameters)}")
        self.lr = float(state["lr"])
        self.state = [{k: np.copy(v) for k, v in s.items()} for s in state["state"]]


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

    def update(self, value: Any, grad: Any, state: State, out: Any) -> Any:
        if self.weight_decay:
            grad = grad + self.weight_decay * value
        if self.momentum:
            v = state.get("velocity")
            state["velocity"] = v = np.array(grad) if v is None else self.momentum * v + grad
            grad = grad + self.momentum * v if self.nesterov else v
        return np.subtract(value, self.lr * grad, out=out)


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

    def update(self, value: Any, grad: Any, state: State, out: Any) -> Any:
        if self.weight_decay:
            grad = grad + self.weight_decay * value
        if not state:
            state |= {"step": 0, "mean": np.zeros_like(value), "square": np.zeros_like(value)}
        b1, b2 = self.betas
        state["step"] = t = int(state["step"]) + 1
        m, v = state["mean"], state["square"]
        np.multiply(m, b1, out=m)
        m += (1 - b1) * grad
        np.multiply(v, b2, out=v)
        v += (1 - b2) * (grad * grad)
        correction = math.sqrt(1 - b2**t)
        root = np.sqrt(v)
        root += self.eps * correction
        step = np.divide(m, root, out=root)
        step *= self.lr * correction / (1 - b1**t)
        return np.subtract(value, step, out=out)
