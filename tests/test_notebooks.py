"""The lessons in notebooks/: files that diff well, a plan of fifty minutes, and every number in them true."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
#: What a code cell may need beyond the base, by what it calls.
NEEDS = {".widget(": "anywidget", "loss_curves(": "matplotlib"}

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])


def cells(path: Path, kind: str) -> dict[str, str]:
    """The text of the cells of one kind, by their ids."""
    notebook = json.loads(path.read_text("utf-8"))
    return {c["id"]: "".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == kind}


def show(value: Any) -> None:
    """Ask for what a notebook shows of the value of a cell."""
    for form in ("mimebundle", "svg", "png"):
        represent = getattr(value, f"_repr_{form}_", None)
        if represent is not None:
            assert represent()


def test_there_are_lessons() -> None:
    assert [path.stem for path in NOTEBOOKS][:2] == ["01_chain_rule_by_hand", "02_worked_network"]


@every_notebook
def test_cells_run_in_order(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = cells(path, "code")
    for call, package in NEEDS.items():
        if any(call in source for source in code.values()):
            pytest.importorskip(package)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    scope: dict[str, Any] = {"__name__": "__main__"}
    for name, source in code.items():
        tree, file = ast.parse(source), f"{path.name}, cell {name}"
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, file, "exec"), scope)
        if isinstance(last, ast.Expr):
            show(eval(compile(ast.Expression(last.value), file, "eval"), scope))


@every_notebook
def test_the_numbers_are_asserted(path: Path) -> None:
    statements = [node for source in cells(path, "code").values() for node in ast.walk(ast.parse(source))]
    assert sum(isinstance(node, ast.Assert) for node in statements) >= 10


@every_notebook
def test_the_file_is_as_jupyter_writes_it_without_outputs(path: Path) -> None:
    text = path.read_text("utf-8")
    notebook = json.loads(text)
    assert text == json.dumps(notebook, ensure_ascii=False, indent=1, sort_keys=True) + "\n"
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert set(notebook) == {"cells", "metadata", "nbformat", "nbformat_minor"}
    assert notebook["metadata"]["kernelspec"] == {
        "display_name": "Python 3", "language": "python", "name": "python3"
    }  # fmt: skip
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in notebook["cells"]:
        assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", cell["id"])
        rest = {k: v for k, v in cell.items() if k not in ("id", "source")}
        assert rest in (
            {"cell_type": "markdown", "metadata": {}},
            {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": []},
        )
        assert cell["source"]
        assert all(line.endswith("\n") for line in cell["source"][:-1])


@every_notebook
def test_a_lesson_has_goals_and_a_plan_of_fifty_minutes(path: Path) -> None:
    text = "\n".join(cells(path, "markdown").values())
    assert text.startswith("# ")
    assert "**Goals.**" in text
    assert "**Prerequisites.**" in text
    plan = re.findall(r"^\| (\d+)–(\d+) \| (.+) \|$", text, re.MULTILINE)
    assert ["0", *(end for _, end, _ in plan)] == [*(start for start, _, _ in plan), "50"]
    assert [part for *_, part in plan] == re.findall(r"^## (\d+\. .+)$", text, re.MULTILINE)
    assert text.count("<details>") == text.count("</details>") > 0
    assert text.count("$") % 2 == 0
