"""Names, CSV text and expressions can do nothing in a terminal, a page, a picture or a message."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import autograd_geo as ag
from autograd_geo import cli, data, nn, viz
from autograd_geo.data.table import DataError
from autograd_geo.names import printable

HOSTILE = {
    "colour": "\x1b[31mred",
    "title": "\x1b]0;title\x07",
    "link": "\x1b]8;;file:///etc/passwd\x1b\\x",
    "c1": "\x9b31m\x90",
    "order": "abc\u202egnp.exe\u2066",
    "script": "<script>alert(1)</script>",
    "close": "</script></title></style><script>alert(1)</script>-->]]>",
    "image": "<img src=x onerror=alert(1)>",
    "quotes": "\"' onload=alert(1) x=\"'",
    "formula": "=HYPERLINK(1)",
}
SPACES = "\n\t\u00a0\u2009\u202f"  # that the library prints itself


def harmless(text: str) -> None:
    assert all(c.isprintable() or c in SPACES for c in text)


def harmless_markup(text: str) -> None:
    harmless(text)
    assert "<script>alert" not in text and "<img src=x" not in text
    assert not re.search(r"<[^>]* onload=alert", text.replace("&quot;", "").replace("&#x27;", ""))


@pytest.fixture(params=HOSTILE.values(), ids=HOSTILE.keys())
def name(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_names_in_graphs_and_lessons(name: str, tmp_path: Path) -> None:
    x = ag.tensor([1.0, 2.0], requires_grad=True, name=name)
    f = (x * x).sum()
    f.name = name + "f"
    drawing, lesson = ag.graph(f), ag.steps(f)
    for text in (repr(drawing), drawing.dot, lesson.text(color=False), repr(lesson), repr(x)):
        harmless(text)
    harmless(re.sub(r"\x1b\[[0-9;]*m", "", lesson.text(color=True)))
    drawing.save(tmp_path / "graph.html")
    drawing.save(tmp_path / "graph.svg")
    lesson.html(tmp_path / "lesson.html")
    for path in tmp_path.iterdir():
        harmless_markup(path.read_text("utf-8"))


def test_names_of_modules(name: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            setattr(self, name, nn.Linear(2, 1))

        def forward(self, x: Any) -> Any:
            return getattr(self, name)(x)

    net = Net()
    harmless(repr(net))
    harmless_markup(viz.network(net, np.ones((1, 2))).svg())
    harmless_markup(ag.graph(net(np.ones((1, 2))).sum()).svg())
    with pytest.raises(KeyError) as caught:
        net.load_state_dict({name + "?": 1})
    harmless(str(caught.value))


def test_csv(name: str, tmp_path: Path) -> None:
    path = tmp_path / "wells.csv"
    quoted = '"' + name.replace('"', '""') + '"'
    path.write_text(f"{quoted},b\n1,2\n3,4\n", "utf-8")
    table = data.read_table(path)
    assert np.array_equal(table[name], [1, 3])
    harmless(repr(table))
    with pytest.raises(DataError) as caught:
        table["Porosity"]
    harmless(str(caught.value))
    for content in (f"a,b\n1,{quoted}\n3,4\n", f"{quoted},{quoted}\n1,2\n", f"a,b\n1,2,{quoted}\n"):
        path.write_text(content, "utf-8")
        with pytest.raises(DataError) as caught:
            data.read_table(path)
        harmless(str(caught.value))
    with pytest.raises(DataError) as caught:
        data.read_table(tmp_path / name.replace("/", "_"))
    harmless(str(caught.value))


@pytest.mark.parametrize("content", [b"\xff\xfea\x00,\x00b\x00", b"a,b\n1,\xe9\n", b"\x00\x00,\x00\n1,2\n3,4\n"])
def test_csv_in_other_encodings(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "wells.csv"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        data.read_table(path, ["b"])
    harmless(str(caught.value))


def test_csv_out_of_proportion(tmp_path: Path) -> None:
    path = tmp_path / "wells.csv"
    path.write_text("a,b\n1," + "9" * 200_000 + "\n3,4\n")
    with pytest.raises(DataError, match=r"row 2: field larger than field limit"):
        data.read_table(path)
    path.write_text(",".join(f"c{n}" for n in range(200_000)) + "\n" + "1,2\n" * 2)
    with pytest.raises(DataError, match=r"fields: 2, but 200000 in the header") as caught:
        data.read_table(path)
    with pytest.raises(DataError, match=r"no column 'AI'; it has 'c0', .*'c19', \.\.\.") as caught:
        data.read_table(path, ["AI"])
    assert len(str(caught.value)) < 500


def test_expressions(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([name, "x=1"], ["x", f"x={name}"], ["x*x", f"{name}=1"]):
        assert cli.main(["graph", *arguments]) == 2
    shown = capsys.readouterr()
    harmless(shown.out + shown.err)


def test_printable_leaves_letters_alone() -> None:
    assert printable("φ₀ ∂f/∂x 孔隙度 مسامية 🪨") == "φ₀ ∂f/∂x 孔隙度 مسامية 🪨"
