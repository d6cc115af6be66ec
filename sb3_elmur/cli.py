"""The command ``sb3-elmur``: one name for the package's commands."""

import argparse
import sys
from importlib import import_module

COMMANDS = {
    "bc": ("sb3_elmur.bc_command", "train a policy by behaviour cloning"),
    "evaluate": ("sb3_elmur.evaluation_command", "evaluate a saved model over very long episodes"),
    "record": ("sb3_elmur.recording", "record an expert's episodes for behaviour cloning"),
}


def main() -> None:
    """Run the command that the first argument names, with the other arguments."""
    listed = "\n".join(f"  {name:10}{text}" for name, (_, text) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="sb3-elmur",
        epilog=f"commands:\n{listed}\n\n`sb3-elmur <command> --help` tells more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="command")
    command = parser.parse_args(sys.argv[1:2]).command
    import_module(COMMANDS[command][0]).main(sys.argv[2:])
