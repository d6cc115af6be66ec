"""Measuring a policy's memory on some of its experience, logging it, and warning of failures."""

from typing import Any

import torch as th
from stable_baselines3.common.logger import Figure, Logger, TensorBoardOutputFormat
from torch import Tensor

from sb3_elmur.core.elmur import Elmur
from sb3_elmur.core.feedforward import MixtureOfExperts
from sb3_elmur.core.memory import EMPTY, Memory
from sb3_elmur.monitoring.failure_signs import Watchdog
from sb3_elmur.monitoring.measures import (
    Measures,
    measure_experts,
    measure_gradient,
    measure_reads,
    measure_slots,
    measure_writes,
    slot_ages,
)
from sb3_elmur.monitoring.panels import attention_figure, require_drawing
from sb3_elmur.monitoring.tracing import SegmentTrace, trace_segment
from sb3_elmur.policies import ElmurPolicy

PREFIX = "memory/"
TEXT_FORMATS = ("stdout", "log", "json", "csv")  # which panels are kept from


def memory_of(policy: Any) -> Elmur:
    """
    The actor's stack of a policy.

    :param policy: A policy.
    :return: The stack.
    :raises ValueError: If it has no memory to look into.
    """
    if not isinstance(policy, ElmurPolicy):
        raise ValueError(f"`policy` must be an ElmurPolicy. Received {type(policy).__name__}.")
    core = policy.backbone.core
    if not isinstance(core, Elmur) or not core.config.memory_size:
        received = f"`core={policy.config.core_name!r}`" if not isinstance(core, Elmur) else "`memory_size=0`"
        raise ValueError(f"`policy` must have ELMUR's memory, to be looked into. Received one with {received}.")
    return core


@th.no_grad()
def embed_observations(policy: ElmurPolicy, obs: Any) -> Tensor:
    """
    What the actor's stack gets to see.

    :param policy: A policy.
    :param obs: R observations, as tensors.
    :return: Tokens, (R, D).
    """
    return policy.backbone.embed(policy.actor_features(obs))


def trace_observations(policy: ElmurPolicy, obs: Any, memory: Memory, lengths: Tensor) -> SegmentTrace:
    """
    Trace a segment of the actor.

    :param policy: Its mode is restored.
    :param obs: Observations as tensors, (B * T, ...), row by row, of which row b has ``lengths[b]``.
    :param memory: Memory before the segment.
    :param lengths: (B,) int64.
    :return: What happened.
    """
    training = policy.training
    policy.set_training_mode(False)
    x = embed_observations(policy, obs).unflatten(0, (len(lengths), -1))
    trace = trace_segment(memory_of(policy), x, memory, lengths)
    policy.set_training_mode(training)
    return trace


class MemoryMonitor:
    """
    Logs what a policy's memory does, and warns once of each failure that shows.

    :param policy: With ELMUR's memory.
    :param logger: Any logger of Stable-Baselines3; figures and histograms go to TensorBoard alone.
    :param panels_every: Measurements between figures and histograms; 0 for none.
    :raises ValueError: If the policy has no memory.
    :raises DependencyNotInstalled: If figures are wanted, and matplotlib is missing.
    """

    def __init__(self, policy: ElmurPolicy, logger: Logger, panels_every: int) -> None:
        self.policy, self.core, self.logger = policy, memory_of(policy), logger
        draws = panels_every and any(isinstance(output, TensorBoardOutputFormat) for output in logger.output_formats)
        if draws:
            require_drawing()
        self.panels_every = panels_every if draws else 0
        self.n_measurements = 0
        self._watchdog = Watchdog(self.core.config)

    def observe(self, obs: Any, memory: Memory, lengths: Tensor) -> None:
        """
        Measure the memory in a segment, as :func:`trace_observations` takes it.

        :param obs: Observations.
        :param memory: Memory before the segment.
        :param lengths: Steps of each row.
        """
        trace = trace_observations(self.policy, obs, memory, lengths)
        measures = measure_slots(trace.after, self.core.initial_slots) | measure_reads(trace) | measure_writes(trace)
        experts = next((m for m in self.core.modules() if isinstance(m, MixtureOfExperts)), None)
        if experts is not None:
            measures |= measure_experts(trace, experts.n_chosen)
        self._log(measures)
        if self.panels_every and self.n_measurements % self.panels_every == 0:
            self._draw(trace)
        self.n_measurements += 1

    def observe_gradient(self) -> None:
        """Measure what gradient the last update has left behind."""
        self._log(measure_gradient(self.core, self.policy.parameters()))

    def observe_update(self, size: float) -> None:
        """
        Log how far the last update took the policy.

        :param size: KL divergence of whole episodes, in units of what the policy can bear.
        """
        self._log({"update_size": size})

    def _log(self, measures: Measures) -> None:
        for name, value in measures.items():
            self.logger.record(PREFIX + name, value)
        self._watchdog.look(measures)

    def _draw(self, trace: SegmentTrace) -> None:
        written = trace.after.anchors != EMPTY
        norms = trace.after.slots.norm(dim=-1)
        panels = {
            "attention": Figure(attention_figure(trace), close=True),
            "slot_norms": norms.flatten().cpu(),
            "slot_ages": slot_ages(trace.after)[written].cpu(),
            "write_weights": trace.write.flatten().cpu(),
        }
        for name, panel in panels.items():
            if not isinstance(panel, Tensor) or panel.numel():
                self.logger.record(f"{PREFIX}panel_{name}", panel, exclude=TEXT_FORMATS)
