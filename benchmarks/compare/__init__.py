"""The benchmark runner behind ``benchmarks/compare.py``: environments x agents x seeds, from one YAML file."""
