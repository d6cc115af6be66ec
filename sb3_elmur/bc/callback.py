"""What looks into the memory during behaviour cloning."""

from typing import Any

import numpy as np
import torch as th
from torch import Tensor

from sb3_elmur.bc.features import FeatureEpisodes
from sb3_elmur.bc.trainer import BC
from sb3_elmur.core.arguments import check_count
from sb3_elmur.core.memory import Memory
from sb3_elmur.monitoring.monitor import MemoryMonitor
from sb3_elmur.spaces import map_observations

N_SEGMENTS = 32  # of a measurement


class CloningMemoryCallback:
    """
    Logs what the memory does while :class:`sb3_elmur.bc.BC` trains, which calls it after every epoch, and warns of failures.

    A measurement runs a segment of each of some 32 episodes once more, and what leads up to it. Training goes on as without
    it. ``docs/metrics.md`` explains what is logged.

    :param panels_every: Measurements between histograms and attention heat maps, for TensorBoard alone; 0 for none.
    :raises ValueError: If ``panels_every`` is out of range.
    """

    def __init__(self, panels_every: int = 20) -> None:
        check_count("panels_every", panels_every, 0)
        self.panels_every = panels_every
        self._monitor: MemoryMonitor | None = None

    def __call__(self, trainer: BC) -> None:
        """
        Measure, and log with the model's logger.

        :param trainer: After an epoch.
        :raises ValueError: If its policy has no ELMUR memory, or its episodes have features in place of observations.
        """
        if isinstance(trainer.episodes, FeatureEpisodes):
            raise ValueError("`episodes` of BC must hold observations for CloningMemoryCallback. Received FeatureEpisodes.")
        if self._monitor is None or self._monitor.policy is not trainer.policy:
            self._monitor = MemoryMonitor(trainer.policy, trainer.model.logger, self.panels_every)
        self._monitor.observe_gradient()
        self._monitor.observe(*sample_segments(trainer))


def sample_segments(trainer: BC) -> tuple[Any, Memory, Tensor]:
    """
    One segment of each of some episodes, early ones of the first and late ones of the last.

    :param trainer: Whose episodes these are.
    :return: What :meth:`sb3_elmur.monitoring.monitor.MemoryMonitor.observe` takes.
    """
    policy, length = trainer.policy, trainer.segment_length
    chosen = np.linspace(0, len(trainer.episodes) - 1, min(N_SEGMENTS, len(trainer.episodes))).astype(int)
    ends = trainer.episodes.lengths[chosen]
    place = (np.arange(len(chosen)) + 0.5) / len(chosen)
    begins = (place * -(-ends // length)).astype(int) * length
    ends = np.minimum(ends, begins + length)
    observations = [trainer.episodes[int(i)].observations for i in chosen]

    def cut(begins: np.ndarray, ends: np.ndarray) -> Any:
        """The steps from ``begins`` to ``ends`` of all, row by row, filled up with zeros."""

        def stack(*arrays: np.ndarray) -> np.ndarray:
            rows = np.zeros((len(arrays), (ends - begins).max(), *arrays[0].shape[1:]), dtype=arrays[0].dtype)
            for row, array, begin, end in zip(rows, arrays, begins, ends, strict=True):
                row[: end - begin] = array[begin:end]
            return rows.reshape(-1, *rows.shape[2:])  # (rows, T, ...) -> (rows * T, ...)

        return policy.obs_to_tensor(map_observations(stack, *observations))[0]

    def tensor(array: np.ndarray) -> Tensor:
        return th.as_tensor(array, device=policy.device)

    training = policy.training
    policy.set_training_mode(False)
    with th.no_grad():
        before = cut(np.zeros_like(begins), begins)
        memory = policy.reopen(before, policy.initial_memories(len(chosen)), tensor(begins)).pi.memory
    policy.set_training_mode(training)
    return cut(begins, ends), memory, tensor(ends - begins)
