"""The command ``sb3-elmur record``."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from sb3_elmur.command_line import add_common_options, take_common_options, told_in_one_line
from sb3_elmur.recording.record import record
from sb3_elmur.recording.writers import WRITERS
from sb3_elmur.saved_statistics import find_statistics


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="sb3-elmur record",
        allow_abbrev=False,
        description="Record an expert into a data set for behaviour cloning. An interrupted recording of .npz files goes on "
        "where it stopped when the same command is given again. Episode i is reset with seed + i.",
        epilog="example: sb3-elmur record --env TMazePassive30-v0 --expert oracle --episodes 2000 --output data/tmaze30 "
        "--env-kwargs corridor_length:'(1, 28)' reward:\"'eased'\"",
    )
    parser.add_argument("--env", required=True, help="id of a registered environment")
    parser.add_argument(
        "--expert", required=True, help="oracle (the environment's own), random, or the .zip file of a saved RecurrentPPO"
    )
    parser.add_argument("--output", required=True, type=Path, help="folder to write; for Minari its name is the data set's id")
    parser.add_argument("--episodes", required=True, type=int, help="number of episodes to play")
    parser.add_argument("--only-successful", action="store_true", help="leave out episodes that failed")
    parser.add_argument(
        "--noise", type=float, nargs="+", default=[0.0], metavar="SHARE",
        help="share of steps at which a random action is played, while the expert's is recorded; of two, each episode draws "
        "its own between them (default: 0)",
    )  # fmt: skip
    parser.add_argument("--format", choices=WRITERS, default="npz", help="format to write (default: %(default)s)")
    add_common_options(parser)
    return parser


@told_in_one_line
def main(arguments: Sequence[str] | None = None) -> None:
    """
    Record as the command line says.

    :param arguments: Its words; ``None`` means those of this process.
    """
    options = make_parser().parse_args(arguments)
    take_common_options(options)
    if Path(options.expert).is_file() and (statistics := find_statistics(Path(options.expert))):
        print(f"The expert sees observations normalised by {statistics}.")
    outcomes = record(
        options.env,
        options.expert,
        options.output,
        options.episodes,
        seed=options.seed,
        env_kwargs=dict(options.env_kwargs),
        format=options.format,
        progress_bar=not options.no_progress,
        noise=tuple(options.noise),
        device=options.device,
        only_successful=options.only_successful,
    )
    if options.only_successful:
        print(f"{sum(map(bool, outcomes))} of {len(outcomes)} episodes succeeded and are in {options.output}.")
        return
    known = [outcome for outcome in outcomes if outcome is not None]
    succeeded = f"; {sum(known)} of the {len(known)} played now succeeded" if known else ""
    print(f"{options.episodes} episodes in {options.output}{succeeded}.")
