"""Hyper-parameters in the grammar of rl_zoo3, keyed by environment id."""
