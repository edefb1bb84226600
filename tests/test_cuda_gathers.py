"""Products of patches that are stored nowhere: convolutions on the device, against the CPU; the tables they read."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

from hypothesis import assume, given
from hypothesis import strategies as st

import autograd_geo as ag
from autograd_geo.compiler.moves import APART, ZERO, Move
from autograd_geo.compiler.nodes import INPUT, PRODUCT, SCATTER, Node
from autograd_geo.cuda import gathers, simulated, transposed
from autograd_geo.cuda.gathers import Gather
from autograd_geo.tree import leaves

needs_device = pytest.mark.skipif(not ag.cuda.is_available(), reason="no GPU, and the simulator is off")
RNG = np.random.default_rng(0)


def windows(n: int, k: int, stride: int, dilation: int) -> Any:
    """Positions along an axis of length n, for each window and place in it."""
    count = (n - dilation * (k - 1) - 1) // stride + 1
    return np.arange(count)[:, None] * stride + np.arange(k) * dilation


def conv1d(x: Any, w: Any, stride: int = 1, pad: int = 0, dilation: int = 1) -> Any:
    """(batch, channels, length) and (outputs, channels, size)."""
    x = ag.pad(x, ((0, 0), (0, 0), (pad, pad)))
    return ag.einsum("ncli,oci->nol", x[:, :, windows(x.shape[2], w.shape[2], stride, dilation)], w)


def patches(x: Any, w: Any, stride: int, pad: int, dilation: int) -> Any:
    """Of the last two axes: (..., rows, columns, rows of the window, columns of the window)."""
    x = ag.pad(x, (*[(0, 0)] * (len(x.shape) - 2), (pad, pad), (pad, pad)))
    i, j = (windows(n, k, stride, dilation) for n, k in zip(x.shape[-2:], w.shape[-2:], strict=True))
    return x[..., i[:, None, :, None], j[None, :, None, :]]


def conv2d(x: Any, w: Any, stride: int = 1, pad: int = 0, dilation: int = 1) -> Any:
    """(batch, channels, height, width) and (outputs, channels, rows, columns)."""
    return ag.einsum("nchwij,ocij->nohw", patches(x, w, stride, pad, dilation), w)


def grouped(x: Any, w: Any, stride: int = 1, pad: int = 0, dilation: int = 1) -> Any:
    """(batch, groups, channels, height, width) and (groups, outputs, channels, rows, columns)."""
    return ag.einsum("ngchwij,gocij->ngohw", patches(x, w, stride, pad, dilation), w)


def channels_last(x: Any, w: Any, pad: int = 0) -> Any:
    """(batch, height, width, channels) and (rows, columns, channels, outputs)."""
    x = ag.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    i, j = (windows(n, k, 1, 1) for n, k in zip(x.shape[1:3], w.shape[:2], strict=True))
    return ag.einsum("nhwijc,ijco->nhwo", x[:, i[:, None, :, None], j[None, :, None, :]], w)


def of_shifted(x: Any, w: Any) -> Any:
    """(batch, channels, length) and (outputs, channels, size), from slices that are stacked."""
    count = x.shape[2] - w.shape[2] + 1
    return ag.einsum("incl,oci->nol", ag.stack([x[:, :, k : k + count] for k in range(w.shape[2])]), w)


SIGNAL, FILTERS = (2, 3, 60), (6, 3, 5)
IMAGE, KERNELS = (2, 3, 8, 7), (6, 3, 3, 3)
CASES: dict[str, tuple[Callable[..., Any], tuple[int, ...], tuple[int, ...], dict[str, int]]] = {
    "1-D": (conv1d, SIGNAL, FILTERS, {}),
    "1-D, padded, every second": (conv1d, SIGNAL, FILTERS, {"pad": 2, "stride": 2}),
    "1-D, dilated": (conv1d, SIGNAL, FILTERS, {"pad": 6, "dilation": 3}),
    "1-D, from slices": (of_shifted, SIGNAL, FILTERS, {}),
    "2-D": (conv2d, IMAGE, KERNELS, {}),
    "2-D, padded": (conv2d, IMAGE, KERNELS, {"pad": 1}),
    "2-D, every second": (conv2d, (2, 3, 13, 11), KERNELS, {"pad": 1, "stride": 2}),
    "2-D, dilated": (conv2d, IMAGE, KERNELS, {"pad": 2, "dilation": 2}),
    "2-D, more border than image": (conv2d, (6, 3, 2, 3), (6, 3, 5, 5), {"pad": 3}),
    "2-D, in groups": (grouped, (2, 2, 3, 8, 7), (2, 6, 3, 3, 3), {"pad": 1}),
    "2-D, channels last": (channels_last, (1, 6, 7, 4), (3, 3, 4, 5), {"pad": 1}),
}


#: Where the gradient of the image is a sum over where elements of a product go: results are few beside its elements.
SCATTERED = {
    "1-D, padded, every second", "2-D, every second", "2-D, dilated", "2-D, more border than image",
    "2-D, in groups",
}  # fmt: skip


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the simulator, matmul kernels may read and write what was allocated, and nothing beyond it."""
    from autograd_geo.cuda.pool import Pool

    bounds: dict[int, int] = {}
    take, memory = Pool.take, simulated._memory

    def taken(self: Any, size: int) -> Any:
        block = take(self, size)
        bounds[block.address] = block.address + size
        return block

    def checked(address: int, char: str, count: int) -> Any:
        end = address + count * np.dtype(char).itemsize
        assert any(first <= address and end <= last for first, last in bounds.items()), "outside of the buffers"
        return memory(address, char, count)

    monkeypatch.setattr(Pool, "take", taken)
    monkeypatch.setattr(simulated, "_memory", checked)


