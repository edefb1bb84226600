"""The demo and its command: golden numbers, reports, errors, exit codes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from autograd_geo import data
from autograd_geo.cli import main
from autograd_geo.demo import porosity, wave
from autograd_geo.demo.lessons import chain_rule, worked_network, worked_network_text

ROOT = Path(__file__).resolve().parents[1]
REAL = Path(os.environ.get("AUTOGRAD_GEO_DATA", ROOT.parent / "shared" / "data" / "GeoDataSets"))
needs_real_wells = pytest.mark.skipif(
    not (REAL / "12_sample_data.csv").exists(),
    reason="the real wells are not here; set AUTOGRAD_GEO_DATA to their folder",
)


def test_worked_network_golden_numbers() -> None:
    t = worked_network()
    assert [round(t[n].item(), 5) for n in ("H4", "H5", "O6")] == [0.42168, 0.59573, -0.70499]
    golden = {"w46": -0.4238, "w56": -0.5987, "b4": 0.1298, "b5": 0.1002, "b6": -1.0050}
    for name, value in golden.items():
        assert t[name].grad.item() == pytest.approx(value, abs=5e-5)  # type: ignore[union-attr]
    for name, value in {"I1": 8.865e-3, "I2": 7.666e-2, "I3": 1.452e-2}.items():
        assert t[name].grad.item() == pytest.approx(value, rel=5e-4)  # type: ignore[union-attr]
    assert "opposite sign" in worked_network_text()


def test_pen_and_paper() -> None:
    f, g = chain_rule()
    assert f.item() == 144
    assert g.item() == pytest.approx(((np.sin(-2) + 5) * -4) ** 3, rel=1e-15)


@pytest.fixture(scope="module")
def own_study() -> porosity.Study:
    return porosity.study(data.sample_wells(data.synthetic_reservoir()), progress=False)


def test_on_its_own_wells_a_network_wins_and_it_says_so(own_study: porosity.Study) -> None:
    constant, line, lecture, smooth = own_study.models
    assert smooth.test < lecture.test < line.test < constant.test
    assert (lecture.parameters, smooth.parameters) == (33, 25)
    assert own_study.best is smooth
    assert "lowest test error" in porosity.verdict(own_study)
    x, y = own_study.test
    assert smooth.test == pytest.approx(np.mean((smooth.predict(x) - y) ** 2))
    assert line.train == pytest.approx(np.polyfit(*(a[:, 0] for a in own_study.train), 1, full=True)[1][0] / 115)


def test_prediction_is_in_the_units_of_the_wells(own_study: porosity.Study) -> None:
    grid = np.linspace(3000, 6000, 12).reshape(3, 4)
    predicted = own_study.predict(own_study.best, grid)
    assert predicted.shape == (3, 4)
    assert np.all((predicted > 0.05) & (predicted < 0.4))
    assert np.all(np.diff(predicted.ravel()) < 0)


@needs_real_wells
def test_real_wells_reference_figures() -> None:
    wells = data.read_table(REAL / "12_sample_data.csv", ["AI", "Porosity"])
    s = porosity.prepare(wells)
    assert (len(s.train[0]), len(s.test[0])) == (115, 29)
    s = porosity.study(wells, progress=False)
    constant, line, lecture, smooth = s.models
    for model, train, test in ((constant, 0.2419, 0.3331), (line, 0.1591, 0.2052)):
        assert (round(model.train, 4), round(model.test, 4)) == (train, test)
    assert 0.150 < lecture.train < 0.166
    assert 0.19 < lecture.test < 0.26
    assert line.test < smooth.test < lecture.test
    assert porosity.verdict(s).startswith("A simple model wins: linear regression")


@needs_real_wells
def test_real_wells_median_of_the_lecture_network() -> None:
    s = porosity.prepare(data.read_table(REAL / "12_sample_data.csv", ["AI", "Porosity"]))
    errors = []
    for seed in range(7):
        m = porosity._train(s, "", porosity.lecture_network, seed, False, epochs=300, batch_size=5, lr=0.001)
        errors.append([float(np.mean((m.predict(x) - y) ** 2)) for x, y in (s.train, s.test)])
    train, test = np.median(errors, 0)
    assert train == pytest.approx(0.1574, abs=0.003)
    assert test == pytest.approx(0.2419, abs=0.03)


def test_a_wave_finds_the_velocity_it_passed_through() -> None:
    found = wave.invert()
    assert len(found.misfits) == 300
    assert found.misfits[-1] < 1e-3 * found.misfits[0]
    assert found.error < 40  # m/s; 150 at first
    assert "times faster" in wave.inversion_text(found)
    times = np.arange(400) * 1e-3
    assert np.argmax(wave.ricker(20.0, times)) == 50  # one period after the start
    assert abs(wave.ricker(20.0, times).sum()) < 1e-2


def quick_study(*args: object, **kwargs: object) -> porosity.Study:
    """The study without its long training, for tests of what is around it."""
    s = porosity.prepare(*args[:4])  # type: ignore[arg-type]
    s.models = [
        porosity.Model("constant (training mean)", 1, lambda a: np.full_like(a, s.train[1].mean())),
        porosity.Model("linear regression", 2, lambda a: -0.8 * a),
        porosity._train(
            s, "the lecture's network", porosity.lecture_network, 0, False, epochs=1, batch_size=50, lr=0.001
        ),
        porosity._train(
            s, "network of 8 tanh units", porosity.smooth_network, 0, False, epochs=1, batch_size=50, lr=0.02
        ),
    ]
    for m in s.models:
        m.train, m.test = (float(np.mean((m.predict(a) - b) ** 2)) for a, b in (s.train, s.test))
    return s


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autograd_geo.demo.main.study", quick_study)


@pytest.mark.usefixtures("quick")
def test_command_prints_everything_and_writes_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pygraphviz")
    out = tmp_path / "new" / "report"
    assert main(["demo", "--out", str(out), "--quiet"]) == 0
    text = capsys.readouterr().out
    for part in (
        "∂f/∂b = 2·b",
        "∂g/∂c = 3·c²",
        "w56",
        "-5.9871e-01",
        "linear regression",
        "A simple model wins",
        "100 x 100",
        "600 time steps",
    ):
        assert part in text
    assert sorted(p.name for p in out.iterdir()) == [
        "fit.png",
        "graph.svg",
        "loss.png",
        "map.png",
        "report.html",
        "wave.png",
    ]
    page = (out / "report.html").read_text("utf-8")
    assert "<svg" in page
    assert page.count("data:image/png;base64,") == 4
    assert "$" not in re.sub(r"data:[^\"]*", "", page)
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", page)


@pytest.mark.usefixtures("quick")
def test_report_opens_in_a_browser_without_a_network(tmp_path: Path) -> None:
    pytest.importorskip("pygraphviz")
    browser = next((b for b in map(shutil.which, ("chromium", "google-chrome", "chromium-browser")) if b), None)
    if browser is None:
        pytest.skip("no Chromium here")
    assert main(["demo", "--out", str(tmp_path), "--quiet"]) == 0
    page = (tmp_path / "report.html").read_text("utf-8")
    probe = """<script>addEventListener("load", () => {
      const loaded = [...document.images].filter(i => i.complete && i.naturalWidth > 300).length;
      const svg = document.querySelector("svg").getBoundingClientRect();
      document.body.dataset.seen = [loaded, svg.width > 200, document.querySelectorAll("svg .node").length,
        performance.getEntriesByType("resource").filter(r => !r.name.startsWith("data:")).length,
        document.documentElement.scrollWidth <= innerWidth].join(" ");
    });</script>"""
    (tmp_path / "probe.html").write_text(page.replace("</body>", probe + "</body>"), "utf-8")
    dom = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
         "--proxy-server=127.0.0.1:9", f"--user-data-dir={tmp_path / 'profile'}", "--window-size=500,900",
         "--virtual-time-budget=5000", "--dump-dom", (tmp_path / "probe.html").as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    ).stdout  # fmt: skip
    assert re.search(r'data-seen="4 true 7 0 true"', dom), re.search(r'data-seen="[^"]*"', dom)


@pytest.mark.usefixtures("quick")
def test_command_on_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wells = data.sample_wells(data.synthetic_reservoir(), n=60)
    data.write_table(tmp_path / "w.csv", data.Table({"Imp": wells["AI"], "Phi": wells["Porosity"]}))
    data.write_map(tmp_path / "m.csv", np.full((4, 5), 4000.0))
    files = ["--wells", str(tmp_path / "w.csv"), "--map", str(tmp_path / "m.csv"), "--quiet"]
    assert main(["demo", *files, "--impedance", "Imp", "--porosity", "Phi"]) == 0
    text = capsys.readouterr().out
    assert "48 wells to train, 12 to test" in text
    assert "map of 4 x 5" in text
    assert main(["demo", *files]) == 2
    error = capsys.readouterr()
    assert "Imp" in error.err
    assert "AI" in error.err
    assert error.out == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file|No such file|does not exist"),
        (b"", "empty"),
        (b"AI,Porosity\n", "row"),
        (b"AI,Porosity\n4000,0.2\n", "row"),
        (b"AI,Depth\n4000,0.2\n4100,0.1\n", "Porosity"),
        (b"AI,Porosity\n4000,0.2\n4100,wet\n", "row 3.*Porosity.*wet|wet.*row 3"),
        (b"AI,Porosity\n4000,\n4100,0.2\n", "row 2.*Porosity"),
        (b"AI,Porosity\n4000,nan\n4100,0.2\n", "row 2.*Porosity"),
        (b"AI,Porosity\n4000,0.2\n4100,0.1\n", "too few"),
    ],
)
def test_wells_that_cannot_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, message: str
) -> None:
    path, out = tmp_path / "wells.csv", tmp_path / "out"
    if content is not None:
        path.write_bytes(content)
    assert main(["demo", "--wells", str(path), "--out", str(out), "--quiet"]) == 2
    captured = capsys.readouterr()
    assert re.search(message, captured.err, re.DOTALL), captured.err
    assert "wells.csv" in captured.err
    assert "Traceback" not in captured.err
    assert not out.exists()


def test_out_that_is_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "f").write_text("here before")
    assert main(["demo", "--out", str(tmp_path / "f"), "--quiet"]) == 2
    assert (tmp_path / "f").read_text() == "here before"
    assert "directory" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["--help"], ["demo", "--help"], ["--version"]])
def test_help(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 0
    assert "autograd-geo" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv", [[], ["dmeo"], ["demo", "--seed", "-1"], ["demo", "--seed", "x"], ["demo", "--nonsense"]]
)
def test_usage_errors(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_interrupt_and_module_entry(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("autograd_geo.demo.run", interrupted)
    assert main(["demo"]) == 130
    assert "interrupted" in capsys.readouterr().err
    version = subprocess.run(
        [sys.executable, "-m", "autograd_geo", "--version"], capture_output=True, text=True, check=True
    )
    assert version.stdout.startswith("autograd-geo ")
