"""Data sets in memory and trainers of small policies, for the tests of behaviour cloning."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.logger import configure

import sb3_elmur
from helpers import ACTION_SPACES, VECTOR, make_model, random_envs
from sb3_elmur.bc import BC, BCConfig
from sb3_elmur.datasets import Episode, Episodes

LENGTHS = [3, 9, 14, 1, 22, 4, 8, 5, 17, 2]  # all different, so that a length tells which episode it is
MOE = {"ffn": "moe", "n_routed_experts": 3, "n_shared_experts": 1, "top_k": 2, "aux_loss_coef": 0.5}
DROPOUT = {"dropout": 0.1, "attention_dropout": 0.1, "memory_dropout": 0.1}
Actions = Callable[[np.ndarray], np.ndarray]


class MadeEpisodes(Episodes):
    """Random observations, and random actions or those of an expert, in memory."""

    def __init__(
        self, observation_space: spaces.Space, action_space: spaces.Space, lengths: list[int], expert: Actions | None = None
    ) -> None:
        super().__init__(observation_space, action_space, cache_bytes=0)
        self.lengths = np.array(lengths)
        observation_space.seed(0)
        action_space.seed(0)
        self.made = []
        for n in lengths:
            samples = [observation_space.sample() for _ in range(n)]
            if isinstance(observation_space, spaces.Dict):
                obs: Any = {key: np.stack([sample[key] for sample in samples]) for key in observation_space}
            else:
                obs = np.stack(samples)
            actions = np.stack([action_space.sample() for _ in range(n)]) if expert is None else expert(obs)
            self.made.append(Episode(obs, actions, np.zeros(n, dtype=np.float32)))

    def _load(self, index: int) -> Episode:
        return self.made[index]


def make_bc(
    action_space: spaces.Space = ACTION_SPACES[0],
    observation_space: spaces.Space = VECTOR,
    lengths: list[int] = LENGTHS,
    expert: Actions | None = None,
    evaluate: bool = False,
    policy: str = "ElmurPolicy",
    model: dict[str, Any] | None = None,
    policy_kwargs: dict[str, Any] | None = None,
    **config: Any,
) -> BC:
    """A trainer of a small policy; 3 batches an epoch unless told otherwise."""
    env = random_envs(1, observation_space, action_space)
    made = make_model(sb3_elmur.RecurrentPPO, env, policy, policy_kwargs=policy_kwargs or {}, **(model or {}))
    defaults = {
        "n_epochs": 2,
        "batch_size": 4,
        "bptt_segments": 2,
        "learning_rate": 1e-2,
        "eval_freq": 1,
        "n_eval_episodes": 3,
    }
    eval_env = random_envs(2, observation_space, action_space) if evaluate else None
    episodes = MadeEpisodes(observation_space, action_space, lengths, expert)
    trainer = BC(made, episodes, BCConfig(**(defaults | config)), eval_env)
    made.set_logger(configure(None, []))
    return trainer


def parameters(trainer: BC) -> th.Tensor:
    return th.cat([parameter.detach().flatten() for parameter in trainer.policy.parameters()])


def equal(a: Any, b: Any) -> bool:
    """Bit for bit, whatever is nested in what."""
    if isinstance(a, th.Tensor):
        return a.dtype == b.dtype and th.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def watch_gradients(trainer: BC) -> list[list[th.Tensor]]:
    """The gradients of every update to come, as the optimiser sees them."""
    seen: list[list[th.Tensor]] = []
    trainer.optimizer.register_step_pre_hook(lambda *_: seen.append([p.grad.clone() for p in trainer.parameters]))
    return seen


def watch_step_losses(trainer: BC) -> list[th.Tensor]:
    """The loss of every step of every update to come, (R,) each."""
    seen: list[th.Tensor] = []
    cloning_loss: Any = trainer.chain_loss.cloning_loss
    loss = cloning_loss.loss

    def watched(*arguments: th.Tensor | None) -> th.Tensor:
        seen.append(loss(*arguments))
        return seen[-1]

    cloning_loss.loss = watched
    return seen


def dumped(trainer: BC, folder: Path | None = None) -> list[dict[str, Any]]:
    """Train, and return what was logged at each time."""
    logger, rows = trainer.model.logger, []
    dump = logger.dump

    def note(step: int) -> None:
        rows.append({**logger.name_to_value, "step": step})
        dump(step)

    logger.dump = note
    trainer.train(folder)
    return rows


class Killed(BaseException):
    """Stands for a signal: nothing catches it."""


def train_until(trainer: BC, folder: Path, owner: Any, name: str, call: int) -> None:
    """Train until the given call of a method has done its work, but not its caller."""
    method, calls = getattr(owner, name), []

    def dying(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        result = method(*args, **kwargs)
        if len(calls) == call:
            raise Killed
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, dying)
        with pytest.raises(Killed):
            trainer.train(folder)
