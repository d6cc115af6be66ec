"""The segment-wise RecurrentPPO: equal to the host where it must be, exact replay, chains, minibatches, files."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sb3_contrib
import torch as th
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnvWrapper, VecNormalize

import helpers
from helpers import ACTION_SPACES, AS_THE_HOST, SMALL, VECTOR, StopAt, make_model, random_envs, replay_differences
from sb3_elmur import RecurrentPPO
from sb3_elmur.envs import TMazeVecEnv

IMAGE = spaces.Box(0, 255, (36, 36, 3), dtype=np.uint8)
DICT = spaces.Dict({"a": VECTOR, "b": spaces.Discrete(3)})
L = SMALL["segment_length"]


make_model = partial(make_model, RecurrentPPO)


@pytest.mark.parametrize("separate_critic", [False, True])
@pytest.mark.parametrize("through_memory", [False, True])
def test_first_update_equals_the_hosts(separate_critic: bool, through_memory: bool) -> None:
    """Same rollout, advantages and returns (timeouts included), and the same step of one full minibatch."""
    models = []
    for cls in (sb3_contrib.RecurrentPPO, RecurrentPPO):
        kwargs = {"separate_critic": separate_critic, "optimizer_class": th.optim.SGD, "blend": "fixed"}
        if cls is sb3_contrib.RecurrentPPO:
            kwargs["detach_memory"], extra = not through_memory, {}
        else:
            extra = AS_THE_HOST | {"bptt_segments": 9 if through_memory else 1}
        model = helpers.make_model(cls, random_envs(3), n_steps=33, batch_size=99, n_epochs=1, policy_kwargs=kwargs, **extra)
        models.append(model.learn(99))
    host, ours = models
    shape = (3, 33)
    np.testing.assert_allclose(ours.rollout_buffer.rewards, host.rollout_buffer.rewards, atol=1e-5)
    for name in ("actions", "values", "log_probs", "advantages", "returns", "episode_starts"):
        expected = getattr(host.rollout_buffer, name).reshape(shape)  # flattened by the host's `get`
        np.testing.assert_allclose(getattr(ours.rollout_buffer, name).squeeze().T, expected, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(ours.policy.parameters_to_vector(), host.policy.parameters_to_vector(), atol=1e-5)


@settings(max_examples=8, deadline=None)
@given(
    n_envs=st.integers(1, 4),
    n_steps=st.integers(2, 20),
    batch_size=st.integers(5, 40),
    segment_length=st.integers(1, 6),
    bptt_segments=st.integers(1, 4),
    mean_length=st.sampled_from([1.5, 6.0, 50.0]),
    separate_critic=st.booleans(),
)
def test_training_replays_what_the_rollout_saw(
    n_envs: int,
    n_steps: int,
    batch_size: int,
    segment_length: int,
    bptt_segments: int,
    mean_length: float,
    separate_critic: bool,
) -> None:
    """Ratio 1 in the first epoch, over several rollouts with updates between, also where chains span many rollouts."""
    model = make_model(
        random_envs(n_envs, mean_length=mean_length),
        n_steps=n_steps,
        batch_size=batch_size,
        n_epochs=1,
        bptt_segments=bptt_segments,
        policy_kwargs={"segment_length": segment_length, "separate_critic": separate_critic},
    )
    assert max(replay_differences(model, rollouts=4)) < 1e-4


@pytest.mark.parametrize(("observation_space", "policy"), [(DICT, "ElmurMultiInputPolicy"), (IMAGE, "ElmurCnnPolicy")])
def test_replay_holds_for_dict_and_image_observations(observation_space: spaces.Space, policy: str) -> None:
    assert max(replay_differences(make_model(random_envs(2, observation_space), policy, n_epochs=1), rollouts=3)) < 1e-4


@pytest.mark.parametrize("policy_kwargs", [{"ffn": "moe"}, {"norm_first": True}, {"net_arch": [8]}], ids=str)
def test_replay_holds_for_every_kind_of_stack(policy_kwargs: dict) -> None:
    assert max(replay_differences(make_model(random_envs(3), policy_kwargs=policy_kwargs), rollouts=3)) < 1e-4


@pytest.mark.parametrize("action_space", ACTION_SPACES, ids=lambda space: type(space).__name__)
def test_learns_on_every_action_space(action_space: spaces.Space) -> None:
    model = make_model(random_envs(2, action_space=action_space))
    before = model.policy.parameters_to_vector()
    model.learn(64)
    after = model.policy.parameters_to_vector()
    assert np.isfinite(after).all()
    assert (before != after).any()


def test_gsde_learns() -> None:
    envs = random_envs(2, action_space=spaces.Box(-1, 1, (2,)))
    model = make_model(envs, use_sde=True, sde_sample_freq=4).learn(64)
    assert np.isfinite(model.policy.parameters_to_vector()).all()


@pytest.mark.parametrize("bptt_segments", [1, 2, 3])
def test_a_cue_and_its_use_within_a_chain_are_connected(bptt_segments: int) -> None:
    """The gradient of a chain's last segment reaches its first token, and no token before the chain."""
    length = bptt_segments * L
    model = make_model(random_envs(1, mean_length=1e9), n_steps=2 * length, bptt_segments=bptt_segments)
    model.learn(2 * length)
    (data,) = model.rollout_buffer.get(None)
    obs = data.observations.requires_grad_()
    values, _, _ = model.policy.evaluate_actions(obs, data.actions.long().flatten(), data.lstm_states, data.episode_starts)
    (grad,) = th.autograd.grad(values[-1].sum(), obs)  # the last token of one of the two chains
    reached = grad.abs().sum(-1).view(bptt_segments, 2, L) > 0  # segment-major
    assert reached[:, -1].all()
    assert not reached[:, 0].any()


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 99), batch_size=st.integers(1, 60), n_envs=st.integers(1, 4), n_steps=st.integers(2, 30))
def test_every_step_is_in_one_minibatch_of_a_fitting_size(seed: int, batch_size: int, n_envs: int, n_steps: int) -> None:
    rng = np.random.default_rng(seed)
    model = make_model(random_envs(n_envs), n_steps=n_steps)
    buffer = model.rollout_buffer
    memories = model.policy.initial_memories(n_envs)
    for t in range(n_steps):
        starts = rng.random(n_envs) < (1.0 if t == 0 else 0.2)
        identity = np.arange(n_envs) * n_steps + t
        tensors = th.zeros(n_envs), th.zeros(n_envs)
        buffer.add(np.zeros((n_envs, 3)), np.zeros((n_envs, 1)), identity, starts, *tensors, memories)
    buffer.returns = buffer.rewards.copy()
    sizes, seen = [], []
    for data in buffer.get(batch_size):
        seen += data.returns.tolist()
        sizes.append(len(data.returns))
    assert sorted(seen) == list(range(n_envs * n_steps))
    assert min(sizes) >= 2
    assert min(sizes) >= min(batch_size / 2, n_envs * n_steps)
    assert all(size >= batch_size for size in sizes[:-1])
    assert max(sizes[:-1], default=0) < max(batch_size, 2) + model.bptt_segments * L


