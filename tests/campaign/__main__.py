"""
``python -m campaign`` in the folder ``tests``, or ``make test-campaign``: at most an hour; counts go to a JSON file.

It ends with status 1 if a foreign error, a silent change, a hang, a crash, a lost result or growing memory was found.
"""

import argparse
import json
import multiprocessing
import os
import platform
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

from campaign.endurance import step_policy, train_long
from campaign.kills import kill_at_random, make_commands
from campaign.mutation import try_target
from campaign.targets import make_targets
from sb3_elmur.atomic_files import atomic_path
from sb3_elmur.command_line import MISTAKES

RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "campaign.json"
KILLS, STEPS, UPDATES = 34, 10_000_000, 300  # kills of each command
MOST_GROWTH = 32.0  # MiB
COUNTS = ("tried", "kills", "steps", "updates")
BAD = ("silent", "foreign", "hang", "crash", "other_results", "errors", "wrong_counters")


class Part(NamedTuple):
    """
    A part of the campaign.

    :param name: Its name.
    :param asked: How many files, kills, steps or updates.
    :param run: Runs it for at most so many seconds, and counts.
    """

    name: str
    asked: int
    run: Callable[[float], dict[str, Any]]


def make_parts(folder: Path, scale: float, seed: int) -> list[Part]:
    """
    All parts, long ones first.

    :param folder: Where files are made.
    :param scale: Share of the full numbers.
    :param seed: Of all that is drawn.
    """
    n_kills, n_steps, n_updates = (max(1, round(scale * count)) for count in (KILLS, STEPS, UPDATES))
    parts = [
        Part("policy_steps", n_steps, partial(step_policy, n_steps)),
        Part("updates", n_updates, partial(train_long, n_updates)),
    ]
    for name in ("targets", "commands", "kills"):
        (folder / name).mkdir()
    for command in make_commands(folder / "commands"):
        run = partial(kill_at_random, command, folder / "kills" / command.name, n_kills, seed)
        parts.append(Part(command.name, n_kills, run))
    for target in make_targets(folder / "targets", scale):
        parts.append(Part(target.name, target.count, partial(try_target, target, MISTAKES, seed)))
    return parts


PARTS: dict[str, Part] = {}  # what the processes that run them know


def run_part(name: str, end: float, share: float) -> dict[str, Any]:
    """
    Run a part of :data:`PARTS`.

    :param name: Its name.
    :param end: When the campaign ends, on the monotonic clock.
    :param share: Share of the time until then that it may take.
    """
    asked = PARTS[name].asked
    try:
        return {"asked": asked, **PARTS[name].run(share * (end - time.monotonic()))}
    except Exception:  # a part that fails must not take the others with it
        return {"asked": asked, "errors": 1, "messages": [traceback.format_exc()]}


def is_complete(result: dict[str, Any]) -> bool:
    """Whether a part was not cut off by its time."""
    return any(result.get(key, 0) >= result.get("asked", float("inf")) for key in COUNTS)


def write(path: Path, seed: int, results: dict[str, Any]) -> list[str]:
    """Write what is known by now; return what must not be."""
    bad = [f"{name}: {key}={result[key]}" for name, result in results.items() for key in BAD if result.get(key)]
    bad += [f"{name} grows" for name, result in results.items() if result.get("growth_MiB", 0.0) > MOST_GROWTH]
    about = {"date": str(date.today()), "machine": f"{platform.machine()}, {os.cpu_count()} cores", "seed": seed}
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps({"about": about, "bad": bad, "results": results}, indent=2) + "\n")
    return bad


def main() -> None:
    """Run the campaign."""
    parser = argparse.ArgumentParser(prog="python -m campaign", description=__doc__)
    parser.add_argument("--minutes", type=float, default=55.0, help="how long it may take (default: %(default)s)")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full numbers (default: %(default)s)")
    parser.add_argument("--only", nargs="+", default=[], metavar="PART", help="names of parts, such as npz or bc")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="parts at a time (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn (default: %(default)s)")
    parser.add_argument("--continue", dest="continued", action="store_true", help="keep the parts that the output has whole")
    parser.add_argument("-o", "--output", type=Path, default=RESULT, help="JSON file (default: %(default)s)")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    end = time.monotonic() + 60 * options.minutes
    results: dict[str, Any] = {}
    if options.continued and options.output.exists():
        known = json.loads(options.output.read_text())["results"]
        results = {name: result for name, result in known.items() if is_complete(result)}
    with tempfile.TemporaryDirectory() as root:
        os.environ["SB3_LOGDIR"] = str(Path(root) / "logs")
        for part in make_parts(Path(root), options.scale, options.seed):
            if part.name not in results and (not options.only or part.name in options.only):
                PARTS[part.name] = part
        with ProcessPoolExecutor(options.workers, multiprocessing.get_context("fork")) as pool:
            shares = {name: min(1.0, options.workers / (len(PARTS) - i)) for i, name in enumerate(PARTS)}
            running = {pool.submit(run_part, name, end, share): name for name, share in shares.items()}
            for part_done in as_completed(running):
                name = running[part_done]
                results[name] = part_done.result()
                print(name, json.dumps(results[name]), flush=True)
                write(options.output, options.seed, results)
    if bad := write(options.output, options.seed, results):
        sys.exit("\n".join(bad))


if __name__ == "__main__":
    main()
