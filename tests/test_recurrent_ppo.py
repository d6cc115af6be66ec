"""``ElmurPolicy`` under the unmodified ``sb3_contrib.RecurrentPPO``: replay, padding, determinism, callbacks, wrappers."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sb3_contrib.common.recurrent.buffers as host_buffers
import torch as th
from gymnasium import spaces
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from helpers import VECTOR, StopAt, make_model, random_envs, replay_differences
from sb3_elmur.envs import TMazeVecEnv

DICT = spaces.Dict({"a": VECTOR, "b": spaces.Discrete(3)})


make_model = partial(make_model, RecurrentPPO)


@settings(max_examples=6, deadline=None)
@given(
    n_envs=st.integers(1, 4),
    n_steps=st.integers(2, 20),
    batch_size=st.integers(5, 40),
    segment_length=st.integers(1, 6),
    mean_length=st.sampled_from([1.5, 6.0, 50.0]),
    separate_critic=st.booleans(),
)
def test_training_replays_what_the_rollout_saw(
    n_envs: int, n_steps: int, batch_size: int, segment_length: int, mean_length: float, separate_critic: bool
) -> None:
    """Ratio 1 in the first epoch with the host's own buffer, also where minibatches split segments and episodes."""
    assume(n_steps * n_envs % batch_size != 1)  # the host turns weights NaN on a minibatch of one step
    model = make_model(
        random_envs(n_envs, mean_length=mean_length), n_steps=n_steps, batch_size=batch_size, n_epochs=1,
        policy_kwargs={"segment_length": segment_length, "separate_critic": separate_critic},
    )  # fmt: skip
    assert max(replay_differences(model, rollouts=3)) < 1e-4


@pytest.mark.parametrize(
    "policy_kwargs",
    [
        {"detach_memory": True},
        {"ffn": "moe"},
        {"norm_first": True},
        {"separate_critic": True, "share_features_extractor": False},
    ],
    ids=str,
)
def test_replay_holds_for_every_kind_of_stack(policy_kwargs: dict) -> None:
    assert max(replay_differences(make_model(random_envs(3), policy_kwargs=policy_kwargs), rollouts=3)) < 1e-4


def test_replay_holds_for_dict_observations() -> None:
    assert max(replay_differences(make_model(random_envs(3, DICT), "ElmurMultiInputPolicy"), rollouts=3)) < 1e-4


def test_interior_episode_starts_are_handled_like_separate_sequences() -> None:
    """The host cuts sequences at episode starts; a buffer that does not would get the same numbers."""
    model = make_model(random_envs(2))
    policy, size = model.policy, model.policy.lstm_actor.hidden_size
    obs, actions = th.randn(2 * 12, 3), th.randint(0, 3, (2 * 12,))
    pair = tuple(th.zeros(1, 2, size) for _ in range(2))
    starts = th.zeros(2, 12)
    starts[0, 5] = starts[1, 7] = starts[1, 8] = 1
    values, log_prob, _ = policy.evaluate_actions(obs, actions, _states(pair), starts.flatten())
    state, stepped = _states(pair), []
    for t in range(12):
        _, value, _, state = policy.forward(obs.view(2, 12, 3)[:, t], state, starts[:, t])
        stepped.append(value)
    th.testing.assert_close(values.view(2, 12), th.cat(stepped, 1), atol=1e-5, rtol=0)
    assert log_prob.shape == (24,)


def _states(pair: tuple[th.Tensor, ...]) -> Any:
    return host_buffers.RNNStates(pair, pair)


