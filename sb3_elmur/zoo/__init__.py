"""The commands of rl_zoo3 with this package's algorithm, environments and settings in them."""
