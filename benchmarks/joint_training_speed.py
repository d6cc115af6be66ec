"""
How much faster two processes train one agent than one does, with as many environments and steps in all.

    OMP_NUM_THREADS=1 python benchmarks/joint_training_speed.py     # two cores that do nothing else

trains ``TMazePassive30-v0`` with the settings of ``zoo_configs/ppo_elmur.yml`` by ``torchrun``, with one process and with two,
in turn. First a few updates with several numbers of environments, then, with one number and for each seed, as many updates as
the settings have, after which success in 200 full-length corridors with the sparse reward should be 1.00. ``batch_size`` grows
with the environments. Measured is ``learn`` alone, by the clock and in CPU seconds of the first process. Prints the table of
``docs/scaling_out.md`` and writes ``benchmarks/results/joint_training_speed.json``.
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
from common import RESULTS, markdown_table, provenance, write_json

from sb3_elmur import RecurrentPPO
from sb3_elmur.distributed import join_group
from sb3_elmur.envs.batch import native_batch
from sb3_elmur.evaluation import run_episodes
from sb3_elmur.settings import packaged, read_file

ENV, EPISODES, EVALUATION_SEED, N_STEPS = "TMazePassive30-v0", 200, 1000, 128
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


def work(n_envs: int, updates: int | None, seed: int, output: Path) -> None:
    """What each process does."""
    group, device = join_group("cpu")
    settings = dict(read_file(packaged("ppo_elmur.yml"))[ENV])
    make_batch, corridors = native_batch(ENV, settings.pop("env_kwargs")), native_batch(ENV, {})
    assert make_batch is not None
    assert corridors is not None
    scale = n_envs / settings.pop("n_envs")
    n_timesteps, batch_size = settings.pop("n_timesteps") * scale, int(settings.pop("batch_size") * scale)
    policy = settings.pop("policy").rpartition(".")[2]
    env = make_batch(n_envs // group.size)
    model = RecurrentPPO(policy, env, n_steps=N_STEPS, batch_size=batch_size, seed=seed, device=device, **settings)
    begin, cpu_begin = time.perf_counter(), time.process_time()
    model.learn(int(n_timesteps) if updates is None else updates * N_STEPS * n_envs)
    seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu_begin
    if group.rank == 0:
        episodes = run_episodes(model.policy, corridors(EPISODES), EVALUATION_SEED)
        report = {
            "environments": n_envs,
            "processes": group.size,
            "seed": seed,
            "updates": -(-model.num_timesteps // (N_STEPS * n_envs)),
            "seconds": round(seconds, 2),
            "cpu_seconds": round(cpu_seconds, 2),
            "success": float(np.mean([episode["is_success"] for episode in episodes])),
        }
        output.write_text(json.dumps(report))


def measure(size: int, n_envs: int, updates: int | None, seed: int) -> dict[str, Any]:
    """Train in ``size`` processes."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "report.json"
        words = [str(size), __file__, "--worker", str(output), "--train-envs", str(n_envs), "--seeds", str(seed)]
        words += [] if updates is None else ["--updates", str(updates)]
        subprocess.run([*TORCHRUN, *words], check=True)
        report = json.loads(output.read_text())
        print(report, flush=True)
        return report


def share(runs: list[dict[str, Any]], n_envs: int) -> list[float]:
    """Seconds an update of one process and of two with a number of environments, and the second as a share of the first."""
    chosen = [run for run in runs if run["environments"] == n_envs]
    one, two = (
        float(np.mean([run["seconds"] / run["updates"] for run in chosen if run["processes"] == size])) for size in (1, 2)
    )
    return [one, two, two / one]


def main() -> None:
    """Measure, print the table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n-envs", nargs="*", type=int, default=[64, 256, 512, 1024], help="of the few updates")
    parser.add_argument("--updates", type=int, help="how many these are (default: 3)")
    parser.add_argument("--train-envs", type=int, default=1024, help="of the whole training")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0], help="of the whole training")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    th.set_num_threads(1)
    if options.worker is not None:
        return work(options.train_envs, options.updates, options.seeds[0], options.worker)
    few = [measure(size, n_envs, options.updates or 3, 0) for n_envs in options.n_envs for size in (1, 2)]
    whole = [measure(size, options.train_envs, None, seed) for seed in options.seeds for size in (1, 2)]
    rows = [[f"{n_envs}, an update", *(f"{value:.2f}" for value in share(few, n_envs)), ""] for n_envs in options.n_envs]
    if whole:
        one, two, part = share(whole, options.train_envs)
        updates, success = whole[0]["updates"], min(run["success"] for run in whole)
        label = f"{options.train_envs}, whole training"
        rows.append([label, f"{one * updates:.0f}", f"{two * updates:.0f}", f"{part:.2f}", f"{success:.2f}"])
    print(markdown_table(["environments", "one process, s", "two processes, s", "share", "least success"], rows))
    report = {"updates": few, "training": whole, "provenance": provenance(seed=0)}
    write_json(RESULTS / "joint_training_speed.json", report)


if __name__ == "__main__":
    main()
