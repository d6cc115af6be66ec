"""Videos that show the memory: a strip below every frame of rl_zoo3's ``record_video``."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch as th
from rl_zoo3 import ALGOS
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, unwrap_vec_wrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from sb3_elmur.core.memory import EMPTY, Memory, reset_memory
from sb3_elmur.ppo import RecurrentPPO
from sb3_elmur.zoo.substitutes import environments_made_by

LAYER_HEIGHT, AGE_HEIGHT, GAP = 24, 6, 2  # pixels
GREY, BLACK = 128, 0


class MemoryStrip(VecEnvWrapper):
    """
    Draws memory below the frames of environments: a row for each layer, a cell for each slot.

    The colour of a cell is that of its content (equal contents have equal colours), grey for an empty slot. The bar below it
    is white right after the slot was written, and fades until all slots have been.

    :param venv: Environments with the render mode "rgb_array".
    """

    def __init__(self, venv: VecEnv) -> None:
        super().__init__(venv)
        self._memory: Memory | None = None
        self._initial_slots = th.empty(0)
        self._segment_length = 1

    def show(self, memory: Memory, initial_slots: th.Tensor, segment_length: int) -> None:
        """
        Show a memory from the next frame on.

        :param memory: One row for each environment.
        :param initial_slots: Contents of empty slots, (N, M, D).
        :param segment_length: L.
        """
        self._memory, self._initial_slots, self._segment_length = memory, initial_slots, segment_length

    def reset(self) -> VecEnvObs:
        """Start an episode in every environment."""
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        """Finish a step; the memory of an ended episode is no longer shown."""
        obs, rewards, dones, infos = self.venv.step_wait()
        if self._memory is not None:  # the next frame is of another episode
            starts = th.as_tensor(dones, device=self._memory.position.device)
            self._memory = reset_memory(self._memory, self._initial_slots, starts)
        return obs, rewards, dones, infos

    def render(self, mode: str | None = None) -> np.ndarray | None:
        """Draw all environments as one picture."""
        return VecEnv.render(self, mode)

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Draw every environment, with its memory below."""
        frames = self.venv.get_images()
        if self._memory is None:
            return frames
        rows = [self._memory.rows(slice(i, i + 1)) for i in range(len(frames))]
        return [
            frame if frame is None else np.concatenate((frame, draw_memory(row, frame.shape[1], self._segment_length)))
            for frame, row in zip(frames, rows, strict=True)
        ]


def draw_memory(memory: Memory, width: int, segment_length: int) -> np.ndarray:
    """
    A picture of one memory, (N * 24, width, 3) uint8.

    :param memory: One row.
    :param width: In pixels.
    :param segment_length: L.
    """
    slots, anchors = memory.slots[0].cpu().numpy(), memory.anchors[0].cpu().numpy()
    n_layers, n_slots, d_model = slots.shape
    directions = np.random.default_rng(0).normal(size=(d_model, 3)) / np.sqrt(d_model)
    colours = 127.5 * (1 + np.tanh(slots @ directions))  # (N, M, 3)
    colours[:, anchors == EMPTY] = GREY
    age = int(memory.position[0]) - 1 - anchors
    fade = np.where(anchors == EMPTY, BLACK, 255 * (1 - age / (n_slots * segment_length)).clip(0, 1))
    picture = np.zeros((n_layers * LAYER_HEIGHT, width, 3))
    slot = np.arange(width) * n_slots // width
    for layer, top in enumerate(range(0, len(picture), LAYER_HEIGHT)):
        bottom = top + LAYER_HEIGHT - GAP
        picture[top : bottom - AGE_HEIGHT] = colours[layer, slot]
        picture[bottom - AGE_HEIGHT : bottom] = fade[slot, None]
    if width >= 8 * n_slots:
        picture[:, np.flatnonzero(np.diff(slot))] = BLACK
    return picture.astype(np.uint8)


class ShowingRecurrentPPO(RecurrentPPO):
    """:class:`sb3_elmur.RecurrentPPO`, which shows its memory to the :class:`MemoryStrip` among its environment's wrappers."""

    @classmethod
    def load(cls, path: Any, env: Any = None, **arguments: Any) -> Any:  # type: ignore[override]
        """Load a model, and show its memory."""
        model = super().load(path, env, **arguments)
        model._show(model.policy.initial_memories(model.n_envs).pi)
        return model

    def predict(self, *arguments: Any, **named: Any) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Act, and show the memory."""
        actions, state = super().predict(*arguments, **named)
        backbone = self.policy.backbone
        pair = tuple(th.as_tensor(part, device=self.device) for part in state or ())
        self._show(backbone.layout.unpack(pair, backbone.core.initial_slots)[0])
        return actions, state

    def _show(self, memory: Memory) -> None:
        env = self.get_env()
        strip = None if env is None else unwrap_vec_wrapper(env, MemoryStrip)
        if strip is not None and memory.slots.shape[2]:
            core = self.policy.backbone.core
            strip.show(memory, core.initial_slots, core.segment_length)


@contextmanager
def memory_shown(algorithm: str) -> Iterator[None]:
    """
    While it lasts, rl_zoo3 shows the memory of models in the environments that it renders.

    :param algorithm: The zoo's name of the models.
    """
    with (
        patch.dict(ALGOS, {algorithm: ShowingRecurrentPPO}),
        environments_made_by(lambda create: lambda *arguments, **named: MemoryStrip(create(*arguments, **named))),
    ):
        yield
