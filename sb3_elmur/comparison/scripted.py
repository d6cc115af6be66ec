"""Agents that do not learn: the environment's oracle, and random actions."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium

from sb3_elmur.comparison.algorithm import Job, Outcomes, Trained
from sb3_elmur.recording.experts import make_act
from sb3_elmur.recording.recorder import Recorder


@dataclass(frozen=True)
class Scripted:
    """
    An expert of :mod:`sb3_elmur.recording`.

    :param expert: Its name.
    """

    expert: str
    settings_file: None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)

    def hints(self) -> Mapping[str, Any]:
        """See :class:`sb3_elmur.comparison.algorithm.Algorithm`."""
        return {}

    def policy_hints(self, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        """See :class:`sb3_elmur.comparison.algorithm.Algorithm`."""
        return {}

    def check(self, settings: Mapping[str, Any]) -> None:
        """See :class:`sb3_elmur.comparison.algorithm.Algorithm`; there is nothing to check."""

    def left_out(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """See :class:`sb3_elmur.comparison.algorithm.Algorithm`."""
        return {}

    def train(self, job: Job) -> Trained:
        """See :class:`sb3_elmur.comparison.algorithm.Algorithm`."""
        return Trained(self._play)

    def _play(self, env_id: str, n_episodes: int, seed: int, deterministic: bool) -> Outcomes:
        with gymnasium.make(env_id) as env:
            recorder = Recorder(env, make_act(self.expert, env), seed)
            episodes = []
            for index in range(n_episodes):
                recording = recorder.play(index)
                assert recording is not None, "episodes that failed are kept"
                arrays, successes, _ = recording
                success = {} if successes[-1] is None else {"is_success": float(successes[-1])}
                episodes.append({"return": float(arrays["reward"].sum()), "length": len(successes), **success})
        return episodes
