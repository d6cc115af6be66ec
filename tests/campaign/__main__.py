"""
``python -m campaign`` in the folder ``tests``, or ``make test-campaign``: at most an hour; counts go to a JSON file.

It ends with status 1 if a foreign error, a silent change, a hang, a crash, a lost result or growing memory was found.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
import warnings
from datetime import date
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from campaign.endurance import step_policy, train_long
from campaign.kills import kill_at_random, make_commands
from campaign.mutation import try_target
from campaign.targets import make_targets
from sb3_elmur.command_line import MISTAKES

RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "campaign.json"
KILLS, STEPS, UPDATES = 40, 10_000_000, 300  # kills of each command
MOST_GROWTH = 32.0  # MiB
BAD = ("silent", "foreign", "hang", "crash", "other_results", "errors", "wrong_counters")


def main() -> None:
    """Run the campaign."""
    parser = argparse.ArgumentParser(prog="python -m campaign", description=__doc__)
    parser.add_argument("--minutes", type=float, default=55.0, help="how long it may take (default: %(default)s)")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full numbers (default: %(default)s)")
    parser.add_argument("--only", nargs="+", default=[], metavar="PART", help="names of parts, such as npz or bc")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn (default: %(default)s)")
    parser.add_argument("-o", "--output", type=Path, default=RESULT, help="JSON file (default: %(default)s)")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    end = time.monotonic() + 60 * options.minutes
    results: dict[str, Any] = {}

    def wanted(name: str) -> bool:
        return not options.only or name in options.only

    def share(n_left: int) -> float:
        return (end - time.monotonic()) / max(1, n_left)

    def note(name: str, result: dict[str, Any]) -> None:
        results[name] = result
        print(name, json.dumps(result), flush=True)

    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        os.environ["SB3_LOGDIR"] = str(folder / "logs")
        for name in ("targets", "commands", "kills"):
            (folder / name).mkdir()
        targets = [target for target in make_targets(folder / "targets", options.scale) if wanted(target.name)]
        commands = [command for command in make_commands(folder / "commands") if wanted(command.name)]
        n_left = len(targets) + len(commands) + 2
        for target in targets:
            note(target.name, try_target(target, MISTAKES, options.seed, share(n_left)))
            n_left -= 1
        for command in commands:
            n_kills = max(1, round(options.scale * KILLS))
            place = folder / "kills" / command.name
            note(command.name, kill_at_random(command, place, n_kills, options.seed, share(n_left)))
            n_left -= 1
        if wanted("policy_steps"):
            note("policy_steps", step_policy(round(options.scale * STEPS), share(n_left)))
        if wanted("updates"):
            note("updates", train_long(round(options.scale * UPDATES), share(1)))
    bad = [f"{name}: {key}={result[key]}" for name, result in results.items() for key in BAD if result.get(key)]
    bad += [f"{name} grows" for name, result in results.items() if result.get("growth_MiB", 0.0) > MOST_GROWTH]
    about = {"date": str(date.today()), "machine": f"{platform.machine()}, {os.cpu_count()} cores", "seed": options.seed}
    options.output.write_text(json.dumps({"about": about, "bad": bad, "results": results}, indent=2) + "\n")
    if bad:
        sys.exit("\n".join(bad))


if __name__ == "__main__":
    main()
