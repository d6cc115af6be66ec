"""Comparison of agents, environments x agents x seeds, from one YAML file: the command ``sb3-elmur compare``."""
