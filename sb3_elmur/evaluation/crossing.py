"""
Episodes in T-Mazes of any length, which are stepped where something can happen, and crossed where nothing can.

On a quiet stretch of a corridor an agent sees nothing but noise, whatever it does, so that the steps of a segment can be
computed in parallel; and where the memory before it and the noise are bit for bit what they were before, its outcome is looked
up. A memory that leads to the same next memory with every noise that there is leads there in the segments to come, too: the
rest of the stretch is skipped, however long it is. All of this is exact: results are those of
:func:`sb3_elmur.evaluation.episodes.run_episodes`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.utils import check_for_correct_spaces

from sb3_elmur.envs.tmaze.base import MazeVecEnv
from sb3_elmur.envs.tmaze.config import Action
from sb3_elmur.evaluation.episodes import successes
from sb3_elmur.evaluation.known_segments import KnownSegments
from sb3_elmur.evaluation.segments import open_segments, replay_segments
from sb3_elmur.evaluation.skipping import Skipping
from sb3_elmur.policies import ElmurPolicy


def cross_episodes(
    policy: ElmurPolicy, env: MazeVecEnv, seed: int, progress: Callable[[int, int], None] | None = None
) -> list[dict[str, float]]:
    """
    The results of one episode in each maze, with the most probable actions.

    :param policy: Who plays.
    :param env: The mazes, which are seeded and reset.
    :param seed: Seed of the first maze; the others follow.
    :param progress: Called again and again with the number of steps that the batch has taken so far, and the number of
        episodes that ended since the last call.
    :return: See :func:`sb3_elmur.evaluation.episodes.run_episodes`.
    :raises ValueError: If the mazes have other spaces than the policy.
    """
    crossing = Crossing(policy, env, seed)
    while crossing.running.any():
        n_running = crossing.running.sum()
        crossing.advance()
        if progress is not None:
            progress(crossing.time, int(n_running - crossing.running.sum()))
    return crossing.episodes


class Crossing:
    """
    One episode in each of B T-Mazes, under way; between calls all agents are at the border of two segments.

    :param policy: Who plays.
    :param env: The mazes, which are seeded and reset.
    :param seed: Seed of the first maze; the others follow.
    :raises ValueError: If the mazes have other spaces than the policy.
    """

    def __init__(self, policy: ElmurPolicy, env: MazeVecEnv, seed: int) -> None:
        check_for_correct_spaces(env, policy.observation_space, policy.action_space)
        policy.set_training_mode(False)
        self.policy, self.env, self.segment_length = policy, env, policy.backbone.core.segment_length
        env.seed(seed)
        self.observations: Any = env.reset()
        self.time = 0
        self.running = np.ones(env.num_envs, dtype=bool)
        self.episodes: list[dict[str, float]] = [{} for _ in range(env.num_envs)]
        self._returns = np.zeros(env.num_envs)
        memory = policy.initial_memories(env.num_envs).pi
        self._known = KnownSegments(memory)
        self._numbers = self._known.number(memory)
        self._skipping = Skipping(self._known, self.segment_length, self._replay)

    @th.inference_mode()
    def advance(self) -> None:
        """Go on to the end of the segment, or of as many as can be skipped."""
        n_segments = np.minimum(self.env.quiet_steps(), self.env.steps_to_deadline) // self.segment_length
        rows = self.running.nonzero()[0]
        n_skipped = int(n_segments[rows].min())
        after = self._skipping.skip(self._numbers[rows], self.observations[rows], n_skipped) if n_skipped else None
        if after is not None:
            self._numbers[rows] = after
            self.time += n_skipped * self.segment_length
            self.observations = self.env.move_right(n_skipped * self.segment_length)
            return
        actions = np.full((self.env.num_envs, self.segment_length), Action.RIGHT, dtype=np.int64)
        crossing = self.running & (n_segments > 0)
        if crossing.any():
            self._cross(crossing.nonzero()[0], actions)
        if n_skipped and (actions[rows] == Action.RIGHT).all():
            self.time += self.segment_length
            self.observations = self.env.move_right(self.segment_length)
        else:
            self._step((self.running & ~crossing).nonzero()[0], actions)
        self._numbers = self._known.tidy(self._numbers)

    def _cross(self, rows: np.ndarray, actions: np.ndarray) -> None:
        """Compute the actions (B, L) of rows (b,) in a quiet segment, and the memories after it."""
        observations = self.env.look_ahead(self.segment_length)[rows]
        numbers = self._numbers[rows]
        after = self._known.look_up(numbers, observations)
        unknown = (after < 0).nonzero()[0]
        if len(unknown):
            taken, after[unknown] = self._replay(observations[unknown], numbers[unknown])
            actions[rows[unknown]] = taken
            straight = unknown[(taken == Action.RIGHT).all(1)]
            self._known.add(numbers[straight], observations[straight], after[straight])
        self._numbers[rows] = after

    def _replay(self, observations: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Actions (b, L) in a segment with observations (b, L, F), and the numbers of the memories after it, (b,)."""
        actions, memory = replay_segments(self.policy, observations, self._known.memory(numbers, self.time))
        return actions, self._known.number(memory)

    def _step(self, rows: np.ndarray, actions: np.ndarray) -> None:
        """Step through a segment: rows (b,) as they see fit, the others with their actions (B, L)."""
        state = None
        if len(rows):
            nothing = self.observations[rows, None][:, :0]  # (b, 0, F)
            state = open_segments(self.policy, nothing, self._known.memory(self._numbers[rows], self.time))
        for time in range(self.segment_length):
            if state is not None:
                actions[rows, time], state = self.policy.step(self.observations[rows], state, deterministic=True)
            self._take(actions[:, time])
        if state is not None:
            self._numbers[rows] = self._known.number(state.memory)

    def _take(self, actions: np.ndarray) -> None:
        """Step all mazes, and note which episodes end."""
        self.observations, rewards, dones, infos = self.env.step(actions)
        self.time += 1
        self._returns += np.where(self.running, rewards, 0.0)
        for i in (self.running & dones).nonzero()[0]:
            self.episodes[i] = {"return": float(self._returns[i]), "length": self.time, **successes(infos[i])}
        self.running &= ~dones
