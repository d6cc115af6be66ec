"""
Evaluation over very many steps: corridors of the passive T-Maze, of any length.

They are crossed a segment at a time, by four exact shortcuts. An agent in the corridor sees the same whatever it does, so the
steps of a segment can be computed in parallel. Corridors of all lengths begin alike, so one walk to the end of the longest
serves them all. Where memory is bit for bit what it was before, a segment with the same observations leads to the same
memory, which is looked up (:mod:`sb3_elmur.evaluation.known_segments`). And where every noise leads to the same memory, all
segments up to the next turn are skipped (:mod:`sb3_elmur.evaluation.skipping`). The last two pay for policies that keep a slot
unchanged, such as gated ones.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.utils import check_for_correct_spaces

from sb3_elmur.core.arguments import check_count
from sb3_elmur.core.memory import Memory
from sb3_elmur.core.states import CoreState
from sb3_elmur.envs import TMazeVecEnv
from sb3_elmur.envs.tmaze.env import Action
from sb3_elmur.evaluation.known_segments import KnownSegments
from sb3_elmur.evaluation.segments import open_segments, replay_segments
from sb3_elmur.evaluation.skipping import Skipping
from sb3_elmur.policies import ElmurPolicy


class Walk(NamedTuple):
    """
    How far :class:`Corridors` have got, with B agents.

    :param memory: Memory before the next segment, of agents that are not lost; its position is the time.
    :param late: Steps that each agent has wasted, (B,) int64; with two it is lost, for it reaches no turn in time.
    :param results: Of each length that was reached, who succeeded, (B,) bool.
    """

    memory: Memory
    late: np.ndarray
    results: dict[int, np.ndarray]


class Corridors:
    """
    Agents of one policy in the passive T-Maze, in corridors of several lengths at once.

    The results for length T are exactly those of ``TMazeVecEnv(n_episodes, length=T, seed=seed)`` with the most probable
    actions: the corridor has T - 2 cells, so that one step may be wasted.

    :param policy: What is evaluated.
    :param lengths: Step limits T, all different and at least 3.
    :param n_episodes: Corridors B of each length.
    :param seed: Seed of goals and noise.
    :param walk: How far an earlier instance with the same arguments has got; ``None`` begins anew.
    :raises ValueError: If the lengths are refused, or the policy has no memory core, or is not one for the T-Maze.
    """

    def __init__(
        self, policy: ElmurPolicy, lengths: Sequence[int], n_episodes: int, seed: int, walk: Walk | None = None
    ) -> None:
        if not isinstance(policy, ElmurPolicy):
            raise ValueError(f"`policy` must be an ElmurPolicy. Received {type(policy).__name__}: use `run_episodes` for it.")
        for length in lengths:
            check_count("lengths", length, 3)
        self.lengths = sorted(int(length) for length in lengths)
        if not self.lengths or len(set(self.lengths)) < len(self.lengths):
            raise ValueError(f"`lengths` must be different numbers, at least one. Received {list(lengths)}.")
        self.policy, self.segment_length = policy, policy.backbone.core.segment_length
        self.env = TMazeVecEnv(n_episodes, length=self.lengths[-1] + 3 * self.segment_length, seed=seed)
        try:
            check_for_correct_spaces(self.env, policy.observation_space, policy.action_space)
        except ValueError as error:
            raise ValueError(
                f"`policy` must act in the passive T-Maze; `run_episodes` and `--env` are for others. {error}"
            ) from error
        policy.set_training_mode(False)
        self.env.reset()
        self.goal = np.where(self.env.goal > 0, Action.UP, Action.DOWN)
        if walk is None:
            walk = Walk(policy.initial_memories(n_episodes).pi, np.zeros(n_episodes, dtype=np.int64), {})
        self.late, self.results = walk.late.copy(), dict(walk.results)
        self.known = KnownSegments(walk.memory)
        self.numbers = self.known.number(walk.memory)
        self.skipping = Skipping(self.known, self.segment_length, self._replay)
        self.time = int(walk.memory.position[0])
        if self.time:
            self.env.move_right(self.time)

    @property
    def finished(self) -> bool:
        """Whether all lengths have results."""
        return len(self.results) == len(self.lengths)

    @property
    def walk(self) -> Walk:
        """How far the agents have got, at the end of a segment."""
        return Walk(self.known.memory(self.numbers, self.time), self.late, self.results)

    def finish(self) -> dict[int, np.ndarray]:
        """
        Walk until all lengths have results.

        :return: Of each length, shortest first, who succeeded, (B,) bool.
        """
        while not self.finished:
            self.advance()
        return self.results

    @th.inference_mode()
    def advance(self) -> None:
        """Walk to the end of the next segment, and evaluate the lengths whose turn comes within it; or skip many segments."""
        n_steps, end = self.segment_length, self.time + self.segment_length
        observations = self.env.look_ahead(n_steps + 1)
        if self._skip(observations[:, 0]):
            return
        after = self.known.look_up(self.numbers, observations[:, :n_steps])
        turns = [length for length in self.lengths[len(self.results) :] if length - 2 < end]
        self.results |= {length: np.zeros(len(observations), dtype=bool) for length in turns}
        rows = np.flatnonzero((self.late < 2) & ((after < 0) | bool(turns)))
        if len(rows):
            observations, memory = observations[rows], self.known.memory(self.numbers[rows], self.time)
            actions, after[rows] = self._replay(observations[:, :n_steps], self.numbers[rows])
            late = self._late(actions, self.late[rows])
            for length in turns:
                offset = length - 2 - self.time
                self.results[length][rows] = self._turn(observations, memory, offset, late[offset], self.goal[rows])
            self.late[rows] = late[-1]
            straight = (actions == Action.RIGHT).all(1)
            self.known.add(self.numbers[rows][straight], observations[straight, :n_steps], after[rows][straight])
        self.numbers = self.known.tidy(np.where(after < 0, self.numbers, after))  # unknown only where agents are lost
        self._move(n_steps)
        if (self.late > 1).all():
            self.results |= {length: np.zeros(len(after), dtype=bool) for length in self.lengths[len(self.results) :]}

    def _skip(self, observations: np.ndarray) -> bool:
        """Whether agents, who see these observations (B, 4), could skip all segments that end before the next turn."""
        n_steps = min(self.lengths[len(self.results)] - 2 - self.time, int(self.env.quiet_steps().min()))
        n_segments, rows = n_steps // self.segment_length, np.flatnonzero(self.late < 2)
        if n_segments < 1:
            return False
        after = self.skipping.skip(self.numbers[rows], observations[rows], n_segments)
        if after is not None:
            self.numbers[rows] = after
            self._move(n_segments * self.segment_length)
        return after is not None

    def _move(self, n_steps: int) -> None:
        self.time += n_steps
        self.env.move_right(n_steps)

    def _replay(self, observations: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Actions (b, L) in a segment with observations (b, L, 4), and the numbers of the memories after it, (b,)."""
        actions, memory = replay_segments(self.policy, observations, self.known.memory(numbers, self.time))
        return actions, self.known.number(memory)

    def _late(self, actions: np.ndarray, late: np.ndarray) -> list[np.ndarray]:
        """Steps wasted before each of a segment's steps and after the last one, each (B,), for actions (B, L)."""
        history = [late]
        for time, action in enumerate(actions.T, self.time):
            stepped_back = (action == Action.LEFT) & (history[-1] < time)  # not at the wall, where nothing but time is lost
            history.append(history[-1] + (action != Action.RIGHT) + stepped_back)
        return history

    def _turn(self, observations: np.ndarray, memory: Memory, offset: int, late: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """
        Whether agents succeed if the junction is the cell that a punctual one reaches ``offset`` steps into the segment.

        :param observations: What all see in the corridor, (B, L + 1, 4).
        :param memory: Memory before the segment.
        :param late: Steps by which they are late, (B,).
        :param goal: Actions that turn the right way, (B,).
        """
        state = open_segments(self.policy, observations[:, :offset], memory)
        corridor, junction = observations[:, offset : offset + 2], observations[:, offset : offset + 2].copy()
        junction[:, :, 2] = 1.0
        turn, after = self._act(junction[:, 0], state)
        second_turn, _ = self._act(junction[:, 1], after)
        onward, after = self._act(corridor[:, 0], state)
        late_turn, _ = self._act(junction[:, 1], after)
        punctual = (turn == goal) | ((turn == Action.RIGHT) & (second_turn == goal))
        return np.where(late == 0, punctual, (late == 1) & (onward == Action.RIGHT) & (late_turn == goal))

    def _act(self, observations: np.ndarray, state: CoreState) -> tuple[np.ndarray, CoreState]:
        return self.policy.step(observations, state, deterministic=True)