@pytest.mark.parametrize("poison", [1e6, -1e6])
def test_padding_changes_no_parameter(poison: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Filling the host's padded observations with large numbers leaves the update bit-identical."""

    def update() -> np.ndarray:
        model = make_model(random_envs(4), batch_size=20)
        model.learn(64)
        return model.policy.parameters_to_vector()

    clean, original, poisoned = update(), host_buffers.pad, 0

    def pad(
        start: np.ndarray, end: np.ndarray, device: th.device, tensor: np.ndarray, padding_value: float = 0.0
    ) -> th.Tensor:
        nonlocal poisoned
        padded = original(start, end, device, tensor, padding_value)
        if tensor.shape[1:] == VECTOR.shape:
            lengths = original(start, end, device, np.ones(len(tensor)), padding_value)
            poisoned += int((lengths == 0).sum())
            padded[lengths == 0] = poison
        return padded

    monkeypatch.setattr(host_buffers, "pad", pad)
    assert (update() == clean).all()
    assert poisoned > 0


def test_a_seed_fixes_a_run() -> None:
    runs = [make_model(random_envs(2)).learn(64).policy.parameters_to_vector() for _ in range(2)]
    assert (runs[0] == runs[1]).all()
    assert (make_model(random_envs(2), seed=1).learn(64).policy.parameters_to_vector() != runs[0]).any()


def test_detached_memory_gives_the_write_path_no_gradient() -> None:
    for detach in (True, False):
        model = make_model(random_envs(2, mean_length=1e9), n_steps=32, batch_size=32, policy_kwargs={"detach_memory": detach})
        model.learn(64)
        moments = [model.policy.optimizer.state[p]["exp_avg_sq"] for p in _write_parameters(model) if p.grad is not None]
        moved = any(m.any() for m in moments)
        assert moved == (not detach)


def _write_parameters(model: RecurrentPPO) -> Iterator[th.nn.Parameter]:
    for layer in model.policy.backbone.core.layers:
        yield from layer.write.parameters()


def test_predict_values_sees_the_critics_memory() -> None:
    model = make_model(random_envs(2), policy_kwargs={"separate_critic": True})
    size = model.policy.lstm_actor.hidden_size
    pair = tuple(th.zeros(1, 2, size) for _ in range(2))
    obs, starts = th.randn(2, 3), th.zeros(2)
    _, values, _, states = model.policy.forward(obs, _states(pair), starts)
    th.testing.assert_close(model.policy.predict_values(obs, pair, starts), values)
    assert not th.equal(states.pi[0], states.vf[0])


def test_shared_memory_is_one_tensor_for_actor_and_critic() -> None:
    model = make_model(random_envs(2))
    pair = tuple(th.zeros(1, 2, model.policy.lstm_actor.hidden_size) for _ in range(2))
    _, _, _, states = model.policy.forward(th.randn(2, 3), _states(pair), th.zeros(2))
    assert states.pi[0] is states.vf[0]
    assert all((part == 0).all() for part in pair)


def test_a_callback_may_stop_in_the_middle_of_a_rollout_and_training_goes_on() -> None:
    model = make_model(random_envs(2))
    model.learn(128, callback=StopAt(21))
    assert model.num_timesteps == 42
    model.learn(64, reset_num_timesteps=False)
    assert np.isfinite(model.policy.parameters_to_vector()).all()
    assert model.num_timesteps >= 106


def test_vec_normalize_eval_callback_and_target_kl(tmp_path: Path) -> None:
    env = VecNormalize(random_envs(2))
    evaluation = VecNormalize(random_envs(3), training=False, norm_reward=False)
    where = {"best_model_save_path": str(tmp_path), "log_path": str(tmp_path)}
    callback = EvalCallback(evaluation, eval_freq=16, n_eval_episodes=4, verbose=0, **where)
    model = make_model(env, target_kl=1e-9, n_epochs=10)
    model.learn(96, callback=callback)
    assert len(callback.evaluations_results) == 3
    assert (tmp_path / "best_model.zip").exists()
    assert model._n_updates < 30  # the KL limit ended every update early
    mean, _ = evaluate_policy(model, evaluation, n_eval_episodes=5)
    assert np.isfinite(mean)


def test_native_tmaze_batch_trains_and_evaluates_with_another_number_of_environments() -> None:
    model = make_model(TMazeVecEnv(8, length=9, seed=0)).learn(128)
    rewards, lengths = evaluate_policy(model, TMazeVecEnv(3, length=9, seed=1), 6, return_episode_rewards=True, warn=False)
    assert len(rewards) == 6
    assert set(rewards) <= {0.0, 1.0}
    assert max(lengths) <= 9