@pytest.mark.parametrize("poison", [1e6, -1e6])
def test_padding_changes_no_parameter(poison: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tails of short segments may hold anything."""

    def update() -> np.ndarray:
        return make_model(random_envs(4)).learn(128).policy.parameters_to_vector()

    clean, poisoned = update(), 0
    new_zeros = th.Tensor.new_zeros

    def new_poison(self: th.Tensor, *size: Any, **kwargs: Any) -> th.Tensor:
        nonlocal poisoned
        poisoned += self.requires_grad
        return new_zeros(self, *size, **kwargs).fill_(poison if self.requires_grad else 0.0)

    monkeypatch.setattr(th.Tensor, "new_zeros", new_poison)
    assert (update() == clean).all()
    assert poisoned > 0


def test_memory_is_stored_once_per_chain() -> None:
    envs, steps, k = 2, 64, 2
    model = make_model(random_envs(envs, mean_length=1e9), n_steps=steps, bptt_segments=k)
    model.learn(envs * steps)
    per_memory = 4 * 2 * 2 * 8 + 8 * (2 + 1)  # float32 slots of two layers, int64 anchors and position
    chains = envs * (steps // (k * L) - 1)  # those of an episode's start need none of their own
    assert model.rollout_buffer.state_bytes <= per_memory * (chains + 1 + envs)  # once for actor and critic


def test_a_seed_fixes_a_run() -> None:
    runs = [make_model(random_envs(2)).learn(64).policy.parameters_to_vector() for _ in range(2)]
    assert (runs[0] == runs[1]).all()


@pytest.mark.parametrize("segment_length", [1, 4])
def test_replay_holds_after_a_callback_stopped_in_the_middle_of_a_rollout(segment_length: int) -> None:
    model = make_model(random_envs(2, mean_length=20), policy_kwargs={"segment_length": segment_length})
    model.learn(96, callback=StopAt(21))
    assert model.num_timesteps == 42
    differences = replay_differences(model, rollouts=3, reset_num_timesteps=False)
    assert max(differences) < 1e-4


@pytest.mark.parametrize(
    ("saved", "loaded"), [(RecurrentPPO, sb3_contrib.RecurrentPPO), (sb3_contrib.RecurrentPPO, RecurrentPPO)]
)
def test_files_load_in_both_classes_and_training_goes_on(saved: type, loaded: type, tmp_path: Path) -> None:
    model = helpers.make_model(saved, random_envs(2)).learn(32)
    model.save(tmp_path / "model")
    other = loaded.load(tmp_path / "model", env=random_envs(3))
    observation = np.ones((4, 3), np.float32)
    expected, _ = model.predict(observation, deterministic=True)
    assert (other.predict(observation, deterministic=True)[0] == expected).all()
    other.learn(96, reset_num_timesteps=False)
    assert other.num_timesteps == model.num_timesteps + 96


def test_vec_normalize_target_kl_and_evaluation() -> None:
    env = VecNormalize(random_envs(2))
    model = make_model(env, target_kl=1e-9, n_epochs=10).learn(96)
    assert model._n_updates < 30
    mean, _ = evaluate_policy(model, VecNormalize(random_envs(3), training=False, norm_reward=False), n_eval_episodes=5)
    assert np.isfinite(mean)


def test_learning_again_starts_new_episodes() -> None:
    model = make_model(random_envs(2, mean_length=1e9)).learn(32)
    model.learn(32)
    assert (model.rollout_buffer.positions[0] == 0).all()
    model.learn(32, reset_num_timesteps=False)
    assert (model.rollout_buffer.positions[0] == 16).all()


def test_expert_balance_is_logged() -> None:
    model = make_model(random_envs(2), policy_kwargs={"ffn": "moe"})
    model.learn(32)
    assert model.logger.name_to_value["train/aux_loss"] > 0


def test_native_tmaze_batch_trains() -> None:
    model = make_model(TMazeVecEnv(8, length=9, seed=0)).learn(256)
    assert np.isfinite(model.policy.parameters_to_vector()).all()


class GivenRewards(VecEnvWrapper):
    """Environments that end by a time limit at every fourth step, with rewards as they are given; they keep what they got."""

    def __init__(self, rewards: np.ndarray, action_space: spaces.Space = ACTION_SPACES[0]) -> None:
        super().__init__(random_envs(len(rewards), action_space=action_space, mean_length=1e9))
        self.rewards, self.time = rewards, 0
        self.received: list[np.ndarray] = []

    def reset(self) -> Any:
        return self.venv.reset()

    def step_async(self, actions: np.ndarray) -> None:
        self.received.append(actions.copy())
        super().step_async(actions)

    def step_wait(self) -> Any:
        obs, _, dones, infos = self.venv.step_wait()
        self.time += 1
        if self.time % 4 == 0:
            dones = np.ones_like(dones)
            infos = [{"terminal_observation": row, "TimeLimit.truncated": True} for row in obs]
        return obs, self.rewards, dones, infos


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, bool, np.float32, np.float64], ids=lambda dtype: np.dtype(dtype).name)
def test_rewards_of_any_kind_are_bootstrapped_and_left_as_they_are(dtype: type) -> None:
    rewards = np.array([1, 0], dtype)
    rewards.setflags(write=False)
    model = make_model(GivenRewards(rewards))
    model.learn(32)
    assert rewards.tolist() == [1, 0]
    expected = make_model(GivenRewards(np.array([1, 0], np.float32)))
    expected.learn(32)
    np.testing.assert_allclose(model.rollout_buffer.rewards, expected.rollout_buffer.rewards, atol=1e-6)
    assert (model.rollout_buffer.rewards[3] % 1 != 0).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rewards_that_are_not_finite_stop_training_with_environment_and_step(value: float) -> None:
    with pytest.raises(FloatingPointError, match=rf"{value}.*environment 1.* 2 steps"):
        make_model(GivenRewards(np.array([0.0, value]))).learn(32)


def test_weights_that_are_not_finite_stop_training_and_are_not_saved(tmp_path: Path) -> None:
    model = make_model(random_envs(2))
    model.save(tmp_path / "model")
    before = (tmp_path / "model.zip").read_bytes()
    model.vf_coef = float("nan")
    with pytest.raises(FloatingPointError, match=r"Weights must be finite.*32 steps"):
        model.learn(64)
    with pytest.raises(FloatingPointError, match="Weights must be finite"):
        model.save(tmp_path / "model")
    assert (tmp_path / "model.zip").read_bytes() == before


def test_squashed_actions_are_rescaled_in_training_as_in_predict() -> None:
    env = GivenRewards(np.zeros(2), spaces.Box(0, 10, (1,)))
    model = make_model(env, use_sde=True, policy_kwargs={"squash_output": True, "log_std_init": -6.0}, learning_rate=0.0)
    model.learn(32)
    with th.no_grad():
        model.policy.action_net.bias.fill_(np.arctanh(0.4))
        model.policy.action_net.weight.zero_()
    env.received.clear()
    model.learn(32)
    played = np.concatenate(env.received)
    np.testing.assert_allclose(played, 7.0, atol=0.1)
    np.testing.assert_allclose(model.predict(np.zeros((2, 3), np.float32))[0], 7.0, atol=0.1)


def test_callbacks_see_the_hosts_names() -> None:
    names: list[set[str]] = []
    make_model(random_envs(2)).learn(32, callback=lambda variables, _: names.append(set(variables)) or True)
    expected = ["obs_tensor", "lstm_states", "episode_starts", "actions", "clipped_actions", "values", "log_probs", "rewards"]
    assert set(expected) <= names[0]


@pytest.mark.parametrize("arguments", [{"batch_size": -5}, {"batch_size": 0}, {"n_epochs": 0}, {"n_steps": 0}], ids=str)
def test_numbers_out_of_range_are_refused(arguments: dict[str, int]) -> None:
    ((name, value),) = arguments.items()
    with pytest.raises(ValueError, match=rf"`{name}`.*Received {value}"):
        make_model(random_envs(2), **arguments)


def test_a_rollout_of_one_step_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`n_steps`.*Received 1"):
        make_model(random_envs(1), n_steps=1)
    make_model(random_envs(1), n_steps=1, normalize_advantage=False).learn(2)


def test_no_more_observations_are_kept_than_open_chains_need() -> None:
    model = make_model(random_envs(2, mean_length=1e9), bptt_segments=1000)
    sizes = []
    for _ in range(3):
        model.learn(32, reset_num_timesteps=False)
        sizes.append(len(model.rollout_buffer.observations.base))
    assert sizes == [16, 32, 48]


def test_detach_memory_is_refused_with_the_argument_to_use() -> None:
    with pytest.raises(ValueError, match=r"`detach_memory`.*`bptt_segments=1`"):
        make_model(random_envs(1), policy_kwargs={"detach_memory": True})


def test_a_model_of_the_host_with_detached_memory_acts_and_trains_detached(tmp_path: Path) -> None:
    helpers.make_model(sb3_contrib.RecurrentPPO, random_envs(2), policy_kwargs={"detach_memory": True}).save(tmp_path / "m")
    model = RecurrentPPO.load(tmp_path / "m", env=random_envs(2))
    assert model.predict(np.ones((2, 3), np.float32))[0].shape == (2,)
    with pytest.raises(ValueError, match="`bptt_segments=1`"):
        model.learn(32)
    RecurrentPPO.load(tmp_path / "m", env=random_envs(2), bptt_segments=1).learn(32)


def test_the_recurrent_state_is_that_of_the_last_step_and_is_not_saved(tmp_path: Path) -> None:
    model = make_model(random_envs(2, mean_length=1e9))
    assert model.state is None
    model.learn(32)
    assert model.state.pi.memory.position.tolist() == [16, 16]
    model.save(tmp_path / "model")
    assert RecurrentPPO.load(tmp_path / "model").state is None


def test_large_rewards_are_divided_by_the_spread_of_returns(tmp_path: Path) -> None:
    raw, scaled = (make_model(random_envs(3), scale_rewards=flag, learning_rate=0.0) for flag in (False, True))
    for model in (raw, scaled):
        model.learn(96)
    spread = np.sqrt(scaled.return_rms.var)
    assert spread > 1.5  # of the discounted sums of six rewards of variance 1
    ends = raw.rollout_buffer.episode_starts[1:].astype(bool)  # before them, a time limit may have added a value
    left, right = (model.rollout_buffer.rewards[:-1][~ends] for model in (raw, scaled))
    ratio = (left / right).reshape(-1)
    assert ratio[-1] == pytest.approx(spread, rel=0.05)
    scaled.save(tmp_path / "model")
    assert RecurrentPPO.load(tmp_path / "model", env=random_envs(2)).learn(32).return_rms.count > scaled.return_rms.count


@pytest.mark.parametrize(("n_calls", "anew"), [(1_000, True), (40, False)])
def test_rewards_from_before_a_reset_or_an_interruption_are_forgotten(
    n_calls: int, anew: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two rollouts, and episodes that begin anew; or one and a quarter, and episodes that go on."""
    model = make_model(random_envs(2, mean_length=1e9), n_steps=32).learn(128, callback=StopAt(n_calls))
    for env in model.get_env().envs:
        step = env.unwrapped.step
        monkeypatch.setattr(env.unwrapped, "step", lambda action, step=step: (step(action)[0], 0.0, False, False, {}))
    model.learn(64, reset_num_timesteps=anew)
    assert not model._discounted_returns.any()


def test_small_rewards_stay_as_they_are() -> None:
    model = make_model(TMazeVecEnv(8, length=9, seed=0)).learn(256)
    assert set(np.unique(model.rollout_buffer.rewards)) <= {0.0, 1.0}


def test_squashed_actions_of_a_space_of_doubles_have_the_same_probability_in_training() -> None:
    env = random_envs(2, action_space=spaces.Box(-1, 1, (2,), np.float64))
    model = make_model(env, use_sde=True, learning_rate=0.0, policy_kwargs={"squash_output": True}).learn(256)
    assert model.logger.name_to_value["train/approx_kl"] == pytest.approx(0, abs=1e-6)
    assert model.logger.name_to_value["train/rollout_kl"] == pytest.approx(0, abs=1e-6)


class ResetAtRollouts(BaseCallback):
    """Begins every rollout with new episodes, as a curriculum does that changes its environments."""

    def __init__(self) -> None:
        super().__init__()
        self.firsts: list[np.ndarray] = []
        self.found: list[np.ndarray] = []

    def _on_rollout_start(self) -> None:
        self.model._last_obs = self.training_env.reset()
        self.model._last_episode_starts = np.ones(self.training_env.num_envs, dtype=bool)
        self.firsts.append(self.model._last_obs)

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self.found.append(self.model.rollout_buffer.observations[0].copy())
        assert self.model.rollout_buffer.episode_starts[0].all()


def test_a_rollout_begins_where_a_callback_says() -> None:
    callback = ResetAtRollouts()
    make_model(random_envs(2)).learn(96, callback=callback)
    np.testing.assert_array_equal(callback.found, callback.firsts)


@pytest.mark.parametrize("reward", [-1e20, 1e30])
def test_a_reward_too_large_to_be_scaled_is_refused(reward: float) -> None:
    class Rewarding(VecEnvWrapper):
        def reset(self) -> np.ndarray:
            return self.venv.reset()

        def step_wait(self) -> Any:
            obs, rewards, dones, infos = self.venv.step_wait()
            return obs, np.full_like(rewards, reward), dones, infos

    with pytest.raises(FloatingPointError, match=r"Rewards must be below 1e18"):
        make_model(Rewarding(random_envs(2))).learn(64)


WRONG: dict[str, tuple[Any, ...]] = {
    "bptt_segments": (0, -1, 1.5, True, None),
    "averaging": (-0.1, 1.1, "0.5", True),
    "trust_region": (0, -0.1, float("inf"), float("nan"), "0.1", True, LinearSchedule(0.1, 0.0, 1.0)),
    "target_kl": (0, -1.0, "0.1", LinearSchedule(0.1, 0.0, 1.0)),
    "clip_range": (0.0, -0.2, None),
    "clip_range_vf": (0.0, -0.2, "0.2"),
    "sde_sample_freq": (-2, 1.5),
    "ent_coef": (-0.1, float("nan"), "0.01"),
    "normalize_advantage": ("no", None),
    "scale_rewards": ("no", 1),
    "gamma": (-0.1, 1.1, "0.9"),
    "gae_lambda": (-0.1, 1.1, None),
    "vf_coef": (-0.1, float("inf")),
    "max_grad_norm": (-1.0, float("nan")),
    "n_steps": (0, 1.5),
    "batch_size": (0, -5),
    "n_epochs": (0, -1),
    "learning_rate": (-1e-4, float("nan"), True, "1e-4"),
    "seed": (-1, True, 1.5),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_wrong_arguments_are_refused_when_given_and_when_loaded(name: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"`{name}`.*Received"):
        RecurrentPPO("ElmurPolicy", "CartPole-v1", **{name: value})
    make_model(random_envs(1)).save(tmp_path / "model")
    with pytest.raises(ValueError, match=rf"`{name}`.*Received"):
        RecurrentPPO.load(tmp_path / "model", **{name: value})


@pytest.mark.parametrize("n_envs", [1, 8, 20])
def test_minibatches_grow_with_the_rollout(n_envs: int, tmp_path: Path) -> None:
    """Where nothing is said they have an eighth of it, at least 256 steps, also after a model has been loaded."""

    def sizes(model: RecurrentPPO, n_steps: int) -> list[int]:
        model.learn(n_steps)
        return [len(data.mask) for data in model.rollout_buffer.get(model.batch_size)]

    arguments = {"n_steps": 128, "batch_size": None, "n_epochs": 1, "trust_region": None}
    model = make_model(random_envs(1), **arguments)
    assert sizes(model, 128) == [128]
    model.save(tmp_path / "model")
    model = RecurrentPPO.load(tmp_path / "model", env=random_envs(n_envs))
    least = max(256, 16 * n_envs)
    assert all(least <= size < least + L * model.bptt_segments for size in sizes(model, 128 * n_envs)[:-1])
    assert sum(sizes(model, 128 * n_envs)) == 128 * n_envs


class Flat(FlattenExtractor):
    """Cannot tell the shape of no observations."""

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return observations.view(observations.shape[0], -1)


@pytest.mark.parametrize("how", ["predict", "step"])
def test_acting_sees_with_the_actors_extractor_alone(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = make_model(random_envs(1), policy_kwargs={"separate_critic": True, "share_features_extractor": False}).policy
    critics = policy.vf_features_extractor
    assert critics is not policy.pi_features_extractor
    monkeypatch.setattr(critics, "forward", lambda observations: pytest.fail("the critic's"))
    getattr(policy, how)(np.zeros((1, *policy.observation_space.shape), np.float32))


def test_features_of_no_observations_have_the_type_of_the_weights() -> None:
    policy = make_model(random_envs(1)).policy.double()
    features = policy.actor_features(th.zeros(0, *policy.observation_space.shape))
    assert features.shape == (0, policy.features_dim)
    assert features.dtype == th.float64


@pytest.mark.parametrize("separate", [False, True])
def test_extractors_never_see_an_empty_batch(separate: bool) -> None:
    policy_kwargs = {
        "features_extractor_class": Flat, "separate_critic": separate, "share_features_extractor": not separate,
    }  # fmt: skip
    make_model(random_envs(2), policy_kwargs=policy_kwargs).learn(64)


@pytest.mark.parametrize("episodes", [0, 1.5])
def test_statistics_of_no_whole_number_of_episodes_are_refused(episodes: Any) -> None:  # `load` takes no notice of it
    with pytest.raises(ValueError, match=rf"`stats_window_size` must be an integer of at least 1. Received {episodes}"):
        RecurrentPPO("ElmurPolicy", "CartPole-v1", stats_window_size=episodes)


def test_a_policy_without_a_memory_core_is_refused_with_a_pointer() -> None:
    with pytest.raises(ValueError, match=r"Received RecurrentActorCriticPolicy: use sb3_contrib\.RecurrentPPO for it"):
        RecurrentPPO("MlpLstmPolicy", "CartPole-v1")


def test_a_policy_class_without_recurrent_state_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"`policy`.*Received ActorCriticPolicy"):
        RecurrentPPO(ActorCriticPolicy, "CartPole-v1")
