"""
PPO from the clones of POPGym's tasks, to see how far reward carries beyond imitation.

    python benchmarks/popgym_from_clones.py                                         # every task, one after the other
    python benchmarks/popgym_from_clones.py --tasks BattleshipEasy --seeds 0 1 2
    python benchmarks/popgym_from_clones.py --report                                # a table of what is there

Demonstrations, budgets and settings of cloning are those of ELMUR in ``matrices/popgym_bc.yml``, the settings of PPO those of
POPGym in ``zoo_configs/ppo_elmur.yml`` but for :data:`CHANGES` and :data:`TASKS`, with the clone's network. Demonstrations go
to ``--data``, clones to ``--clones``; recording and cloning go on where they were interrupted.
``benchmarks/results/popgym_from_clones/<task>_<seed>.json`` holds the returns of the clone and of the last averaged policy in
the same episodes, and the curve of training between them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from common import RESULTS, markdown_table, model_arguments, provenance, write_file, write_json
from stable_baselines3.common.vec_env import VecNormalize

from sb3_elmur import RecurrentPPO
from sb3_elmur.bc.trainer import BC
from sb3_elmur.comparison.cells import EVALUATION_SEED, data_folder, make_cells, record_data
from sb3_elmur.comparison.cloning import epochs_within, make_config
from sb3_elmur.comparison.evaluation import evaluate_episodes, make_monitored
from sb3_elmur.comparison.matrix import read_matrix, select
from sb3_elmur.comparison.online import Curve
from sb3_elmur.datasets.episodes import NpzEpisodes
from sb3_elmur.envs.batch import make_batch
from sb3_elmur.settings import read_settings

FOLDER = RESULTS / "popgym_from_clones"
MATRIX = Path(__file__).parent / "matrices" / "popgym_bc.yml"
AT_ONCE = {"gamma": 0.0}  # where an action earns its reward at once, and what follows is noise
TASKS: dict[str, dict[str, Any]] = {  # where the clone returns much less than the expert, and what PPO does otherwise there
    "AutoencodeMedium": AT_ONCE,
    "AutoencodeHard": AT_ONCE,
    "ConcentrationMedium": {},
    "ConcentrationHard": {},
    "BattleshipEasy": AT_ONCE,
    "BattleshipMedium": AT_ONCE,
    "BattleshipHard": AT_ONCE,
    "MineSweeperMedium": {},
    "MineSweeperHard": {},
}
CHANGES = {"ent_coef": 0.0}  # in all
SHARPNESS = 3.0  # factor of a clone's logits, whose most probable actions return more than sampled ones
N_EPISODES = 100
STAGES = ("clone", "sharpened clone", "after PPO")


def clone(task: str, seed: int, data: Path, path: Path) -> None:
    """
    Record the expert and clone it, if that was not done.

    :param task: One of ``TASKS``.
    :param seed: Of everything random.
    :param data: Where demonstrations are, or will be.
    :param path: The model.
    """
    if path.exists():
        return
    matrix = select(read_matrix(MATRIX), envs=[f"POPGym{task}-v0"], agents=["elmur"])
    (cell,) = make_cells(matrix, RESULTS)
    folder = data_folder(cell, data)
    assert folder is not None
    assert cell.demonstrations is not None
    assert cell.env.budget is not None
    record_data(cell.env.env_id, cell.demonstrations, folder)
    env = make_batch(cell.env.env_id, 1)
    episodes = NpzEpisodes(folder, env.observation_space, env.action_space)

    def make_trainer(n_epochs: int) -> BC:
        policy_kwargs = cell.settings["policy_kwargs"]
        model = RecurrentPPO("ElmurPolicy", env, policy_kwargs=policy_kwargs, seed=seed, device="cpu", verbose=1)
        return BC(model, episodes, make_config(cell.settings | {"n_epochs": n_epochs}))

    trainer = make_trainer(epochs_within(cell.env.budget, make_trainer))
    trainer.train(path.with_suffix(""))
    write_file(path, trainer.save)
    env.close()


def improve(task: str, seed: int, steps: int, clone_path: Path) -> None:
    """
    Train a clone from reward, and write the result.

    :param task: One of ``TASKS``.
    :param seed: Of everything random.
    :param steps: Of the environments.
    :param clone_path: Of :func:`clone`.
    """
    env_id = f"POPGym{task}-v0"
    settings = read_settings("ppo_elmur.yml", env_id) | CHANGES | TASKS[task]
    arguments = model_arguments(settings)
    del arguments["policy_kwargs"]  # the clone has its own
    env = VecNormalize(make_monitored(env_id, settings["n_envs"]), gamma=settings["gamma"], **settings["normalize"])
    model = RecurrentPPO.load(clone_path, env, seed=seed, device="cpu", **arguments)
    before = returns(model, env_id)
    with th.no_grad():
        for parameter in model.policy.action_net.parameters():
            parameter *= SHARPNESS
    sharpened = returns(model, env_id)
    curve, start = Curve(), time.process_time()
    model.learn(steps, curve)
    seconds = time.process_time() - start
    report = {
        "task": task,
        "settings": settings | {"policy_kwargs": model.policy_kwargs},
        "sharpness": SHARPNESS,
        "steps": model.num_timesteps,
        "clone": before,
        "sharpened clone": sharpened,
        "after PPO": returns(model, env_id),
        "curve": curve.thinned(),
        "CPU seconds of PPO": round(seconds, 1),
        **provenance(seed),
    }
    write_json(FOLDER / f"{task}_{seed}.json", report)
    env.close()


def returns(model: RecurrentPPO, env_id: str) -> dict[str, float]:
    """Mean returns of both ways to act, in the episodes of ``popgym_bc.yml``."""
    means = {}
    for way, deterministic in (("most probable", True), ("sampled", False)):
        played = evaluate_episodes(model, make_monitored(env_id, N_EPISODES), EVALUATION_SEED, deterministic)
        means[way] = round(float(np.mean([episode["return"] for episode in played])), 4)
    return means


def report() -> None:
    """Print a table of all results."""
    rows = []
    for path in sorted(FOLDER.glob("*.json")):
        result = json.loads(path.read_text())
        pairs = (result[when] for when in STAGES)
        shown = [f"{pair['most probable']:.2f}, {pair['sampled']:.2f}" for pair in pairs]
        rows.append([result["task"], result["seed"], *shown, f"{result['steps']:,}", round(result["CPU seconds of PPO"])])
    print(markdown_table(["task", "seed", *STAGES, "steps", "CPU s"], rows))


def main() -> None:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), metavar="TASK")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=1_000_000, help="of the environments (default %(default)s)")
    parser.add_argument("--clones", type=Path, default=Path("logs") / "popgym_clones", help="checkpoints and models")
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "sb3-elmur-popgym", help="demonstrations")
    parser.add_argument("--report", action="store_true", help="only show what is there")
    options = parser.parse_args()
    th.set_num_threads(1)
    if not options.report:
        for seed, task in itertools.product(options.seeds, options.tasks):
            if not (FOLDER / f"{task}_{seed}.json").exists():
                path = options.clones / f"{task}_{seed}.zip"
                clone(task, seed, options.data, path)
                improve(task, seed, options.steps, path)
    report()


if __name__ == "__main__":
    main()
