"""Speed of graphs and lessons of a tape of 10,000 entries; of its page in a browser; of a pass nobody looks at."""

from __future__ import annotations

import atexit
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import autograd_geo as ag

from .harness import OURS, Contestant, Row, Target, Work, at_most, main

LENGTH = 10_000
ASKED = "once steps were asked for"
#: A page may have so many bytes.
LARGEST_PAGE = 5_000_000


def loop() -> ag.Tensor:
    """A loop of 3,400 times three operations."""
    x = start = ag.tensor(0.5, requires_grad=True, name="start")
    for _ in range(LENGTH * 34 // 100):
        x = ag.sin(x) * 0.5 + start
    return x


def irregular() -> ag.Tensor:
    """As many operations in no order: nothing in it repeats."""
    draw = random.Random(0)
    x = ag.tensor(0.5, requires_grad=True)
    for _ in range(LENGTH):
        x = draw.choice([ag.sin, ag.cos, ag.tanh, ag.atan])(x)
    return x


def drawn(tape: Callable[[], ag.Tensor]) -> Work:
    output = tape()
    return Work(lambda: ag.graph(output).svg())


def stepped() -> Work:
    output = loop()
    return Work(lambda: ag.steps(output))


@cache
def page() -> Path:
    """Where the page is."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    return Path(folder.name) / "lesson.html"


def written() -> Work:
    lesson = ag.steps(loop())
    return Work(lambda: lesson.html(page()))


SCRUB = """(async (frames) => {
  const scrubber = document.querySelector(".scrubber"), last = Number(scrubber.max);
  const frame = () => new Promise(requestAnimationFrame);
  await frame();
  const start = performance.now();
  for (let n = 1; n <= frames; n += 1) {
    scrubber.value = Math.round((last * n) / frames);
    scrubber.dispatchEvent(new Event("input"));
    await frame();
  }
  if (Number(document.querySelector(".ag-lesson").dataset.step) !== last) throw new Error("it lags behind");
  return (performance.now() - start) / 1000 / frames;
})(200)"""


def scrubbed() -> Work:
    """Seconds a frame takes, by the page's own count, while its scrubber moves with each of them."""
    from tests.chromium import Tab, browser

    if browser() is None:
        raise ImportError("no Chromium")
    if not page().exists():
        ag.steps(loop()).html(page())
    tab = Tab(page().parent / "profile")
    atexit.register(tab.close)
    tab.look(1280, 800)
    tab.open(page())
    return Work(partial(tab.evaluate, SCRUB), own_clock=True)


PASS = """
import sys, time
import autograd_geo as ag
from bench.viz import loop
if {asked}:
    len(ag.steps(loop()))
elif any(name.startswith("autograd_geo.viz") for name in sys.modules):
    raise SystemExit("graphs and lessons were loaded though nobody asked")
times = []
for _ in range(20):
    start = time.process_time()
    loop().backward()
    times.append(time.process_time() - start)
print(min(times))
"""


def passed(asked: bool) -> Work:
    """Seconds of the processor that the pass itself takes, in a process of its own; the least of twenty."""

    def run() -> float:
        command = [sys.executable, "-c", PASS.format(asked=asked)]
        return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)

    return Work(run, own_clock=True)


def ours(prepare: Callable[[], Work]) -> list[Contestant]:
    return [Contestant(OURS, prepare)]


ROWS = [
    Row("graph", "the graph of a loop, 10,200 operations, as SVG", ours(partial(drawn, loop)), [at_most(3)]),
    Row("irregular", "the graph of 10,000 operations without a loop", ours(partial(drawn, irregular)), [at_most(3)]),
    Row("steps", "the steps of the loop", ours(stepped), [at_most(1)]),
    Row("page", "its page, written", ours(written),
        [Target(OURS, f"at most {LARGEST_PAGE / 1e6:g} MB", lambda _: page().stat().st_size <= LARGEST_PAGE)]),
    Row("scrub", "a frame of the page while scrubbing", ours(scrubbed), [at_most(1 / 30)]),
    Row(
        "pass", "the loop recorded and differentiated",
        [Contestant(OURS, partial(passed, False)), Contestant(ASKED, partial(passed, True))],
        [Target(ASKED, "no difference", lambda m: abs(m[ASKED] - m[OURS]) <= 0.1 * m[OURS])],
    ),
]  # fmt: skip

if __name__ == "__main__":
    status = main(__doc__ or "", ROWS, ("pygraphviz",))
    if page().exists():
        print(f"\nthe page: {page().stat().st_size:,} bytes")
    raise SystemExit(status)