@needs_device
@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("case", CASES)
def test_convolutions_and_both_gradients(case: str, dtype: Any, watched: None) -> None:
    fn, shape, kernel, how = CASES[case]
    x, w = RNG.normal(size=shape).astype(dtype), RNG.normal(size=kernel).astype(dtype)
    rtol = 1e-11 if dtype == np.float64 else 1e-4

    def both(x: Any, w: Any) -> Any:
        return ag.value_and_grad(lambda x, w: (fn(x, w, **how) ** 2).sum(), (0, 1))(x, w)

    there = [ag.tensor(v, device="cuda") for v in (x, w)]
    forward, fast = ag.compile(lambda x, w: fn(x, w, **how)), ag.compile(both)
    wanted = fn(ag.tensor(x), ag.tensor(w), **how).numpy()
    np.testing.assert_allclose(forward(*there).numpy(), wanted, rtol=rtol, atol=rtol * np.abs(wanted).max())
    (value, slopes), (wanted_value, wanted_slopes) = fast(*there), both(ag.tensor(x), ag.tensor(w))
    assert value.item() == pytest.approx(wanted_value.item(), rel=rtol)
    for a, b in zip(slopes, wanted_slopes, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=rtol, atol=rtol * np.abs(b.numpy()).max())
    sources = [s for s in forward.source().split("\n\n") if s.strip()]
    assert re.search("_lines", sources[0]) and sources[0].startswith("def matmul"), "the patches were stored"
    assert "_lines" in fast.source()
    scattered = "range(load_l(" in fast.source()
    assert scattered == (case in SCATTERED)


@needs_device
@pytest.mark.gpu
def test_patches_that_are_needed_themselves_are_stored_once() -> None:
    x, w = RNG.normal(size=IMAGE), RNG.normal(size=KERNELS)

    def fn(x: Any, w: Any) -> Any:
        found = patches(x, w, 1, 1, 1)
        return found * 1.0, ag.einsum("nchwij,ocij->nohw", found * 1.0, w)

    fast = ag.compile(fn)
    for a, b in zip(fast(*[ag.tensor(v, device="cuda") for v in (x, w)]), fn(ag.tensor(x), ag.tensor(w)), strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-12, atol=1e-12)


@needs_device
@pytest.mark.gpu
def test_sixteen_bytes_at_a_time_and_tensor_cores() -> None:
    """Four channels lie together; a padded place has all of them, or none."""
    x, w = (RNG.normal(size=s).astype(np.float32) for s in ((1, 6, 7, 4), (3, 3, 4, 5)))
    there = [ag.tensor(v, device="cuda") for v in (x, w)]
    wanted = channels_last(ag.tensor(x.astype("f8")), ag.tensor(w.astype("f8")), pad=1).numpy()
    for precision, most in (("float32", 1e-5), ("tf32", 2e-2), ("bf16", 0.2)):
        fast = ag.compile(lambda x, w: channels_last(x, w, pad=1))
        with ag.cuda.matmul_precision(precision):
            found = fast(*there).numpy()
        assert np.abs(found - wanted).max() < most
        assert "a_0 = load_f4x4(a0 + a_places0 * 4)" in fast.source() and "a_mask0 & a_place_masks0" in fast.source()


