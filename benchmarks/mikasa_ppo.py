"""
PPO on MIKASA-Robo's RememberColor tasks in the "state_cue" mode with dense rewards, from scratch and from a cloned policy.

    python benchmarks/mikasa_ppo.py                                                # every start and agent, one after the other
    python benchmarks/mikasa_ppo.py --starts scratch --agents elmur --seeds 10 11 12 --steps 960000
    python benchmarks/mikasa_ppo.py --starts cloned --agents elmur --seeds 10 11 12 --steps 50000
    python benchmarks/mikasa_ppo.py --report                                       # a table of what is there

The clones are those of ``benchmarks/mikasa_bc.py``, which makes them if they are not there.
``benchmarks/results/mikasa_ppo/<task>_<start>_<agent>_<seed>.json`` holds the curve of training, with sampled actions, and
evaluations of the averaged policy on the way, with the most probable ones. An interrupted run goes on from its last
checkpoint, which holds averaged weights, and so does a longer one.
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
from mikasa_bc import AGENTS, DEMONSTRATIONS, EVALUATION, MODEL, N_ENVS, NORMALIZATION, judge, run, run_name
from rl_zoo3.utils import get_callback_list
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

from sb3_elmur import RecurrentPPO
from sb3_elmur.envs.batch import make_batch
from sb3_elmur.settings import read_settings

FOLDER = RESULTS / "mikasa_ppo"
STARTS: dict[str, dict[str, Any]] = {  # beside the settings of zoo_configs/ppo_elmur.yml
    "scratch": {},
    "cloned": {"callback": None},  # a clone's actions need no more noise to begin with
}
CHUNK = 5  # rollouts between checkpoints
EVALUATE = {"scratch": 5, "cloned": 1}  # chunks between evaluations


class Keeper(BaseCallback):
    """
    Keeps how the episodes of training ended, and a checkpoint every few rollouts.

    :param run: What is trained.
    """

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run

    def _on_training_start(self) -> None:
        self.returns: list[float] = []
        self.successes: list[bool] = []
        self.began = time.process_time()

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                self.returns.append(info["episode"]["r"])
                self.successes.append(info["is_success"])
        return True

    def _on_rollout_start(self) -> None:
        if self.returns and self.num_timesteps % self.run.chunk == 0:
            self.run.note(self.returns, self.successes, time.process_time() - self.began)
            self._on_training_start()

    def _on_training_end(self) -> None:
        self._on_rollout_start()


class Run:
    """
    One training, which goes on from its checkpoint if there is one.

    :param task: One of ``DEMONSTRATIONS``.
    :param start: One of ``STARTS``.
    :param agent: One of ``AGENTS``.
    :param seed: Of everything random.
    :param runs: Where checkpoints go.
    :param clones: Where the cloned policies are, or will be.
    :param data: Where the demonstrations are, or will be.
    """

    def __init__(self, task: str, start: str, agent: str, seed: int, runs: Path, clones: Path, data: Path) -> None:
        self.name = f"{task} {start} {agent} {seed}".replace(" ", "_")
        self.folder, self.path = runs / self.name, FOLDER / f"{self.name}.json"
        self.evaluate = EVALUATE[start]
        env_id = f"Mikasa{task}-v0"
        settings = read_settings("ppo_elmur.yml", env_id) | STARTS[start]
        env = VecMonitor(make_batch(env_id, settings["n_envs"]))
        judging = make_batch(env_id, N_ENVS)
        self.judging = VecNormalize(judging, training=False, norm_reward=False)
        self.callbacks = get_callback_list(settings)
        self.chunk = CHUNK * settings["n_steps"] * settings["n_envs"]
        clone = clones / run_name(task, agent, seed)
        if (self.folder / MODEL).exists() and self.path.exists():
            self.env = VecNormalize.load(str(self.folder / NORMALIZATION), env)
            self.model = RecurrentPPO.load(self.folder / MODEL, self.env, device="cpu")
            self.report = json.loads(self.path.read_text())
            for name in ("curve", "evaluations"):
                self.report[name] = [point for point in self.report[name] if point["steps"] <= self.model.num_timesteps]
            self.env.seed(seed + self.model.num_timesteps)
            return
        arguments = model_arguments(settings) | {"seed": seed, "device": "cpu"}
        policy_kwargs = arguments.pop("policy_kwargs") | AGENTS[agent]
        if start == "cloned":
            if not (clone / MODEL).exists():
                run(task, agent, seed, data, clones)
            self.env = VecNormalize.load(str(clone / NORMALIZATION), env)
            self.model = RecurrentPPO.load(clone / MODEL, self.env, **arguments)
        else:
            self.env = VecNormalize(env, **settings["normalize"])
            self.model = RecurrentPPO("ElmurPolicy", self.env, policy_kwargs=policy_kwargs, **arguments)
        self.report = {
            "task": task,
            "start": start,
            "agent": agent,
            "settings": settings | {"policy_kwargs": self.model.policy_kwargs},
            "CPU seconds of this process alone": 0.0,
            "curve": [],
            "evaluation": EVALUATION,
            "evaluations": [],
            **provenance(seed),
        }

    def train(self, steps: int) -> None:
        """
        Train, evaluate on the way, and keep the result.

        :param steps: Of the environments, from the start of the run; schedules end there.
        """
        left = steps - self.model.num_timesteps
        if left > 0:
            self.model.learn(left, [*self.callbacks, Keeper(self)], reset_num_timesteps=False)
        self.env.close()
        self.judging.close()

    def note(self, returns: list[float], successes: list[bool], seconds: float) -> None:
        """
        Keep a point of the curve, with an evaluation now and then, and a checkpoint.

        :param returns: Of the episodes since the last point.
        :param successes: Of these.
        :param seconds: Of the CPU since then.
        """
        point = {
            "steps": self.model.num_timesteps,
            "success once": round(float(np.mean(successes)), 4),
            "mean return": round(float(np.mean(returns)), 3),
        }
        print(self.name, point, flush=True)
        self.report["curve"].append(point)
        self.report["CPU seconds of this process alone"] = round(self.report["CPU seconds of this process alone"] + seconds, 1)
        if self.model.num_timesteps % (self.evaluate * self.chunk) == 0:
            self._evaluate()
        self._save()

    def _save(self) -> None:
        write_file(self.folder / NORMALIZATION, lambda path: self.env.save(str(path)))
        write_file(self.folder / MODEL, self.model.save)
        write_json(self.path, self.report)

    def _evaluate(self) -> None:
        self.judging.obs_rms = self.env.obs_rms
        evaluation = {"steps": self.model.num_timesteps, **judge(self.model.averaged_policy, self.judging)}
        print(self.name, evaluation, flush=True)
        self.report["evaluations"].append(evaluation)


def report() -> None:
    """Print a table of all results."""
    rows = []
    for path in sorted(FOLDER.glob("*.json")):
        result = json.loads(path.read_text())
        curve, evaluations = result["curve"], result["evaluations"]
        rows.append(
            [
                result["task"],
                result["start"],
                result["agent"],
                result["seed"],
                curve[-1]["steps"],
                f"{curve[0]['mean return']:.1f} to {curve[-1]['mean return']:.1f}",
                ", ".join(f"{evaluation['success once']:.2f}" for evaluation in evaluations),
            ]
        )
    print(markdown_table(["task", "start", "agent", "seed", "steps", "mean return in training", "success on the way"], rows))


def main() -> None:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=DEMONSTRATIONS, default=["RememberColor3"], metavar="TASK")
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=["scratch", "cloned"], metavar="START")
    parser.add_argument("--agents", nargs="+", choices=AGENTS, default=["elmur", "no memory"], metavar="AGENT")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=480_000, help="of the environments (default %(default)s)")
    parser.add_argument("--runs", type=Path, default=Path("logs") / "mikasa_ppo", help="checkpoints")
    parser.add_argument("--clones", type=Path, default=Path("logs") / "mikasa_bc", help="--runs of mikasa_bc.py")
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "sb3-elmur-mikasa", help="demonstrations")
    parser.add_argument("--report", action="store_true", help="only show what is there")
    options = parser.parse_args()
    th.set_num_threads(1)
    if not options.report:
        for seed, *what in itertools.product(options.seeds, options.tasks, options.starts, options.agents):
            Run(*what, seed, options.runs, options.clones, options.data).train(options.steps)
    report()


if __name__ == "__main__":
    main()
