"""Episodes played by an expert, as arrays. Each depends on its own seed alone, so that a recording can be interrupted."""

from typing import Any, NamedTuple

import gymnasium
import numpy as np
from stable_baselines3.common.utils import set_random_seed

from sb3_elmur.datasets.fields import MASK, DataError, check_valid, episode_fields, mask_field
from sb3_elmur.masks import get_action_masks, has_masks
from sb3_elmur.recording.experts import Act, random_action
from sb3_elmur.spaces import as_dict


class Recording(NamedTuple):
    """
    An episode of T steps, as converted arrays.

    :param arrays: By the keys of :func:`sb3_elmur.datasets.fields.episode_fields`, those of observations with T + 1 rows; and
        ``action_mask``, T rows, where the environment has masks.
    :param successes: Every step's ``info["is_success"]``, ``None`` where it was absent.
    :param terminated: Whether the environment ended the episode, rather than a time limit.
    """

    arrays: dict[str, np.ndarray]
    successes: list[bool | None]
    terminated: bool


class Recorder:
    """
    Plays episodes that depend on their seeds alone.

    :param env: Where to play.
    :param act: Who plays, see :func:`sb3_elmur.recording.experts.make_act`.
    :param seed: Seed of the first episode.
    :param noise: Least and largest share of an episode's steps at which a random action is played.
    :param only_successful: Whether episodes that failed are of no use.

    Attribute ``outcomes`` says of each episode so far whether it succeeded, ``None`` where the environment does not say.
    """

    def __init__(
        self,
        env: gymnasium.Env,
        act: Act,
        seed: int,
        noise: tuple[float, float] = (0.0, 0.0),
        only_successful: bool = False,
    ) -> None:
        self.env, self.act, self.seed, self.noise, self.only_successful = env, act, seed, noise, only_successful
        self.fields = episode_fields(env.observation_space, env.action_space)
        self.observed = [field.key for field in self.fields[:-2]]
        masks = mask_field(env.observation_space, env.action_space) if has_masks(env) else None
        self.masked = masks is not None
        if masks is not None:
            self.fields = [*self.fields, masks]
        self.outcomes: list[bool | None] = []

    def play(self, index: int) -> Recording | None:
        """
        Play an episode.

        :param index: Its number.
        :return: What was played; ``None`` if it failed, and is of no use.
        :raises DataError: If it does not belong to the environment's spaces.
        :raises ValueError: If only successful episodes are of use, and the environment does not say which these are.
        """
        seed = self.seed + index
        set_random_seed(seed)
        self.env.action_space.seed(np.random.randint(2**31))  # not `seed`, which would draw what the environment draws
        chance = np.random.default_rng((seed, 1))  # a stream of its own, beside the environment's
        least, most = self.noise
        noise = chance.uniform(least, most) if least < most else most
        rows: dict[str, list[Any]] = {field.key: [] for field in self.fields}
        successes: list[bool | None] = []
        observation, _ = self.env.reset(seed=seed)
        self._note(rows, observation)
        terminated = truncated = False
        while not (terminated or truncated):
            action = self.act(observation, not successes)
            rows["action"].append(np.array(action))
            if self.masked:
                rows[MASK].append(np.array(get_action_masks(self.env)).ravel())
            if chance.random() < noise:
                action = random_action(self.env)
            observation, reward, terminated, truncated, info = self.env.step(action)
            rows["reward"].append(reward)
            successes.append(info.get("is_success"))
            self._note(rows, observation)
        try:
            arrays = self._converted(rows)
        except DataError as error:
            raise DataError(f"Episode {index}, played with seed {seed}: {error}") from None
        outcome = None if successes[-1] is None else bool(successes[-1])
        if self.only_successful and outcome is None:
            raise ValueError(f"`only_successful` needs `is_success` in the infos. Received {info} at an episode's end.")
        self.outcomes.append(outcome)
        return Recording(arrays, successes, terminated) if outcome or not self.only_successful else None

    def _note(self, rows: dict[str, list[Any]], observation: Any) -> None:
        """Append a copy of an observation, which the environment may change."""
        parts = as_dict(observation)
        for key in self.observed:
            rows[key].append(np.array(parts[key]))

    def _converted(self, rows: dict[str, list[Any]]) -> dict[str, np.ndarray]:
        """The rows as arrays of the spaces' types."""
        arrays = {field.key: np.array(rows[field.key]) for field in self.fields}
        for field in self.fields:
            field.check_header(arrays[field.key].shape, arrays[field.key].dtype)
        converted = {field.key: field.convert(arrays[field.key]) for field in self.fields}
        if self.masked:
            check_valid(converted["action"], converted[MASK], self.env.action_space)
        return converted
