"""Fuzzers of what reads text and files from outside: `python -m bench.fuzz expression --minutes 60`."""
