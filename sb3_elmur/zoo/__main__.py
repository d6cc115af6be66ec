"""``torchrun -m sb3_elmur.zoo train``; one process is ``sb3-elmur train``."""

import argparse
import sys

from sb3_elmur.zoo.commands import train

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m sb3_elmur.zoo")
    parser.add_argument("command", choices=("train",))
    parser.parse_args(sys.argv[1:2])
    train(sys.argv[2:])
