"""
Time of a step of MIKASA-Robo's environments on a CPU, without images and with them.

    python benchmarks/mikasa_speed.py

Without images, batches and ManiSkill's own simulation take turns of a few steps, so that a load of the machine meets all of
them; times are medians over the turns. Images are drawn with the lighter mesh of the wrist's camera, as users get them, and
with ManiSkill's own. The result is ``benchmarks/results/mikasa_speed.json``.
"""

from __future__ import annotations

import argparse
import time
from typing import Any
from unittest import mock

import numpy as np
import torch as th
from common import RESULTS, markdown_table, provenance, write_json

from sb3_elmur.envs import MikasaEnv, MikasaVecEnv
from sb3_elmur.envs.mikasa.meshes import simplify_wrist_camera

WARM_UP = 5  # steps
VISIBLE = 8  # of 255
IMAGES = {f"rgb_joints, {size} pixels": {"obs_mode": "rgb_joints", "camera_size": size} for size in (64, 128)}
BATCHES = (1, 8, 32, 100)  # environments
TURNS, STEPS_PER_TURN = 8, 7  # fewer steps than an episode has
CASES: dict[str, tuple[dict[str, Any], bool]] = {  # arguments, and whether the mesh is lighter
    **{name: (arguments, True) for name, arguments in IMAGES.items()},
    **{f"{name}, own mesh": (arguments, False) for name, arguments in IMAGES.items()},
}


def manis_own(task: str) -> MikasaVecEnv:
    """
    One environment in ManiSkill's own simulation on the CPU.

    :param task: Its name.
    :return: The environment in "state_cue".
    """
    with mock.patch("sb3_elmur.envs.mikasa.simulation.in_scenes", lambda environment_class: environment_class):
        return MikasaVecEnv(1, task)


def step_states(task: str) -> dict[str, float]:
    """
    Random actions in "state_cue", alone and in batches, in turns.

    :param task: Its name.
    :return: CPU milliseconds for a step of one environment.
    """
    envs = {"ManiSkill's own simulation": manis_own(task), **{f"batch of {n}": MikasaVecEnv(n, task) for n in BATCHES}}
    rng, times = np.random.default_rng(0), {name: [] for name in envs}
    for env in envs.values():
        env.seed(0)
        env.reset()
    for _ in range(TURNS):
        for name, env in envs.items():
            actions = rng.uniform(-1, 1, (STEPS_PER_TURN, env.num_envs, 8))
            start = time.process_time()
            for action in actions:
                env.step(action)
            times[name].append((time.process_time() - start) / STEPS_PER_TURN / env.num_envs)
    return {name: round(1e3 * float(np.median(turns)), 3) for name, turns in times.items()}


def play(task: str, arguments: dict[str, Any], lighter: bool, n_steps: int) -> tuple[float, np.ndarray]:
    """
    Random actions in an episode, after a few to warm up.

    :return: CPU milliseconds per step, and the images, (n_steps, height, width, 6)
    """
    simplify = simplify_wrist_camera if lighter else lambda simulation: None
    with mock.patch("sb3_elmur.envs.mikasa.simulation.simplify_wrist_camera", simplify):
        env = MikasaEnv(task, **arguments)
    actions, observations = np.random.default_rng(0).uniform(-1, 1, (n_steps + WARM_UP, 8)), []
    env.reset(seed=0)
    for action in actions[:WARM_UP]:
        env.step(action)
    start = time.process_time()
    for action in actions[WARM_UP:]:
        observations.append(env.step(action)[0])
    seconds = time.process_time() - start
    env.close()
    images = np.stack([observation["rgb"] for observation in observations])
    return round(1e3 * seconds / n_steps, 2), images


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="RememberColor3")
    parser.add_argument("--steps", type=int, default=50, help="timed steps, fewer than an episode has (default %(default)s)")
    options = parser.parse_args()
    th.set_num_threads(1)
    states = step_states(options.task)
    print(markdown_table(["state_cue", "CPU ms per step of an environment"], [list(case) for case in states.items()]))
    played = {case: play(options.task, *CASES[case], options.steps) for case in CASES}
    measured = {case: milliseconds for case, (milliseconds, _) in played.items()}
    differences = {name: np.abs(played[name][1].astype(int) - played[f"{name}, own mesh"][1]).max(axis=3) for name in IMAGES}
    changed = {name: float((difference > VISIBLE).mean()) for name, difference in differences.items()}
    report = {
        "task": options.task,
        "state_cue, CPU milliseconds per step of an environment, on a shared machine": states,
        "images, CPU milliseconds per step, on a shared machine": measured,
        f"share of pixels in which the lighter mesh changes a channel by more than {VISIBLE}": changed,
    }
    write_json(RESULTS / "mikasa_speed.json", report | provenance(0))
    print(markdown_table(["observation", "CPU ms per step"], [list(case) for case in measured.items()]))
    print("changed pixels:", changed)


if __name__ == "__main__":
    main()
