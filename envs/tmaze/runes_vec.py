"""Many T-Mazes of runes at once, as a Stable-Baselines3 ``VecEnv`` in NumPy."""

from __future__ import annotations

import numpy as np

from .render import Scene
from .runes import N_FIXED, Rune, Runes, TMazeRunesConfig, make_rune_spaces
from .vec import TMazeVecEnv


class TMazeRunesVecEnv(TMazeVecEnv):
    """
    ``n_envs`` T-Mazes of runes that step together, equal step by step to a ``DummyVecEnv`` of :class:`TMazeRunesEnv`.

    It is a :class:`TMazeVecEnv` in all else.

    :param n_envs: Number of environments.
    :param n_runes: Runes on the way.
    :param length: Step limit T.
    :param corridor_length: Number of corridor cells, an inclusive range of them, or None.
    :param reward: Name of the reward variant.
    :param render_mode: None or "rgb_array", which SB3 also shows on screen.
    :param seed: Seed of the first environment; None seeds from the operating system.
    :raises ValueError: For an argument that :class:`TMazeRunesConfig` refuses, an unknown render mode, or ``n_envs`` below 1.
    """

    config: TMazeRunesConfig

    def __init__(
        self,
        n_envs: int,
        n_runes: int = 2,
        length: int = 30,
        corridor_length: int | tuple[int, int] | None = None,
        reward: str = "sparse",
        render_mode: str | None = None,
        seed: int | None = None,
    ) -> None:
        config = TMazeRunesConfig(length=length, corridor_length=corridor_length, reward=reward, n_runes=n_runes)
        super().__init__(n_envs, length, corridor_length, reward=reward, render_mode=render_mode, seed=seed)
        self.config = config
        self.observation_space, self.action_space = make_rune_spaces()
        self.cue = np.zeros(self.num_envs, dtype=np.int64)
        self.runes = [Runes([], [], []) for _ in range(self.num_envs)]
        self._rune_steps, self._rune_kinds, self._rune_cues = np.zeros((3, self.num_envs, config.n_runes), dtype=np.int64)

    def look_ahead(self, n_steps: int) -> np.ndarray:
        """See :meth:`sb3_elmur.envs.tmaze.base.MazeVecEnv.look_ahead`."""
        ahead = super().look_ahead(n_steps)
        steps = self.steps[:, None] + np.arange(ahead.shape[1])
        return self._with_runes(ahead, self._all[:, None], steps)

    def quiet_steps(self) -> np.ndarray:
        """See :meth:`sb3_elmur.envs.tmaze.base.MazeVecEnv.quiet_steps`."""
        to_runes = self._rune_steps - self.steps[:, None]
        to_runes[to_runes < 0] = self.config.length
        return np.minimum(super().quiet_steps(), to_runes.min(axis=1, initial=self.config.length))

    def _start_corridor(self, rows: np.ndarray) -> None:
        super()._start_corridor(rows)
        self.cue[rows] = self.goal[rows]
        for i in rows.tolist():
            runes = self.runes[i] = self.config.draw_runes(self._rngs[i], int(self.corridor[i]))
            self._rune_steps[i], self._rune_kinds[i], self._rune_cues[i] = runes
            self.goal[i] = runes.apply(int(self.cue[i])) or 1

    def _observe(self, rows: np.ndarray) -> np.ndarray:
        return self._with_runes(super()._observe(rows), rows, self.steps[rows])

    def _with_runes(self, observations: np.ndarray, rows: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """Show cues and runes, at the given steps, in observations (..., 4) of a maze without; (..., 8)."""
        shape = (*observations.shape[:-1], N_FIXED + len(Rune))
        complete = np.zeros(shape, dtype=np.float32)
        complete[..., :N_FIXED] = observations
        met = self._rune_steps[rows] == steps[..., None]  # (..., n_runes)
        complete[..., 1] = self.cue[rows] * (steps == 0) + (self._rune_cues[rows] * met).sum(axis=-1)
        kinds = self._rune_kinds[rows][..., None] == np.arange(len(Rune))  # (..., n_runes, 4)
        complete[..., N_FIXED:] = (kinds & met[..., None]).any(axis=-2)
        return complete

    def _scene(self, i: int) -> Scene:
        runes, steps = self.runes[i], int(self.steps[i])
        rune = runes.steps.index(steps) if steps in runes.steps else None
        hint = int(self._observe(np.array([i]))[0, 1])
        return super()._scene(i)._replace(runes=runes.names(), rune=rune, hint=hint)
