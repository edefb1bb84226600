"""Porosity from acoustic impedance: the lecture's workflow and its network, beside simpler and better models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import data, nn, optim, random
from ..data.table import DataError
from ..tape import no_grad

Array = NDArray[np.float64]

SEED = 73073
FRACTION = 0.30  # of the wells, as the lecture samples them, where that leaves enough
ENOUGH = 100


@dataclass
class Model:
    """A fitted model: scaled impedance (n, 1) in, scaled porosity (n, 1) out."""

    name: str
    parameters: int
    predict: Callable[[Array], Array]
    train: float = 0.0  # mean squared errors, of porosity scaled to [-1, 1]
    test: float = 0.0
    history: optim.History | None = None


@dataclass
class Study:
    """Data, scalers and the models fitted to them."""

    source: str
    impedance: data.MinMaxScaler
    porosity: data.MinMaxScaler
    train: tuple[Array, Array]
    test: tuple[Array, Array]
    models: list[Model] = field(default_factory=list)

    @property
    def best(self) -> Model:
        return min(self.models, key=lambda m: m.test)

    def predict(self, model: Model, impedance: Array) -> Array:
        """Porosity for impedances of any shape, in the units of the wells."""
        scaled = self.impedance.transform(np.asarray(impedance, float).reshape(-1, 1))
        porosity: Array = self.porosity.inverse_transform(model.predict(scaled)).reshape(np.shape(impedance))
        return porosity


def _linear(inputs: int, outputs: int, generator: random.Generator) -> nn.Linear:
    init = nn.init
    return nn.Linear(
        inputs, outputs, initialize=init.normalized_xavier, initialize_bias=init.zeros, generator=generator
    )


def lecture_network(generator: random.Generator) -> nn.Module:
    """1 (ReLU) - 10 (ReLU) - 1 (tanh), 33 parameters."""
    return nn.Sequential(
        _linear(1, 1, generator), nn.ReLU(), _linear(1, 10, generator), nn.ReLU(), _linear(10, 1, generator), nn.Tanh()
    )


def smooth_network(generator: random.Generator) -> nn.Module:
    """8 tanh units with a linear output, 25 parameters: no unit can die, none saturates the output."""
    return nn.Sequential(_linear(1, 8, generator), nn.Tanh(), _linear(8, 1, generator))


def prepare(wells: data.Table, impedance: str = "AI", porosity: str = "Porosity", seed: int = SEED) -> Study:
    """Sample, scale to [-1, 1] and split the wells as the lecture does. Raises DataError for too few of them."""
    if len(wells) < 10:
        raise DataError(f"{wells.source}: {len(wells)} wells are too few to train and test on; give at least 10")
    if round(len(wells) * FRACTION) >= ENOUGH:
        wells = wells.select(data.sample_rows(len(wells), FRACTION, seed))
    x_scaler, y_scaler = data.MinMaxScaler(), data.MinMaxScaler()
    x = x_scaler.fit_transform(wells[impedance][:, None])
    y = y_scaler.fit_transform(wells[porosity][:, None])
    x_train, x_test, y_train, y_test = data.train_test_split(x, y, test_size=0.2, seed=seed)
    return Study(wells.source, x_scaler, y_scaler, (x_train, y_train), (x_test, y_test))


def study(
    wells: data.Table, impedance: str = "AI", porosity: str = "Porosity", seed: int = SEED, progress: bool = True
) -> Study:
    """Fit a constant, a straight line, the lecture's network and a smoother one; measure each on the same split."""
    s = prepare(wells, impedance, porosity, seed)
    x, y = s.train
    level = float(y.mean())
    slope, intercept = np.polyfit(x[:, 0], y[:, 0], 1)
    s.models = [
        Model("constant (training mean)", 1, lambda a: np.full_like(a, level)),
        Model("linear regression", 2, lambda a: slope * a + intercept),
        _train(s, "the lecture's network", lecture_network, seed, progress, epochs=300, batch_size=5, lr=0.001),
        _train(s, "network of 8 tanh units", smooth_network, seed, progress, epochs=300, batch_size=len(x), lr=0.02),
    ]
    for model in s.models:
        model.train, model.test = (float(np.mean((model.predict(a) - b) ** 2)) for a, b in (s.train, s.test))
    return s


def _train(
    s: Study, name: str, make: Callable[[random.Generator], nn.Module], seed: int, progress: bool, *,
    epochs: int, batch_size: int, lr: float,
) -> Model:  # fmt: skip
    net = make(random.Generator(seed))
    optimizer = optim.Adam(net.parameters(), lr=lr)
    history = optim.fit(
        net, optimizer, nn.mse_loss, s.train, test=s.test, epochs=epochs, batch_size=batch_size, seed=seed,
        progress=name if progress else False,
    )  # fmt: skip

    def predict(a: Array) -> Array:
        with no_grad():
            result: Array = net(a).numpy()
        return result

    return Model(name, sum(p.size for p in net.parameters()), predict, history=history)


def table_text(s: Study) -> str:
    """The comparison, and what it says."""
    span: Any = s.porosity.data_max_ - s.porosity.data_min_
    lines = [
        f"{len(s.train[0])} wells to train, {len(s.test[0])} to test, from {s.source}",
        f"  {'model':<26}{'parameters':>10}{'train MSE':>12}{'test MSE':>12}{'test RMSE, porosity':>22}",
    ]
    for m in s.models:
        rmse = np.sqrt(m.test) * float(span[0]) / 2
        lines.append(f"  {m.name:<26}{m.parameters:>10}{m.train:>12.4f}{m.test:>12.4f}{rmse:>22.4f}")
    return "\n".join([*lines, "(MSE of porosity scaled to [-1, 1])", verdict(s)])


def verdict(s: Study) -> str:
    """One honest sentence or two on which model won."""
    constant, line, lecture, smooth = s.models
    best = s.best
    sentences = []
    if best in (constant, line):
        sentences.append(f"A simple model wins: {best.name} has the lowest test error, below both networks.")
    else:
        gain = 1 - best.test / line.test
        sentences.append(f"{best.name.capitalize()} has the lowest test error, {gain:.0%} below linear regression.")
    if np.ptp(lecture.predict(np.linspace(-1, 1, 101)[:, None])) < 1e-6:
        sentences.append("With this seed the lecture's network predicts a constant: its first ReLU died.")
    elif smooth.test < lecture.test:
        sentences.append("The lecture's network does worse than the smoother, smaller one.")
    return " ".join(sentences)
