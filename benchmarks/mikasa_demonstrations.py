"""
Demonstrations of the Remember tasks for every answer: what the scripted expert would do, had another thing been shown.

The expert's action depends on where arm and target are, and on nothing else. So each recorded motion of the arm is labelled
once for every colour or shape, with that thing in the cue: as many demonstrations as there are things. That motion then tells
nothing of the answer, and neither does anything else but the cue.

With images, every motion is recorded twice with the same seed, as the simulator's state and as images. Then the cue is filmed
again with each thing, with the arm where it was. ``mikasa_bc.py``, ``mikasa_rgb.py`` and ``mikasa_rgb_upper_bound.py`` use it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from common import write_file

from sb3_elmur.datasets.episodes import Episode, Episodes, NpzEpisodes
from sb3_elmur.envs.mikasa.env import MikasaEnv
from sb3_elmur.envs.mikasa.experts import RememberExpert
from sb3_elmur.envs.mikasa.observations import observe_rgb
from sb3_elmur.recording import record
from sb3_elmur.spaces import map_observations

JOINTS = 25  # numbers of an observation: place (3) and orientation (4) of the tool, positions (9) and velocities of the joints
POSITIONS = slice(7, 16)  # of the joints, in an observation
THING = 4  # then for each cube: whether it is seen, and where
CUE = 5  # steps for which the cue is shown
CHOICE = 10  # step at which all cubes appear
NOISE = (0.0, 1.0)  # of each episode its own: the more random actions, the less the arm's motion gives the target away
IMAGES: dict[str, Any] = {"obs_mode": "rgb_joints", "camera_size": 64}


class Motions(NamedTuple):
    """
    Folders of filmed motions, with a file for each.

    :param states: What the simulator knew.
    :param images: What the cameras saw.
    :param answers: The images of the cue, and the actions, for every answer.
    """

    states: Path
    images: Path
    answers: Path


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
                changed, actions = with_cue(observation, shown, color), act(expert, observation, things, color)
                write_file(target, partial(save, observation=changed, action=actions))
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
        expert.touch(state[:3], state[POSITIONS], cubes[color, 1:])
        for state, cubes in zip(observation[CHOICE:], things[CHOICE:], strict=True)
    ]
    return np.stack([expert.wait()] * CHOICE + touches)


def save(path: Path, **arrays: np.ndarray) -> None:
    """Write an ``.npz`` file, whatever its name ends in."""
    with path.open("wb") as file:
        np.savez(file, **arrays)


class Cues(Episodes):
    """
    The cue of filmed motions, once with every thing: episode m k + i is motion m with thing i of k.

    :param motions: As they were recorded.
    :param answers: What :func:`film_answers` made of each motion.
    """

    def __init__(self, motions: Episodes, answers: Sequence[dict[str, np.ndarray]]) -> None:
        super().__init__(motions.observation_space, motions.action_space, cache_bytes=0)
        self.motions, self.answers, self.n_answers = motions, answers, len(answers[0]["action"])
        self.lengths = np.full(len(motions) * self.n_answers, CUE)

    def _load(self, index: int) -> Episode:
        motion, thing = divmod(index, self.n_answers)
        episode, answer = self.motions[motion], self.answers[motion]
        assert isinstance(episode.observations, dict)
        observations = {key: values[:CUE] for key, values in episode.observations.items()}
        return Episode(observations | {"rgb": answer["rgb"][thing]}, answer["action"][thing, :CUE], episode.rewards[:CUE])


class Answers(Episodes):
    """
    Filmed motions, once for every answer.

    :param motions: As they were recorded, or their features.
    :param cues: The same motions' :class:`Cues`, or their features.
    :param answers: What :func:`film_answers` made of each motion.
    """

    def __init__(self, motions: Episodes, cues: Episodes, answers: Sequence[dict[str, np.ndarray]]) -> None:
        super().__init__(motions.observation_space, motions.action_space, cache_bytes=0)
        self.motions, self.cues, self.answers, self.n_answers = motions, cues, answers, len(answers[0]["action"])
        self.lengths = np.repeat(motions.lengths, self.n_answers)

    def _load(self, index: int) -> Episode:
        motion, thing = divmod(index, self.n_answers)
        episode, cue = self.motions[motion], self.cues[index]
        observations = map_observations(with_beginning, cue.observations, episode.observations)
        return Episode(observations, self.answers[motion]["action"][thing], episode.rewards)


def with_beginning(beginning: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """An array whose first rows are others."""
    return np.concatenate((beginning, whole[len(beginning) :]))


def read_answers(motions: NpzEpisodes, folder: Path) -> list[dict[str, np.ndarray]]:
    """Read what :func:`film_answers` made of each recorded motion."""
    return [dict(np.load(folder / path.name)) for path in motions.paths]


def film_motions(
    task: str, n_motions: int, data: Path, steps: int | None = None, noise: tuple[float, float] = NOISE
) -> Motions:
    """
    Record motions with and without images, and film the cues; what is there already is kept.

    :param task: Remember with any things.
    :param n_motions: How many.
    :param data: Folder for all.
    :param steps: Of each motion, the first ones; else all of the task.
    :param noise: Of each motion its own share of random actions.
    """
    env_id, some = f"Mikasa{task}-v0", "" if steps is None else f"_{steps}_steps"
    limit = {} if steps is None else {"max_episode_steps": steps}
    motions = Motions(data / f"{task}{some}", data / f"{task}_rgb{some}", data / f"{task}_rgb_answers{some}")
    record(env_id, "oracle", motions.states, n_motions, noise=noise, env_kwargs=limit, progress_bar=True)
    record(env_id, "oracle", motions.images, n_motions, noise=noise, env_kwargs=IMAGES | limit, progress_bar=True)
    motions.answers.mkdir(exist_ok=True)
    env = gymnasium.make(env_id, **IMAGES).unwrapped
    assert isinstance(env, MikasaEnv)
    for index in range(n_motions):
        name = f"train_data_{index}.npz"
        if not (motions.answers / name).exists():
            with np.load(motions.states / name) as episode:
                write_file(motions.answers / name, partial(save, **film_answers(env, index, episode["observation"])))
    env.close()
    return motions


def film_answers(env: MikasaEnv, seed: int, observation: np.ndarray) -> dict[str, np.ndarray]:
    """
    What the cameras would have seen of the cue with each thing, and what the expert would have done.

    :param env: Of images.
    :param seed: Of the episode.
    :param observation: Its states, in the mode "state_cue".
    :return: ``rgb`` (things, steps of the cue, height, width, 6) and ``action`` (things, T, 8).
    """
    env.reset(seed=seed)
    expert = RememberExpert(env.episodes)
    things = observation[:, JOINTS:].reshape(len(observation), -1, THING)
    answers = range(things.shape[1])
    actions = [act(expert, observation, things, answer) for answer in answers]
    return {"rgb": np.stack([film_cue(env, observation, answer) for answer in answers]), "action": np.stack(actions)}


def film_cue(env: MikasaEnv, observation: np.ndarray, answer: int) -> np.ndarray:
    """The images of the cue, with the arm where it was, and some thing."""
    simulation, images = env.episodes.simulation, []
    simulation.oracle_info[:] = answer  # the simulator's own, not a copy
    for step in range(CUE):
        simulation._elapsed_steps[:] = step
        simulation.agent.robot.set_qpos(observation[step : step + 1, POSITIONS])
        images.append(observe_rgb(simulation, simulation.get_obs(), env.episodes.task)["rgb"][0].numpy())
    return np.stack(images)


def sights(motions: Motions) -> tuple[np.ndarray, np.ndarray]:
    """
    Images and what they show, for each motion all its steps, and those of the cue in every colour.

    :return: images (motions, n, height, width, 6), and for each cube whether it is there and where, (motions, n, 4 cubes)
    """
    pictures, places = [], []
    for path in sorted(motions.answers.iterdir()):
        files = motions.states / path.name, motions.images / path.name, path
        states, recorded, answer = (dict(np.load(file)) for file in files)
        observation = states["observation"]
        (color,) = np.flatnonzero(observation[0, JOINTS::THING])
        cues = [with_cue(observation, color, other)[:CUE] for other in range(len(answer["rgb"]))]
        pictures.append(np.concatenate((*answer["rgb"], recorded["rgb"][CUE:])))
        places.append(np.concatenate((*cues, observation[CUE:]))[:, JOINTS:])
    return np.stack(pictures), np.stack(places)
