"""
Demonstrations of the RememberColor tasks for every answer: what the scripted expert would do, had another colour been shown.

The expert's action depends on where arm and target are, and on nothing else. So each recorded motion of the arm is labelled
once for every colour, with that colour's cube in the cue: as many demonstrations as there are colours. That motion then tells
nothing of the answer, and neither does anything else but the cue.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import gymnasium
import numpy as np
from common import write_file

from sb3_elmur.envs.mikasa.env import MikasaEnv
from sb3_elmur.envs.mikasa.experts import RememberExpert

JOINTS = 25  # numbers of an observation: place (3) and orientation (4) of the tool, positions (9) and velocities of the joints
THING = 4  # then for each cube: whether it is seen, and where
CHOICE = 10  # step at which all cubes appear


def label_answers(env_id: str, recorded: Path, n_episodes: int, labelled: Path) -> None:
    """
    Label recorded episodes for all answers; what is there already is kept.

    :param env_id: Of a RememberColor task.
    :param recorded: Folder of episodes in the "state_cue" mode.
    :param n_episodes: How many of them to label.
    :param labelled: Folder for c times as many of a task with c colours.
    """
    labelled.mkdir(parents=True, exist_ok=True)
    env = gymnasium.make(env_id).unwrapped
    assert isinstance(env, MikasaEnv)
    env.reset(seed=0)
    expert = RememberExpert(env.episodes)
    for index in range(n_episodes):
        with np.load(recorded / f"train_data_{index}.npz") as episode:
            observation = episode["observation"]
        things = observation[:, JOINTS:].reshape(len(observation), -1, THING)
        (shown,) = np.flatnonzero(things[0, :, 0])
        for color in range(things.shape[1]):
            target = labelled / f"train_data_{index}_{color}.npz"
            if not target.exists():
                seen, done = with_cue(observation, shown, color), act(expert, observation, things, color)
                write_file(target, partial(save, observation=seen, action=done))
    env.close()


def with_cue(observation: np.ndarray, shown: int, color: int) -> np.ndarray:
    """Observations (T, n) in which the cue shows another colour."""
    changed = observation.copy()
    cue = changed[:CHOICE, JOINTS:].reshape(CHOICE, -1, THING)
    cue[:, [shown, color]] = cue[:, [color, shown]]
    changed[:CHOICE, JOINTS:] = cue.reshape(CHOICE, -1)
    return changed


def act(expert: RememberExpert, observation: np.ndarray, things: np.ndarray, color: int) -> np.ndarray:
    """The expert's actions (T, 8) in the states of an episode, if the answer is a colour."""
    touches = [
        expert.touch(seen[:3], seen[7:16], cubes[color, 1:])
        for seen, cubes in zip(observation[CHOICE:], things[CHOICE:], strict=True)
    ]
    return np.stack([expert.wait()] * CHOICE + touches)


def save(path: Path, **arrays: np.ndarray) -> None:
    """Write an ``.npz`` file, whatever its name ends in."""
    with path.open("wb") as file:
        np.savez(file, **arrays)
