"""Failures dealt from a seed, and a duller program that recomputes the truth: `python -m tests.simulation --help`."""
