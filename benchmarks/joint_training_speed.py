"""
How much faster two processes train one agent than one does, with as many environments and steps in all.

    OMP_NUM_THREADS=1 python benchmarks/joint_training_speed.py     # on a machine that does nothing else

trains ``TMazePassive30-v0`` with the settings of ``zoo_configs/ppo_elmur.yml``, by ``torchrun`` with one process and with two,
in turn, for each seed. Measured are ``learn`` alone, by the clock and in CPU seconds of the first process, and then success in
200 full-length corridors with the sparse reward.
Writes ``benchmarks/results/joint_training_speed.json``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from common import RESULTS, provenance, write_json

from sb3_elmur import RecurrentPPO
from sb3_elmur.distributed import join_group
from sb3_elmur.envs.batch import native_batch
from sb3_elmur.evaluation import run_episodes
from sb3_elmur.settings import packaged, read_file

ENV, EPISODES, EVALUATION_SEED = "TMazePassive30-v0", 200, 1000
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


def work(seed: int, n_envs: int | None, n_timesteps: int | None, output: Path) -> None:
    """What each process does."""
    group, device = join_group("cpu")
    settings = dict(read_file(packaged("ppo_elmur.yml"))[ENV])
    make_batch = native_batch(ENV, settings.pop("env_kwargs"))
    assert make_batch is not None
    all_envs, n_steps = n_envs or settings["n_envs"], n_timesteps or settings["n_timesteps"]
    arguments = {name: value for name, value in settings.items() if name not in ("policy", "n_envs", "n_timesteps")}
    model = RecurrentPPO("ElmurPolicy", make_batch(all_envs // group.size), seed=seed, device=device, **arguments)
    begin, cpu_begin = time.perf_counter(), time.process_time()
    model.learn(n_steps)
    seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu_begin
    if group.rank == 0:
        corridors = native_batch(ENV, {})
        assert corridors is not None
        episodes = run_episodes(model.policy, corridors(EPISODES), EVALUATION_SEED)
        success = float(np.mean([episode["is_success"] for episode in episodes]))
        report = {"processes": group.size, "seed": seed, "seconds": round(seconds, 1), "cpu_seconds": round(cpu_seconds, 1)}
        report |= {"success": success, "steps": model.num_timesteps, "environments": all_envs}
        output.write_text(json.dumps(report))


def measure(size: int, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train in ``size`` processes."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "report.json"
        words = [str(size), __file__, "--worker", str(output), "--seeds", str(seed)]
        for name in ("n_envs", "n_timesteps"):
            if getattr(options, name) is not None:
                words += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
        subprocess.run([*TORCHRUN, *words], check=True)
        return json.loads(output.read_text())


def main() -> None:
    """Train with one process and with two, for each seed, and write down how long it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--n-envs", type=int, help="of all processes (default: as the settings say)")
    parser.add_argument("--n-timesteps", type=int, help="of all processes (default: as the settings say)")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    th.set_num_threads(1)
    if options.worker is not None:
        return work(options.seeds[0], options.n_envs, options.n_timesteps, options.worker)
    runs = []
    for seed in options.seeds:
        for size in (1, 2):
            runs.append(measure(size, seed, options))
            print(runs[-1], flush=True)
    means = [float(np.mean([run["seconds"] for run in runs if run["processes"] == size])) for size in (1, 2)]
    summary = {"seconds_alone": means[0], "seconds_of_two": means[1], "share": round(means[1] / means[0], 3)}
    summary["least_success"] = min(run["success"] for run in runs)
    print(summary)
    write_json(
        RESULTS / "joint_training_speed.json", {"summary": summary, "runs": runs, "provenance": provenance(options.seeds[0])}
    )


if __name__ == "__main__":
    main()