def as_matrix(gather: Gather, batch: int) -> Any:
    """The table that a gather stands for."""
    assert gather.lines.min() == 0
    table = gather.lines[:, None] + gather.places
    table = table + gather.batch * np.arange(batch)[:, None, None]
    if gather.line_masks is not None:
        assert gather.place_masks is not None
        table[:, (gather.line_masks[:, None] & gather.place_masks) == 0] = ZERO
    return table


@given(data=st.data())
def test_tables_of_any_windows(data: st.DataObject) -> None:
    """What is found stands for the very elements, in either order, for several images, borders included."""
    draw = data.draw
    height, width, channels = (draw(st.integers(1, 6)) for _ in range(3))
    rows, columns = (draw(st.integers(1, 4)) for _ in range(2))
    stride, dilation, pad = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(0, 4))
    image = np.arange(1, 2 * channels * height * width + 1).reshape(2, channels, height, width)
    padded = np.pad(image, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    i, j = (windows(n, k, stride, dilation) for n, k in zip(padded.shape[2:], (rows, columns), strict=True))
    found = padded[:, :, i[:, None, :, None], j[None, :, None, :]]
    assume(found.size)
    if draw(st.booleans()):  # image by image
        matrices = found.transpose(0, 2, 3, 1, 4, 5).reshape(2, len(i) * len(j), -1)
    else:
        matrices = found.transpose(0, 2, 3, 1, 4, 5).reshape(1, 2 * len(i) * len(j), -1)
    batch, lines, places = matrices.shape
    turned = draw(st.booleans())
    table = np.where(matrices == 0, ZERO, matrices - 1)
    given = table.transpose(0, 2, 1) if turned else table
    gather = gathers._separated(Move(np.ascontiguousarray(given), [image.shape]), batch, lines, places, not turned)
    assert gather is not None
    np.testing.assert_array_equal(as_matrix(gather, batch), table)
    for dtype in (np.float32, np.float64):
        check_width(gather, np.dtype(dtype))


def check_width(gather: Gather, dtype: np.dtype[Any]) -> None:
    """A load of several elements begins at a multiple of as many, and has all of them in order, or none."""
    panel = gather.form(dtype).panel
    table = as_matrix(gather, 1)[0] if panel.along_k else as_matrix(gather, 1)[0].T
    groups = table.reshape(len(table), -1, panel.width)
    there = groups[:, :, 0] != ZERO
    assert (groups[there][:, 0] % panel.width == 0).all() and gather.batch % panel.width == 0
    np.testing.assert_array_equal(groups[there], groups[there][:, :1] + np.arange(panel.width))
    assert (groups[~there] == ZERO).all()


@given(data=st.data())
def test_sums_over_any_windows_are_products(data: st.DataObject) -> None:
    """The gradient of patches, added to where they were taken, and the product that gives the same."""
    draw = data.draw
    images, channels, inner = draw(st.integers(1, 3)), draw(st.integers(2, 4)), draw(st.integers(1, 3))
    height, width = draw(st.integers(5, 7)), draw(st.integers(5, 7))
    i = windows(height, draw(st.integers(1, 2)), 1, 1)
    j = windows(width, draw(st.integers(1, 2)), 1, 1)
    n, c, y, x = np.ix_(*map(np.arange, (images, channels, height, width)))
    if draw(st.booleans()):  # channels last
        shape = (images, height, width, channels)
        positions = ((n * height + y) * width + x) * channels + c
    else:
        shape = (images, channels, height, width)
        positions = ((n * channels + c) * height + y) * width + x
    taken = positions[:, :, i[:, None, :, None], j[None, :, None, :]]
    columns = draw(st.permutations([1, 4, 5]))
    in_product = taken.transpose([0, 2, 3, *columns])  # results by elements of patches
    m, k = in_product.shape[0] * in_product.shape[1] * in_product.shape[2], inner
    order = np.arange(taken.size).reshape(in_product.shape).transpose(np.argsort([0, 2, 3, *columns]))
    axes = draw(st.permutations(range(6)))  # in which what is scattered lies
    table, order = np.ascontiguousarray(taken.transpose(axes)), order.transpose(axes)
    turned = draw(st.booleans()), draw(st.booleans())
    dtype, count = np.dtype(float), taken.size // m
    given = [Node(INPUT, s, dtype) for s in ((k, m) if turned[0] else (m, k), (count, k) if turned[1] else (k, count))]
    product = Node(PRODUCT, (1, m, count), dtype, tuple(given), (1, m, k, count, *turned))
    moved = Node(INPUT, table.shape, dtype)
    scatter = Node(SCATTER, shape, dtype, (moved,), Move(table, [shape]))

    found = transposed._gathered(scatter, product, order, {})
    assert found is not None
    values = {node: np.random.default_rng(0).normal(size=node.shape) for node in given}
    a, b = (x.T if t else x for x, t in zip(values.values(), turned, strict=True))
    expected = np.zeros(positions.size)
    np.add.at(expected, table.reshape(-1), (a @ b).reshape(-1)[order.reshape(-1)])
    batch = found.data[0]
    operands = []
    for operand in found.operands:
        at = as_matrix(operand.gather, batch)
        operands.append(np.where(at == ZERO, 0.0, values[operand.source].reshape(-1)[np.maximum(at, 0)]))
    assert [x.shape for x in operands] == [(batch, found.data[1], found.data[2]), (batch, found.data[3], found.data[2])]
    np.testing.assert_allclose((operands[0] @ operands[1].transpose(0, 2, 1)).reshape(-1), expected, atol=1e-12)


def test_what_is_no_sum_of_two_is_not_taken_for_one() -> None:
    shuffled = RNG.permutation(60).reshape(1, 6, 10)
    assert gathers._separated(Move(shuffled, [(60,)]), 1, 6, 10, True) is None
    one_hole = np.arange(60).reshape(1, 6, 10)
    one_hole[0, 2, 3] = ZERO
    gather = gathers._separated(Move(one_hole, [(60,)]), 1, 6, 10, True)
    assert gather is not None
    np.testing.assert_array_equal(as_matrix(gather, 1), one_hole)
    holes = np.arange(10000).reshape(1, 100, 100)
    holes[0, np.arange(100), np.arange(100)] = ZERO  # a hundred kinds of lines
    assert gathers._separated(Move(holes, [(10000,)]), 1, 100, 100, True) is None
    uneven = np.stack([np.arange(12).reshape(3, 4) + k for k in (0, 5, 11)])
    assert gathers._separated(Move(uneven, [(30,)]), 3, 3, 4, True) is None


def test_elements_of_several_sources_that_are_one() -> None:
    """As `stack` leaves them: each slice counts as a source of its own."""
    table = np.stack([np.arange(5) + k + (k << APART) for k in range(3)])[None]
    gather = gathers._separated(Move(table, [(7,)] * 3), 1, 3, 5, True)
    assert gather is not None
    np.testing.assert_array_equal(as_matrix(gather, 1)[0], np.arange(5) + np.arange(3)[:, None])


@needs_device
@pytest.mark.gpu
def test_patches_whose_gradient_is_also_a_factor() -> None:
    """The product of the patches' gradient is read in another order by one more product, and so it stays."""
    x, w, v = (RNG.normal(size=s) for s in (IMAGE, KERNELS, (27, 27)))

    def fn(x: Any, w: Any, v: Any) -> Any:
        def loss(found: Any) -> Any:
            return (ag.einsum("nchwij,ocij->nohw", found, w) ** 2).sum()

        slope = ag.grad(loss)(patches(x, w, 1, 1, 1))
        back = ag.vjp(lambda x: patches(x, w, 1, 1, 1), x)[1](slope)
        return back, ag.einsum("nchwij,kcij->knhw", slope, v.reshape(27, 3, 3, 3))

    fast = ag.compile(fn)
    wanted = fn(*map(ag.tensor, (x, w, v)))
    for _ in range(2):
        found = fast(*[ag.tensor(t, device="cuda") for t in (x, w, v)])
        for a, b in zip(leaves(found), leaves(wanted), strict=True):
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-10, atol=1e-10)
    assert "range(load_l(" in fast.source()
