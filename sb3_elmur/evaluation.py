"""
Evaluation over very many steps: corridors of any length, and episodes of any environment, in one batch.

Corridors of the passive T-Maze (:class:`Corridors`) are crossed a segment at a time, by three exact shortcuts. An agent in the
corridor sees the same whatever it does, so the steps of a segment can be computed in parallel. Corridors of all lengths begin
alike, so one walk to the end of the longest serves them all. And where memory is bit for bit what it was before, a segment with
the same observations leads to the same memory, which is looked up (:class:`KnownSegments`). Other environments are stepped
(:func:`run_episodes`), with cached keys and values.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from sb3_elmur.elmur import ElmurState
from sb3_elmur.envs import TMazeVecEnv
from sb3_elmur.envs.tmaze import Action
from sb3_elmur.memory import Memory
from sb3_elmur.policies import ElmurPolicy

MOST_BYTES = 2**28  # of memories in `KnownSegments`
Z95 = 1.959963984540054  # normal quantile of a two-sided interval of 95%


def wilson_interval(rate: float, n: int) -> tuple[float, float]:
    """
    95% confidence interval of a success probability (Wilson 1927).

    :param rate: Share of successes.
    :param n: Number of trials.
    """
    z2 = Z95**2 / n
    centre = (rate + z2 / 2) / (1 + z2)
    half = Z95 / (1 + z2) * math.sqrt(rate * (1 - rate) / n + z2 / (4 * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def run_episodes(policy: ElmurPolicy, env: VecEnv, seed: int) -> list[dict[str, Any]]:
    """
    One episode in each environment, with the most probable actions.

    :param policy: What is evaluated.
    :param env: Environments, which are seeded and reset.
    :param seed: Seed of the first one; the others follow.
    :return: Of each episode its ``return``, ``length``, and what the environment says of success.
    """
    env.seed(seed)
    obs, state = env.reset(), None
    starts = np.ones(env.num_envs, dtype=bool)
    returns, lengths = np.zeros(env.num_envs), np.zeros(env.num_envs, dtype=np.int64)
    episodes: list[dict[str, Any]] = [{} for _ in range(env.num_envs)]
    running = ~np.zeros(env.num_envs, dtype=bool)
    while running.any():
        actions, state = policy.step(obs, state, starts, deterministic=True)
        obs, rewards, starts, infos = env.step(actions)
        returns += np.where(running, rewards, 0.0)
        lengths += running
        for i in np.flatnonzero(starts & running):
            success = {key: float(value) for key, value in infos[i].items() if key in ("is_success", "turn_success")}
            episodes[i] = {"return": float(returns[i]), "length": int(lengths[i]), **success}
        running &= ~starts
    return episodes


class Walk(NamedTuple):
    """
    How far :class:`Corridors` have got, with B agents.

    :param memory: Memory before the next segment; its position is the time.
    :param late: Steps that each agent has lost, (B,) int64; with two lost it reaches no turn in time.
    :param results: Of each length that was reached, who succeeded, (B,) bool.
    """

    memory: Memory
    late: np.ndarray
    results: dict[int, np.ndarray]


class KnownSegments:
    """
    Where segments in which an agent always moved right led to, by the memory before them and the observations.

    Memory is told apart by its content and by how long ago each slot was written; a policy sees nothing else of it.
    """

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}
        self._memories: list[tuple[Tensor, Tensor]] = []
        self._next: dict[tuple[int, bytes], int] = {}

    def number(self, memory: Memory) -> np.ndarray:
        """Numbers of the memories of B rows, (B,) int64, the same for the same memory."""
        ages = memory.position[:, None] - memory.anchors
        keys = [slots.tobytes() + age.tobytes() for slots, age in zip(memory.slots.cpu().numpy(), ages.cpu().numpy(), strict=True)]
        for key, slots, age in zip(keys, memory.slots, ages, strict=True):
            if key not in self._numbers:
                self._numbers[key] = len(self._memories)
                self._memories.append((slots, age))
        return np.array([self._numbers[key] for key in keys])

    def memory(self, numbers: np.ndarray, time: int) -> Memory:
        """Memories (B rows) of the given numbers, (B,), at a time."""
        slots, ages = (th.stack(field) for field in zip(*(self._memories[i] for i in numbers.tolist()), strict=True))
        return Memory(slots, time - ages, th.full((len(ages),), time, device=ages.device))

    def look_up(self, numbers: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """Numbers of the memories after segments with observations (B, L, F), (B,); -1 where unknown."""
        return np.array([self._next.get((i, row.tobytes()), -1) for i, row in zip(numbers.tolist(), seen, strict=True)])

    def add(self, numbers: np.ndarray, seen: np.ndarray, after: np.ndarray) -> None:
        """Remember what :meth:`look_up` asks for."""
        self._next.update(
            ((i, row.tobytes()), j) for i, row, j in zip(numbers.tolist(), seen, after.tolist(), strict=True)
        )

    @property
    def full(self) -> bool:
        """Whether it is time to forget everything, as when memory never repeats."""
        return len(self._memories) > 0 and len(self._memories) * self._memories[0][0].nbytes > MOST_BYTES


class Corridors:
    """
    Agents of one policy in the passive T-Maze, in corridors of several lengths at once.

    The results for length T are exactly those of ``TMazeVecEnv(n_episodes, length=T, seed=seed)`` with the most probable
    actions: the corridor has T - 2 cells, so that one step may be wasted.

    :param policy: What is evaluated.
    :param lengths: Step limits T, at least 3.
    :param n_episodes: Corridors B of each length.
    :param seed: Seed of goals and noise.
    :raises ValueError: If a length is too small, or the policy is not one for the T-Maze.
    """

    def __init__(self, policy: ElmurPolicy, lengths: Sequence[int], n_episodes: int, seed: int) -> None:
        if min(lengths) < 3:
            raise ValueError(f"`lengths` must be at least 3. Received {min(lengths)}.")
        self.policy, self.lengths = policy, sorted(set(lengths))
        self.segment_length = policy.backbone.core.segment_length
        self.env = TMazeVecEnv(n_episodes, length=self.lengths[-1] + 3 * self.segment_length, seed=seed)
        if (policy.observation_space, policy.action_space) != (self.env.observation_space, self.env.action_space):
            raise ValueError(f"`policy` must be one for the T-Maze. Received one for {policy.observation_space}.")
        policy.set_training_mode(False)
        self.env.reset()
        self.goal = np.where(self.env.goal > 0, Action.UP, Action.DOWN)
        self.known = KnownSegments()
        self.restore(Walk(policy.initial_memories(n_episodes)[0], np.zeros(n_episodes, dtype=np.int64), {}))

    @property
    def finished(self) -> bool:
        """Whether all lengths have results."""
        return len(self.results) == len(self.lengths)

    @property
    def walk(self) -> Walk:
        """How far the agents have got, at the end of a segment."""
        return Walk(self.known.memory(self.numbers, self.time), self.late, self.results)

    def restore(self, walk: Walk) -> None:
        """Continue the walk of an earlier instance with the same arguments."""
        self.time = int(walk.memory.position[0])
        self.late, self.results = walk.late, walk.results
        self.numbers = self.known.number(walk.memory)
        if self.time:
            self.env.move_right(self.time)

    @th.inference_mode()
    def advance(self) -> None:
        """Walk to the end of the next segment, and evaluate the lengths whose turn comes within it."""
        n_steps, end = self.segment_length, self.time + self.segment_length
        seen = self.env.look_ahead(n_steps + 1)
        after = self.known.look_up(self.numbers, seen[:, :n_steps])
        turns = [length for length in self.lengths[len(self.results) :] if length - 2 < end]
        rows = np.arange(len(seen)) if turns else np.flatnonzero(after < 0)
        if len(rows):
            memory = self.known.memory(self.numbers[rows], self.time)
            actions, after[rows] = self._cross(seen[rows, :n_steps], memory)
            late = self._late(actions, self.late[rows])
            for length in turns:
                offset = length - 2 - self.time
                self.results[length] = self._turn(seen, memory, offset, late[offset])
            self.late[rows] = late[-1]
            straight = rows[(actions == Action.RIGHT).all(1)]
            self.known.add(self.numbers[straight], seen[straight, :n_steps], after[straight])
        self.numbers, self.time = after, end
        if (self.late > 1).all():
            for length in self.lengths[len(self.results) :]:
                self.results[length] = np.zeros(len(seen), dtype=bool)
        if not self.finished:
            self.env.move_right(n_steps)
        if self.known.full:
            memory = self.walk.memory
            self.known = KnownSegments()
            self.numbers = self.known.number(memory)

    def _cross(self, seen: np.ndarray, memory: Memory) -> tuple[np.ndarray, np.ndarray]:
        """Actions (B, L) in a segment with observations (B, L, 4), and the numbers of the memories after it, (B,)."""
        lengths = th.full((len(seen),), seen.shape[1], device=memory.position.device)
        latent, memory = self.policy.replay(self._tensor(seen), memory, lengths, need_memory=True)
        actions = self.policy.action_net(latent).argmax(1).view(len(seen), -1)
        return actions.cpu().numpy(), self.known.number(memory)

    def _late(self, actions: np.ndarray, late: np.ndarray) -> list[np.ndarray]:
        """Steps lost before each of a segment's steps and after the last one, each (B,), for actions (B, L)."""
        history = [late]
        for time, action in enumerate(actions.T, self.time):
            stepped_back = (action == Action.LEFT) & (history[-1] < time)  # not at the wall, where nothing but time is lost
            history.append(history[-1] + (action != Action.RIGHT) + stepped_back)
        return history

    def _turn(self, seen: np.ndarray, memory: Memory, offset: int, late: np.ndarray) -> np.ndarray:
        """
        Whether agents succeed if the junction is the cell that a punctual one reaches ``offset`` steps into the segment.

        :param seen: What all see in the corridor, (B, L + 1, 4).
        :param memory: Memory before the segment.
        :param late: Steps by which they are late, (B,).
        """
        before = th.full((len(seen),), offset, device=memory.position.device)
        state = self.policy.reopen(self._tensor(seen[:, :offset]), (memory, memory), before).pi
        corridor, junction = seen[:, offset : offset + 2], seen[:, offset : offset + 2].copy()
        junction[:, :, 2] = 1.0
        turn, after = self._act(junction[:, 0], state)
        second_turn, _ = self._act(junction[:, 1], after)
        onward, after = self._act(corridor[:, 0], state)
        late_turn, _ = self._act(junction[:, 1], after)
        punctual = (turn == self.goal) | ((turn == Action.RIGHT) & (second_turn == self.goal))
        return np.where(late == 0, punctual, (late == 1) & (onward == Action.RIGHT) & (late_turn == self.goal))

    def _act(self, seen: np.ndarray, state: ElmurState) -> tuple[np.ndarray, ElmurState]:
        return self.policy.step(seen, state, deterministic=True)

    def _tensor(self, seen: np.ndarray) -> Tensor:
        return th.as_tensor(seen.reshape(-1, seen.shape[-1]), device=self.policy.device)


if __name__ == "__main__":
    from sb3_elmur.evaluation_command import main

    main()
