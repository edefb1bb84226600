"""The examples in the documents run as they stand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from autograd_geo.op import functions, registry

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "docs/trust.md", "docs/gpu.md"])
def test_examples(document: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / document).read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert blocks
    known = dict(registry), dict(functions)
    scope: dict[str, Any] = {"__name__": "example"}
    try:
        for number, block in enumerate(blocks, 1):
            exec(compile(block, f"{document}, example {number}", "exec"), scope)
    finally:
        for table, before in zip((registry, functions), known, strict=True):
            for name in table.keys() - before.keys():
                del table[name]  # type: ignore[attr-defined]
    printed = capsys.readouterr().out
    for line, promise in re.findall(r"^print\((.*?)\)\s+# (tensor.*|\d.*)$", text, re.MULTILINE):
        assert promise in printed, line


def test_links_lead_somewhere() -> None:
    for document in ("README.md", "CONTRIBUTING.md", "docs/trust.md", "docs/gpu.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / document).read_text("utf-8")):
            assert (ROOT / document).parent.joinpath(target).exists(), f"{document} -> {target}"


def test_the_architecture_names_every_module() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    package = ROOT / "autograd_geo"
    for path in package.iterdir():
        if path.suffix == ".py" and not path.name.startswith("__") and path.name not in ("tree.py", "create.py"):
            assert f"`{path.name}`" in text, path.name
        if path.is_dir() and (path / "__init__.py").exists():
            assert f"`{path.name}/`" in text, path.name
