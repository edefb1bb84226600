"""Fuzz one target until the time is over or an input breaks it; that input is written to a file."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

NAMES = ("expression", "command", "csv", "checkpoint")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.fuzz", description=__doc__)
    parser.add_argument("target", choices=NAMES)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--corpus", type=Path, help="folder to keep inputs that reach new code in (default: none)")
    args = parser.parse_args()
    try:
        import atheris
    except ImportError:
        sys.exit("fuzzing needs atheris: pip install 'autograd-geo[fuzz]'")
    with atheris.instrument_imports(include=["autograd_geo"], enable_loader_override=False):
        from .targets import LONGEST, run, seeds
    with tempfile.TemporaryDirectory() as folder:
        corpus = args.corpus or Path(folder)
        corpus.mkdir(parents=True, exist_ok=True)
        for n, seed in enumerate(seeds(args.target)):
            (corpus / f"seed-{n}").write_bytes(seed)
        options = [
            f"-max_total_time={round(60 * args.minutes)}", f"-seed={args.seed}", f"-max_len={LONGEST}",
            "-len_control=0", "-timeout=120",
            "-rss_limit_mb=4096", "-print_final_stats=1", f"-artifact_prefix=fuzz-{args.target}-",
        ]  # fmt: skip
        atheris.Setup([sys.argv[0], *options, str(corpus)], lambda data: run(args.target, data))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
