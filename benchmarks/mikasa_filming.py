"""
Demonstrations of RememberColor3 in images, for every answer: ``mikasa_answers.py`` with cameras.

Every motion is recorded twice with the same seed, as the simulator's state and as images. Then the cue is filmed again in each
colour, with the arm where it was.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from common import write_file
from mikasa_answers import JOINTS, THING, act, save, with_cue
from mikasa_bc import NOISE

from sb3_elmur.datasets.episodes import Episode, Episodes, NpzEpisodes
from sb3_elmur.envs.mikasa.env import MikasaEnv
from sb3_elmur.envs.mikasa.experts import RememberExpert
from sb3_elmur.envs.mikasa.observations import observe_rgb
from sb3_elmur.recording import record

TASK, COLORS, CUE = "RememberColor3", 3, 5  # steps for which the cue is shown
ENV_ID = f"Mikasa{TASK}-v0"
SEEN: dict[str, Any] = {"obs_mode": "rgb_joints", "camera_size": 64}
MOTIONS = 240
POSITIONS = slice(7, 16)  # of the joints, in an observation


class Answers(Episodes):
    """
    Filmed motions, each once for every colour.

    :param motions: As they were recorded.
    :param answers: Folder with the cue and the actions for every colour, a file for each motion.
    """

    def __init__(self, motions: NpzEpisodes, answers: Path) -> None:
        self.motions, self.lengths = motions, np.repeat(motions.lengths, COLORS)
        self.answers = [dict(np.load(answers / path.name)) for path in motions.paths]

    def __getitem__(self, index: int) -> Episode:
        motion, color = divmod(index, COLORS)
        episode, answer = self.motions[motion], self.answers[motion]
        assert isinstance(episode.observations, dict)
        images = np.concatenate((answer["rgb"][color], episode.observations["rgb"][CUE:]))
        return Episode(episode.observations | {"rgb": images}, answer["action"][color], episode.rewards)


def demonstrate(data: Path) -> tuple[Path, Path]:
    """Record motions with and without images, and film the cues; return the folders of the images and of the answers."""
    states, images, answers = data / TASK, data / f"{TASK}_rgb", data / f"{TASK}_rgb_answers"
    record(ENV_ID, "oracle", states, MOTIONS, noise=NOISE, progress_bar=True)
    record(ENV_ID, "oracle", images, MOTIONS, noise=NOISE, env_kwargs=SEEN, progress_bar=True)
    answers.mkdir(exist_ok=True)
    env = gymnasium.make(ENV_ID, **SEEN).unwrapped
    assert isinstance(env, MikasaEnv)
    for index in range(MOTIONS):
        name = f"train_data_{index}.npz"
        if not (answers / name).exists():
            with np.load(states / name) as episode:
                write_file(answers / name, partial(save, **film_answers(env, index, episode["observation"])))
    env.close()
    return images, answers


def film_answers(env: MikasaEnv, seed: int, observation: np.ndarray) -> dict[str, np.ndarray]:
    """
    What the cameras would have seen of each colour's cue, and what the expert would have done.

    :param env: Of images.
    :param seed: Of the episode.
    :param observation: Its states, in the mode "state_cue".
    :return: ``rgb`` (colours, steps of the cue, height, width, 6) and ``action`` (colours, T, 8).
    """
    env.reset(seed=seed)
    expert = RememberExpert(env.episodes)
    things = observation[:, JOINTS:].reshape(len(observation), -1, THING)
    actions = [act(expert, observation, things, color) for color in range(COLORS)]
    return {"rgb": np.stack([film_cue(env, observation, color) for color in range(COLORS)]), "action": np.stack(actions)}


def film_cue(env: MikasaEnv, observation: np.ndarray, color: int) -> np.ndarray:
    """The images of the cue, with the arm where it was, and a cube of some colour."""
    simulation, images = env.episodes.simulation, []
    simulation.true_color_indices[:] = color
    for step in range(CUE):
        simulation._elapsed_steps[:] = step
        simulation.agent.robot.set_qpos(observation[step : step + 1, POSITIONS])
        images.append(observe_rgb(simulation, simulation.get_obs(), env.episodes.task)["rgb"][0].numpy())
    return np.stack(images)


def sights(data: Path, images: Path, answers: Path) -> tuple[np.ndarray, np.ndarray]:
    """
    Images and what they show, for each motion all its steps, and those of the cue in every colour.

    :return: images (motions, n, height, width, 6), and for each cube whether it is there and where, (motions, n, 12)
    """
    seen, shown = [], []
    for index in range(MOTIONS):
        name = f"train_data_{index}.npz"
        with np.load(data / TASK / name) as states, np.load(images / name) as recorded, np.load(answers / name) as answer:
            observation = states["observation"]
            (color,) = np.flatnonzero(observation[0, JOINTS::THING])
            cues = [with_cue(observation, color, other)[:CUE] for other in range(COLORS)]
            seen.append(np.concatenate((*answer["rgb"], recorded["rgb"][CUE:])))
            shown.append(np.concatenate((*cues, observation[CUE:]))[:, JOINTS:])
    return np.stack(seen), np.stack(shown)
