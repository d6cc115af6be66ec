"""The command ``sb3-elmur``: one name for the package's commands, and for those of rl_zoo3 with this package in them."""

import argparse
import sys
from importlib import import_module

from gymnasium.error import DependencyNotInstalled

COMMANDS = {
    "train": ("sb3_elmur.zoo.commands:train", "train an agent by rl_zoo3"),
    "enjoy": ("sb3_elmur.zoo.commands:enjoy", "watch a trained agent"),
    "record-video": ("sb3_elmur.zoo.commands:record_video", "record a video of a trained agent"),
    "tune": ("sb3_elmur.zoo.commands:tune", "search hyper-parameters"),
    "plot": ("sb3_elmur.zoo.commands:plot", "plot training or evaluation"),
    "push-to-hub": ("sb3_elmur.zoo.commands:push_to_hub", "upload a trained agent to the Hugging Face hub"),
    "load-from-hub": ("sb3_elmur.zoo.commands:load_from_hub", "download a trained agent from there"),
    "bc": ("sb3_elmur.bc.command:main", "train a policy by behaviour cloning"),
    "evaluate": ("sb3_elmur.evaluation.command:main", "evaluate a saved model over very long episodes"),
    "inspect": ("sb3_elmur.inspection.command:main", "look into the memory of a saved model in an episode"),
    "export": ("sb3_elmur.export.command:main", "write a saved model as an ONNX file, which runs without PyTorch"),
    "compare": ("sb3_elmur.comparison.command:main", "compare agents over environments and seeds"),
    "record": ("sb3_elmur.recording.command:main", "record an expert's episodes for behaviour cloning"),
}


def main() -> None:
    """Run the command that the first argument names, with the other arguments. Each tells a user's mistake in one line."""
    listed = "\n".join(f"  {name:14}{text}" for name, (_, text) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="sb3-elmur",
        epilog=f"commands:\n{listed}\n\n`sb3-elmur <command> --help` tells more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="command")
    command = parser.parse_args(sys.argv[1:2]).command
    module, function = COMMANDS[command][0].split(":")
    try:
        run = getattr(import_module(module), function)
    except DependencyNotInstalled as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    run(sys.argv[2:])
