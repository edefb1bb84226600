"""Graphs of a tape: what they say, boxes that open, files and pages."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

import autograd_geo as ag
from autograd_geo import nn
from autograd_geo.op import registry
from autograd_geo.tape import history
from autograd_geo.tensor import entry_of
from autograd_geo.viz import render
from autograd_geo.viz.boxes import LOOP, Box, shown, tree
from autograd_geo.viz.lesson_page import lesson_data
from autograd_geo.viz.mathematics import typeset
from autograd_geo.viz.theme import dark
from autograd_geo.viz.values import names

SVG = "{http://www.w3.org/2000/svg}"


def example() -> ag.Tensor:
    x = ag.tensor(-2.0, requires_grad=True)
    y = ag.tensor(5.0, requires_grad=True)
    z = ag.tensor(-4.0, requires_grad=True)
    f = ((x + y) * z) ** 2
    return f


def network() -> ag.Tensor:
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    y = net(np.ones((5, 3)))
    return nn.mse_loss(y, np.zeros((5, 1)))


def wave(steps: int) -> ag.Tensor:
    c = ag.tensor(np.full(20, 0.2), requires_grad=True)
    before, now = np.zeros(20), ag.zeros(20)
    now[5] = 1.0
    total: Any = 0.0
    for _ in range(steps):
        before, now = now, 2 * now - before + c * (np.roll(now, 1) - 2 * now + np.roll(now, -1))
        total = total + now[9] ** 2
    return total  # type: ignore[no-any-return]


def irregular(count: int) -> ag.Tensor:
    """Operations in an order that never repeats."""
    rng = np.random.default_rng(0)
    values = [ag.tensor(0.5 + k, requires_grad=True) for k in range(40)]
    functions: list[Callable[[Any], Any]] = [ag.sin, ag.cos, ag.tanh, lambda x: x * 0.5, lambda x: x + 1.0]
    for function, k in zip(rng.choice(functions, count), rng.integers(0, 40, count), strict=True):
        values[k] = function(values[k])
    return ag.stack(values).sum()


def texts(svg: str) -> list[str]:
    return ["".join(t.itertext()) for t in ElementTree.fromstring(svg).iter(f"{SVG}text")]


# --- what it says ---------------------------------------------------------------------------------------------


def test_values_gradients_and_local_derivatives() -> None:
    f = example()
    dot = ag.graph(f).dot
    local = ("2·<i>b</i> = −24", "<i>z</i> = −4", "<i>a</i> = 3")
    for text in ("gradient 96", "gradient −72", "gradient −24", "144", "<b>x</b>", "<b>f</b>", *local):
        assert text in dot
    assert dot.count("->") == 6
    assert "rankdir=TB" in ag.graph(f, rankdir="TB").dot
    with pytest.raises(ValueError, match="rankdir"):
        ag.graph(f, rankdir="up")


def test_a_gradient_that_does_not_exist_is_not_drawn_as_zero() -> None:
    x = ag.tensor([1.0, 2.0], requires_grad=True)
    assert "gradient not computed" in ag.graph(x * 2.0).dot
    assert "gradient 0" not in ag.graph(x * 2.0).dot
    assert "constant" in ag.graph(ag.tensor(1.0)).dot


def test_shape_and_dtype_of_what_is_not_one_float64() -> None:
    x = ag.tensor(np.ones((3, 4), np.float32), requires_grad=True, name="x")
    dot = ag.graph((x * x).sum()).dot
    assert "float32 3×4" in dot
    assert "all 1" in dot
    assert "0 … 11" in ag.graph(ag.tensor(np.arange(12))).dot
    assert "nan … nan" in ag.graph(ag.tensor(np.full(12, np.nan))).dot
    assert "float64" not in ag.graph(example()).dot


def test_both_paths_of_a_square_are_drawn() -> None:
    x = ag.tensor(3.0, requires_grad=True)
    assert ag.graph(x * x).dot.count("->") == 2


def test_derivatives_of_products_name_the_other_operand_and_others_are_quotients() -> None:
    weight = ag.tensor(np.ones((2, 3)), requires_grad=True)
    v = ag.tensor(np.ones(3), requires_grad=True)
    product = weight @ v
    dot = ag.graph(ag.max(product)).dot
    assert "label=<<i>v</i>>" in dot
    assert "label=<<i>weight</i>>" in dot
    assert "∂<i>product</i>" in dot


@pytest.mark.parametrize("name", [n for n, op in registry.items() if op.family == "pointwise"])
def test_every_partial_is_well_formed_markup(name: str) -> None:
    op = registry[name]
    assert isinstance(op.rules, tuple)
    for rule in op.rules:
        if rule is not None and rule.partial is not None:
            text = typeset(rule.partial, {x: f"<{x}>&1" for x in op.inputs})
            shown = "".join(ElementTree.fromstring(f"<t>{text.markup.replace('&nbsp;', ' ')}</t>").itertext())
            assert shown.strip()
            assert rule.label == typeset(rule.partial, {}).plain


def test_mathematics_is_set() -> None:
    x = ag.tensor(2.0, requires_grad=True)
    w12 = ag.tensor(3.0, requires_grad=True)
    dot = ag.graph(ag.log(x) + ag.sqrt(w12) + ag.relu(x) + x**3).dot
    assert 'sides="B">1</td></tr><tr><td><i>x</i></td>' in dot  # 1/x, one above the other
    assert '3·<i>x</i><sup><font point-size="8">2</font></sup> = 12' in dot
    assert "if <i>x</i> ≤ 0" in dot
    h = ag.sin(w12)
    assert 'cos(<i>w</i><sub><font point-size="8">12</font></sub>)' in ag.graph(h).dot


def test_drawing_after_backward_small_yes_large_no() -> None:
    f = example()
    f.backward()
    assert "gradient 96" in ag.graph(f).dot
    loss = (ag.tensor(np.ones(1000), requires_grad=True) * 2.0).sum()
    before = ag.graph(loss)
    loss.backward()
    with pytest.raises(RuntimeError, match="retain_graph"):
        ag.graph(loss)
    with pytest.raises(RuntimeError, match="retain_graph"):
        before.collapse()
    assert "gradient 1" in before.dot


def test_drawing_changes_nothing() -> None:
    loss = network()
    ag.graph(loss, depth=0)._repr_mimebundle_()
    assert all(e.root is None and e.grad is None for e in history(entry_of(loss)) if e.op is None)
    loss.backward()


# --- names and modules ----------------------------------------------------------------------------------------


def test_parameters_have_dotted_names_and_modules_are_frames() -> None:
    drawing = ag.graph(network())
    for text in ("net.layers.0.weight", "net.layers.2.bias", "<b>net</b>", "Sequential", "Linear(4, 1)"):
        assert text in drawing.dot
    assert drawing.closed == []
    closed = ag.graph(network(), depth=0)
    assert closed.closed == ["net"]
    assert "net.layers" not in closed.dot
    assert "and 5 leaves" in closed.dot  # four parameters and the input
    assert closed.expand("net").closed == ["net.layers.0", "net.layers.2"]
    assert closed.expand("net.layers.2").closed == ["net.layers.0"]
    assert ag.graph(network(), depth=1).closed == ["net.layers.0", "net.layers.2"]
    assert ag.graph(network(), depth=2).closed == []


def test_of_all_that_a_call_records_only_its_result_has_the_name() -> None:
    net = nn.Sequential(nn.Linear(1, 2), nn.Tanh())
    y = net(np.ones(1))
    for _ in range(3):
        y = y * 2.0
    found = names(entry_of(y))
    assert sorted(name for name in found.values() if name.startswith("y")) == ["y", "y₂", "y₃", "y₄"]
    assert found[entry_of(y)] == "y₄"


def test_what_has_no_name_gets_one_that_is_free() -> None:
    c = ag.tensor(1.0, requires_grad=True)
    output = ag.stack([ag.sin(c * float(k)) for k in range(30)]).sum()
    found = list(names(entry_of(output)).values())
    assert len(set(found)) == len(found) == 63
    assert {"a", "b", "c", "w", "t1", "t42"} <= set(found)


def test_modules_in_containers_methods_and_tuples() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            self.parts = {"a": nn.Linear(2, 2), "<b>:": nn.Linear(2, 2)}
            self.same = nn.Identity()

        def forward(self, x: Any) -> tuple[Any, Any]:
            first = self.same(self.parts["a"](x))
            return first, self.parts["<b>:"](first)

    class Outer:
        def __init__(self) -> None:
            self.model = Two()

        def loss(self) -> Any:
            first, second = self.model(np.ones(2))
            return (first * second).sum()

    drawing = ag.graph(Outer().loss(), depth=5)
    for text in ("<b>model</b>", "model.parts.a.weight", "model.parts.&lt;b&gt;:.bias"):
        assert text in drawing.dot
    assert ElementTree.fromstring(drawing.svg()) is not None


def test_modules_leave_nothing_on_what_is_not_recorded() -> None:
    net = nn.Linear(2, 2)
    with ag.no_grad():
        assert not net(np.ones(2)).requires_grad
    x = ag.tensor(np.ones(2), requires_grad=True)
    assert nn.Identity()(x) is x
    assert not hasattr(entry_of(x), "call")


# --- boxes ----------------------------------------------------------------------------------------------------


def folded(output: ag.Tensor) -> Box:
    return tree(history(entry_of(output)), folded=True)


def counts(box: Box) -> list[int]:
    return [len(b.items) for b in box.boxes() if b.kind == LOOP]


@pytest.mark.parametrize("make", [lambda: wave(50), lambda: irregular(700), network, example])
def test_every_operation_is_in_the_boxes_once_in_order(make: Callable[[], ag.Tensor]) -> None:
    output = make()
    top = folded(output)
    operations = [e for e in history(entry_of(output)) if e.op is not None]
    assert list(top.entries()) == operations
    boxes = list(top.boxes())
    assert len({b.name for b in boxes}) == len(boxes)
    for opened in ({top}, {top, *boxes}, {top, *boxes[::2]}):
        seen = [e for item, _ in shown(top, opened) for e in _entries(item)]
        assert seen == operations


def _entries(item: Any) -> list[Any]:
    return [e for box in item for e in box.entries()] if isinstance(item, tuple) else [item]


def test_loops_are_found() -> None:
    x = ag.tensor(1.0, requires_grad=True)
    y = x
    for _ in range(7):
        y = ag.sin(y) * 2.0
        for _ in range(5):
            y = ag.cos(y) + 1.0
    top = folded(y)
    assert counts(top)[0] == 7
    assert counts(top)[1:] == [5] * 7
    assert [len(i.items) for i in top.items if isinstance(i, Box)] == [7]
    first = top.items[0]
    assert isinstance(first, Box)
    assert first.name == "loop1"
    assert {b.name for b in first.boxes() if b.kind == LOOP} == {f"loop1[{k}].loop1" for k in range(7)}


def test_a_loop_whose_first_passes_record_less_begins_where_its_body_does() -> None:
    top = folded(wave(200))  # long enough for the interpreter to specialise the loop's instructions
    loops = [item for item in top.items if isinstance(item, Box)]
    assert [len(loop.items) for loop in loops] == [199]
    first = next(loops[0].entries())
    assert first.op is registry["multiply"]  # 2 * now


def test_a_network_in_a_loop() -> None:
    net = nn.Sequential(nn.Linear(1, 3), nn.Tanh(), nn.Linear(3, 1))
    loss: Any = 0.0
    for k in range(50):
        loss = loss + (net(np.array([k / 50])) - 1.0).sum() ** 2
    drawing = ag.graph(loss)
    assert drawing.closed == ["loop1[1]"]
    for text in ("loop1[0].net.layers.0", "49 iterations", "×50", "net.layers.2.weight"):
        assert text in drawing.dot
    other = drawing.collapse().expand("loop1[7].net")
    assert other.closed == ["loop1[0]", "loop1[7].net.layers.0", "loop1[7].net.layers.2", "loop1[8]"]
    assert drawing.collapse("loop1").closed == ["loop1"]
    assert ag.graph(loss, expand="loop1[49]").closed == ["loop1[1]", "loop1[49].net"]
    with pytest.raises(KeyError, match=r"no box is called 'loop7'; boxes are .*loop1"):
        drawing.expand("loop7")


@pytest.mark.parametrize("make", [lambda: wave(900), lambda: irregular(10_000)])
def test_ten_thousand_operations_are_a_readable_picture(make: Callable[[], ag.Tensor]) -> None:
    drawing = ag.graph(make())
    assert len(re.findall(r"^\t*\w+ \[label", drawing.dot, re.MULTILINE)) < 80
    assert len(drawing.dot) < 60_000
    assert "too many to draw at once" in drawing.dot
    assert f".expand(&#x27;{drawing.closed[0]}&#x27;)" in drawing.dot
    assert drawing.expand(drawing.closed[0]).dot != drawing.dot


def test_many_leaves_share_cards() -> None:
    x = [ag.tensor(float(k), requires_grad=True, name=f"x{k}") for k in range(500)]
    total = ag.stack(x).sum() + ag.stack(x[:100]).sum()
    dot = ag.graph(total).dot
    assert "100 leaves" in dot
    assert "400 leaves" in dot
    assert "x0 … x99" in dot


# --- light and dark, files, pages -----------------------------------------------------------------------------


def test_rendering(tmp_path: Path) -> None:
    pytest.importorskip("pygraphviz")
    drawing = ag.graph(example())
    svg = drawing.svg()
    assert "gradient 96" in texts(svg)
    kinds = ("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF"), ("html", b"<!DOCTYPE html>"), ("dot", b"digraph")
    for kind, magic in kinds:
        path = tmp_path / f"g.{kind}"
        drawing.save(path)
        assert path.read_bytes().startswith(magic)
    drawing.png(tmp_path / "picture")
    assert (tmp_path / "picture").read_bytes() == (tmp_path / "g.png").read_bytes()
    assert drawing._repr_svg_() == svg
    assert drawing._repr_mimebundle_()["image/svg+xml"] == svg
    with pytest.raises(ValueError, match=r"\.svg, \.png, \.pdf"):
        drawing.save(tmp_path / "g.bmp")


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    drawing = ag.graph(example())
    with pytest.raises(FileNotFoundError, match="the graph cannot be written: No such file"):
        drawing.save(tmp_path / "missing" / "g.svg")
    (tmp_path / "g.html").mkdir()
    with pytest.raises(IsADirectoryError, match="the graph cannot be written"):
        drawing.html(tmp_path / "g.html")


def test_light_and_dark() -> None:
    light, adaptive, night = (ag.graph(example(), theme=t).svg() for t in ("light", "auto", "dark"))
    colors = {c for _, c in re.findall(r'(fill|stroke)="(#\w+)"', light)}
    assert len(colors) > 4
    assert "<style>" not in light + night
    assert "prefers-color-scheme:dark" in adaptive
    for color in colors:
        assert f'"{color}"' not in night
        assert f'"{dark(color)}"' in night
        assert f'="{color}"]{{' in adaptive
    with pytest.raises(ValueError, match="theme may be"):
        ag.graph(example(), theme="blue")


@pytest.fixture
def no_graphviz(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pygraphviz", None)
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.usefixtures("no_graphviz")
@pytest.mark.parametrize("rankdir", ["LR", "TB"])
@pytest.mark.parametrize("make", [example, network, lambda: wave(100)])
def test_without_graphviz(make: Callable[[], ag.Tensor], rankdir: str, tmp_path: Path) -> None:
    drawing = ag.graph(make(), rankdir=rankdir)
    found = texts(drawing.svg())
    for card in drawing._drawing.cards.values():
        assert " ".join(card.rows[0].plain.split()) in found
    rectangles = [
        tuple(float(r.get(key, "")) for key in ("x", "y", "width", "height"))
        for r in ElementTree.fromstring(drawing.svg()).iter(f"{SVG}rect")
    ]
    assert len(rectangles) == len(drawing._drawing.cards)
    for k, (x, y, w, h) in enumerate(rectangles):
        for u, v, p, q in rectangles[:k]:
            assert x + w <= u or u + p <= x or y + h <= v or v + q <= y  # no card covers another
    drawing.html(tmp_path / "g.html")
    with pytest.raises(ImportError, match=r"install Graphviz: pip install 'autograd-geo\[viz\]'"):
        drawing.png(tmp_path / "g.png")


EVIL = (
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "a'b&amp;c", r"\N \G \frac{x}{y}", "x\x00\x1b\ud800",
    "]]> --> <!--", "\n", "$t {t}", "näme 名", "</style></svg>",
)  # fmt: skip


@pytest.mark.parametrize("name", EVIL)
@pytest.mark.parametrize("graphviz", [True, False])
def test_names_are_text_and_nothing_else(name: str, graphviz: bool, request: pytest.FixtureRequest) -> None:
    if not graphviz:
        request.getfixturevalue("no_graphviz")
    x = ag.tensor(2.0, requires_grad=True, name=name)
    f = x * x + ag.tensor(1.0, name=name)
    f.name = name
    drawing = ag.graph(f)
    svg = drawing.svg()
    tags = {e.tag.removeprefix(SVG) for e in ElementTree.fromstring(svg).iter()}
    assert tags <= {"svg", "style", "g", "title", "path", "polygon", "polyline", "ellipse", "rect", "text", "a"}
    assert not any(key.startswith("on") for e in ElementTree.fromstring(svg).iter() for key in e.attrib)
    readable = re.sub(r"[\x00\x1b\ud800]", "\ufffd", name)
    assert " ".join(readable.split()) in " ".join(texts(svg))


def test_nothing_is_said_of_the_systems_fonts() -> None:
    pytest.importorskip("pygraphviz")
    code = "import autograd_geo as ag; ag.graph(ag.tensor(1.0, requires_grad=True) * 2).svg()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Fontconfig" not in done.stderr and "<svg" not in done.stdout


def test_what_others_write_while_fonts_are_read_is_passed_on(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pygraphviz = pytest.importorskip("pygraphviz")

    class Noisy:
        def __init__(self, **_: object) -> None: ...

        def draw(self, **_: object) -> None:
            os.write(2, b"Fontconfig warning: reset-dirs\nsomething else\n")

    monkeypatch.setattr(pygraphviz, "AGraph", Noisy)
    render._load_fonts.__wrapped__()
    assert capfd.readouterr().err == "something else\n"


def test_a_style_reaches_only_what_follows_the_reader() -> None:
    x = ag.tensor(2.0, requires_grad=True)
    auto, light, dark = (ag.graph(x * x, theme=theme).svg() for theme in ("auto", "light", "dark"))
    assert "<style>" in auto and 'class="autograd-geo"' in auto
    selectors = re.findall(r"([^{}]*)\{(?:fill|stroke):", auto)
    assert selectors and all(".autograd-geo" in s for s in selectors)
    drawn = lesson_data(ag.steps(x * x))["drawing"]["svg"]
    for other in (light, dark, drawn):
        assert "<svg" in other and "autograd-geo" not in other and "<style>" not in other


def test_a_page_needs_nothing_else_and_its_links_lead_somewhere(tmp_path: Path) -> None:
    drawing = ag.graph(wave(100))
    drawing.html(tmp_path / "g.html")
    page = (tmp_path / "g.html").read_text("utf-8")
    views = page.count('<div class="view"')
    links = {int(k) for k in re.findall(r'xlink:href="#view-(\d+)"', page)}
    assert views > 2
    assert links == set(range(views))
    assert page.count('href="') == len(re.findall(r'xlink:href="#view-\d+"', page))
    assert not re.search(r'(src|href)="(?!#)', page)
    assert page.count("<script") == 1
    bundle = drawing._repr_mimebundle_()
    assert bundle["text/html"] in page
    assert "text/html" not in ag.graph(example())._repr_mimebundle_()


def test_boxes_open_together_in_any_order_where_there_is_room() -> None:
    views = ag.graph(network(), depth=1)._views()

    def click(view: int, box: str) -> int:
        root = ElementTree.fromstring(views[view])
        (link,) = [a for a in root.iter(f"{SVG}a") if box in " ".join(a.itertext()).split()]
        return int(link.attrib["{http://www.w3.org/1999/xlink}href"].removeprefix("#view-"))

    def has(view: int, *weights: int) -> bool:
        return all((f"net.layers.{k}.weight" in views[view]) == (k in weights) for k in (0, 2))

    first, second = click(0, "net.layers.0"), click(0, "net.layers.2")
    both = click(first, "net.layers.2")
    assert both == click(second, "net.layers.0")
    assert has(0) and has(first, 0) and has(second, 2) and has(both, 0, 2)
    assert click(both, "net.layers.0") == second


def test_boxes_open_and_close_in_a_browser(tmp_path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium")
    pytest.importorskip("pygraphviz")
    ag.graph(network(), depth=0).html(tmp_path / "g.html")
    probe = """<script>
      const seen = () => [...document.querySelectorAll(".view")].filter(v => !v.hidden);
      const click = text => [...seen()[0].querySelectorAll("a")].find(a => a.textContent.includes(text))
        .dispatchEvent(new MouseEvent("click", {bubbles: true, cancelable: true}));
      const log = [];
      for (const name of ["net", "net.layers.0", "net.layers.0", "net"]) {
        click(name);
        log.push(seen().length + (seen()[0].textContent.includes("net.layers.0.weight") ? " open" : " closed"));
      }
      document.title = log.join(", ");
    </script>"""
    page = (tmp_path / "g.html").read_text("utf-8").replace("</body>", probe + "</body>")
    (tmp_path / "probed.html").write_text(page, "utf-8")
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--dump-dom"]
    dom = subprocess.run(
        [*command, (tmp_path / "probed.html").as_uri()], capture_output=True, text=True, timeout=120, check=True
    ).stdout
    assert "<title>1 closed, 1 open, 1 closed, 1 closed</title>" in dom
