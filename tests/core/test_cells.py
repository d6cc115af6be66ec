"""Baselines behind ELMUR's interface: GRU, LSTM, and a transformer without memory, alone and as policies of both PPOs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sb3_contrib
import torch as th
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import helpers
from helpers import ACTION_SPACES, AS_THE_HOST, VECTOR, make_policy, random_envs, replay_differences
from sb3_elmur import ElmurCnnPolicy, ElmurMultiInputPolicy, ElmurPolicy, RecurrentPPO
from sb3_elmur.core.attention import sinusoids
from sb3_elmur.core.base import MemoryCore
from sb3_elmur.core.config import ElmurConfig
from sb3_elmur.core.memory import Memory
from sb3_elmur.core.registry import make_core
from sb3_elmur.core.states import PackedLayout

CORES: dict[str, dict[str, Any]] = {"gru": {"core": "gru"}, "lstm": {"core": "lstm"}, "slotless": {"memory_size": 0}}
IMAGE = spaces.Box(0, 255, (36, 36, 3), dtype=np.uint8)
DICT = spaces.Dict({"a": VECTOR, "b": spaces.Discrete(3)})
PPOS = [sb3_contrib.RecurrentPPO, RecurrentPPO]

every_core = pytest.mark.parametrize("core", CORES)
cells = pytest.mark.parametrize("core", ["gru", "lstm"])
both_ppos = pytest.mark.parametrize("cls", PPOS, ids=["unmodified", "segment-wise"])


def build(core: str, **arguments: Any) -> MemoryCore:
    """A small core in float64."""
    sizes = {"d_model": 8, "n_heads": 2, "segment_length": 3}
    made = make_core(ElmurConfig(**(sizes | CORES[core] | arguments))).double().eval()
    for name, parameter in made.named_parameters():
        if name in ("content_bias", "distance_bias"):
            nn.init.normal_(parameter)
    return made


def make_model(cls: type, core: str, env: Any = None, policy: str = "ElmurPolicy", **arguments: Any) -> Any:
    policy_kwargs = CORES[core] | arguments.pop("policy_kwargs", {})
    return helpers.make_model(cls, env or random_envs(2), policy, policy_kwargs=policy_kwargs, **arguments)


def sequences(core: MemoryCore, starts: Tensor) -> Tensor:
    return th.randn(*starts.shape, core.config.d_model, dtype=th.float64).requires_grad_()


def unroll(core: MemoryCore, x: Tensor, starts: Tensor, detach: bool = False) -> tuple[Tensor, Memory, Tensor]:
    tokens = x.new_zeros(len(x), core.segment_length - 1, x.shape[2])
    return core.unroll(x, core.initial_memory(len(x)), tokens, starts, detach_memory=detach, need_state=True)


def step_through(core: MemoryCore, x: Tensor, starts: Tensor) -> tuple[Tensor, Any]:
    state, ys = core.initial_state(len(x)), []
    for token, start in zip(x.unbind(1), starts.unbind(1), strict=True):
        y, state = core.step(token, state, start)
        ys.append(y)
    return th.stack(ys, 1), state


def replay(core: MemoryCore, x: Tensor) -> tuple[Tensor, Memory]:
    """Episodes (B, T, D) as one chain each."""
    order = th.cat([th.cartesian_prod(th.arange(len(x)), part) for part in th.arange(x.shape[1]).split(core.segment_length)])
    lengths = th.full((len(x),), x.shape[1])
    y, memory = core.replay(x[order[:, 0], order[:, 1]], core.initial_memory(len(x)), lengths, need_memory=True)
    return th.empty_like(x).index_put(tuple(order.T), y), memory


def gradients(core: MemoryCore, y: Tensor, x: Tensor) -> list[Tensor]:
    weight = th.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    return list(th.autograd.grad((y * weight).sum(), [x, *core.parameters()]))


def plain_cell(core: MemoryCore, episode: Tensor) -> Tensor:
    """Outputs (T, D) of PyTorch's own module."""
    return core.cell(episode[None])[0][0]


def plain_windows(core: MemoryCore, episode: Tensor) -> Tensor:
    """Outputs (T, D) of Transformer-XL layers over consecutive windows."""
    heads, length, norm_first = core.config.n_heads, core.segment_length, core.config.norm_first
    outputs = []
    for x in episode.split(length):
        distance = th.arange(len(x))[:, None] - th.arange(len(x))
        for layer in core.layers:
            attention, first, second = layer.attention, layer.around_attention.norm, layer.around_token_ffn.norm
            q, k, v = attention.qkv(first(x) if norm_first else x).unflatten(1, (3, heads, -1)).unbind(1)  # (T, H, D / H)
            r = attention.distance(core.sinusoids[: len(x)]).unflatten(1, (heads, -1))[distance.clamp(min=0)]
            scores = th.einsum("ihd,jhd->hij", q + core.content_bias, k)
            scores = scores + th.einsum("ihd,ijhd->hij", q + core.distance_bias, r)
            weights = (scores / q.shape[2] ** 0.5).masked_fill(distance < 0, float("-inf")).softmax(2)
            attended = attention.out(th.einsum("hij,jhd->ihd", weights, v).flatten(1))
            x = x + attended if norm_first else first(x + attended)
            x = x + layer.token_ffn(second(x)) if norm_first else second(x + layer.token_ffn(x))
        outputs.append(x)
    return th.cat(outputs)


@pytest.mark.parametrize(
    ("core", "arguments"),
    [
        ("gru", {}),
        ("gru", {"n_layers": 1, "segment_length": 5}),
        ("lstm", {}),
        ("lstm", {"n_layers": 3, "segment_length": 1, "norm_first": True}),
        ("slotless", {}),
        ("slotless", {"norm_first": True, "segment_length": 5}),
        ("slotless", {"norm": "rms", "ffn": "gelu", "n_layers": 1}),
    ],
    ids=str,
)
def test_outputs_and_gradients_are_the_plain_ones_over_whole_episodes(core: str, arguments: dict) -> None:
    """A GRU or LSTM runs over each whole episode, a transformer without slots over each segment of it."""
    made = build(core, **arguments)
    if core == "slotless":
        made.sinusoids.copy_(_exact_sinusoids(made))
    starts = th.zeros(2, 11)
    starts[1, 4] = 1
    x = sequences(made, starts)
    plain = plain_windows if core == "slotless" else plain_cell
    expected = th.stack([plain(made, x[0]), th.cat((plain(made, x[1, :4]), plain(made, x[1, 4:])))])
    y, memory, _ = unroll(made, x, starts)
    th.testing.assert_close(y, expected, atol=1e-12, rtol=0)
    for ours, plain_gradient in zip(gradients(made, y, x), gradients(made, expected, x), strict=True):
        th.testing.assert_close(ours, plain_gradient, atol=1e-12, rtol=0)
    assert memory.position.tolist() == [11, 7]


def _exact_sinusoids(core: MemoryCore) -> Tensor:
    """In float64, for which the core's were rounded."""
    previous = th.get_default_dtype()
    th.set_default_dtype(th.float64)
    exact = sinusoids(core.segment_length, core.config.d_model)
    th.set_default_dtype(previous)
    return exact


@every_core
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_step_by_step_equals_sequences(core: str, data: st.DataObject) -> None:
    """Outputs, memory and gradients, at random phases, episode starts and batch sizes, in any cut into chunks."""
    made = build(core, segment_length=data.draw(st.integers(1, 5)), n_layers=data.draw(st.integers(1, 2)))
    batch, time = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 18))
    rng = th.Generator().manual_seed(data.draw(st.integers(0, 999)))
    starts = th.rand(batch, time, generator=rng) < data.draw(st.sampled_from([0.0, 0.1, 0.5]))
    x = sequences(made, starts)

    stepped, state = step_through(made, x, starts)
    memory, tokens, ys = made.initial_memory(batch), x.new_zeros(batch, made.segment_length - 1, 8), []
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, time - 1)), max_size=4)))
    for begin, end in zip([0, *cuts], [*cuts, time], strict=True):
        if begin < end:
            part = slice(begin, end)
            y, memory, tokens = made.unroll(x[:, part], memory, tokens, starts[:, part], detach_memory=False, need_state=True)
            ys.append(y)
    th.testing.assert_close(th.cat(ys, 1), stepped, atol=1e-10, rtol=0)
    for unrolled, other in zip(memory, state.memory, strict=True):
        th.testing.assert_close(unrolled, other, atol=1e-10, rtol=0)
    for unrolled, other in zip(gradients(made, th.cat(ys, 1), x), gradients(made, stepped, x), strict=True):
        th.testing.assert_close(unrolled, other, atol=1e-10, rtol=0)

    reopened, token, start = made.open_segment(tokens, memory), th.randn(batch, 8, dtype=th.float64), starts[:, -1]
    th.testing.assert_close(made.step(token, reopened, start)[0], made.step(token, state, start)[0], atol=1e-10, rtol=0)


@every_core
@pytest.mark.parametrize("time", [2, 3, 8])
def test_replay_of_chains_and_reopening_within_them_equal_steps(core: str, time: int) -> None:
    made = build(core)
    starts = th.zeros(3, time)
    x = sequences(made, starts)
    stepped, state = step_through(made, x, starts)
    y, memory = replay(made, x)
    th.testing.assert_close(y, stepped, atol=1e-12, rtol=0)
    for replayed, other in zip(memory, state.memory, strict=True):
        th.testing.assert_close(replayed, other, atol=1e-12, rtol=0)
    for replayed, other in zip(gradients(made, y, x), gradients(made, stepped, x), strict=True):
        th.testing.assert_close(replayed, other, atol=1e-12, rtol=0)

    rows, lengths = th.arange(3), th.tensor([0, time // 2, time - 1])
    y, _ = made.step(x[rows, lengths], made.reopen(x, made.initial_memory(3), lengths), th.zeros(3))
    th.testing.assert_close(y, stepped[rows, lengths], atol=1e-12, rtol=0)


@cells
@pytest.mark.parametrize("detach", [False, True])
def test_gradients_flow_through_segments_unless_detached(core: str, detach: bool) -> None:
    made = build(core)
    x = sequences(made, th.zeros(1, 9))
    y, _, _ = unroll(made, x, th.zeros(1, 9), detach)
    (grad,) = th.autograd.grad(y[0, 8].sum(), x)
    assert (grad[0, 6:] != 0).all()
    assert (grad[0, :6] == 0).all() if detach else (grad[0, :6] != 0).all()


@every_core
@pytest.mark.parametrize("bptt_segments", [1, 2, 3])
def test_a_chain_connects_as_many_segments_as_its_memory_reaches(core: str, bptt_segments: int) -> None:
    length = helpers.SMALL["segment_length"]
    steps = 2 * bptt_segments * length
    model = make_model(RecurrentPPO, core, random_envs(1, mean_length=1e9), n_steps=steps, bptt_segments=bptt_segments)
    model.learn(steps)
    (data,) = model.rollout_buffer.get(None)
    obs = data.observations.requires_grad_()
    values, _, _ = model.policy.evaluate_actions(obs, data.actions.long().flatten(), data.lstm_states, data.episode_starts)
    (grad,) = th.autograd.grad(values[-1].sum(), obs)  # the last token of one of the two chains
    reached = grad.abs().sum(-1).view(bptt_segments, 2, length) > 0  # segment-major
    assert not reached[:, 0].any()
    assert reached[-1, 1].all()
    assert reached[:-1, 1].all() == (core != "slotless" or bptt_segments == 1)


@every_core
def test_step_leaves_its_input_state_as_it_is(core: str) -> None:
    made = build(core)
    state = made.initial_state(2)
    for t in range(2 * made.segment_length):
        before = [leaf.clone() for leaf in th.utils._pytree.tree_leaves(state)]
        _, after = made.step(th.randn(2, 8).double(), state, th.tensor([t == 2, False]))
        assert all(map(th.equal, before, th.utils._pytree.tree_leaves(state)))
        state = after


@every_core
@pytest.mark.parametrize("poison", [1e6, -1e6])
def test_batch_rows_are_independent(core: str, poison: float) -> None:
    made = build(core)
    starts = th.rand(4, 14) < 0.2
    x = th.randn(4, 14, 8).double()
    poisoned = x.clone()
    poisoned[1::2] = poison
    for run in (unroll, step_through):
        th.testing.assert_close(run(made, x, starts)[0][::2], run(made, poisoned, starts)[0][::2], atol=1e-12, rtol=0)


@every_core
@pytest.mark.parametrize("poison", [1e6, -1e6])
def test_padding_beyond_the_lengths_changes_nothing(core: str, poison: float) -> None:
    made = build(core)
    lengths = th.tensor([3, 1, 2, 0])
    real = th.arange(3) < lengths[:, None]
    x = th.randn(4, 3, 8).double()
    padded = x.masked_fill(~real[..., None], poison)
    memory = made.initial_memory(4)._replace(position=th.tensor([0, 3, 6, 7]))
    (y, after), (y_padded, after_padded) = (made.segment(z, memory, lengths) for z in (x, padded))
    assert th.equal(y[real], y_padded[real])
    assert all(map(th.equal, after, after_padded))
    assert after.position.tolist() == [3, 4, 8, 7]


@cells
def test_slots_are_the_hidden_vectors_after_the_last_complete_segment(core: str) -> None:
    made = build(core)
    x = th.randn(2, 8, 8).double()
    _, memory, _ = unroll(made, x, th.zeros(2, 8))
    _, after = made.cell(x[:, :6])
    hidden = th.cat(after if core == "lstm" else (after,)).transpose(0, 1)[:, None]
    th.testing.assert_close(memory.slots, hidden, atol=1e-12, rtol=0)
    assert (memory.anchors == 5).all()
    assert memory.slots.shape == (2, 1, {"gru": 2, "lstm": 4}[core], 8)


@every_core
def test_a_packed_state_is_exact_and_zeros_are_the_start_of_an_episode(core: str) -> None:
    made = build(core).float()
    n_slots = made.initial_slots.shape[1]
    layout = PackedLayout(*made.initial_slots.shape, 3)
    position = th.tensor([3 * 10**12 + 1, 4])
    memory = Memory(th.randn(2, *made.initial_slots.shape), (position[:, None] - 2).expand(-1, n_slots), position)
    restored, _ = layout.unpack(layout.pack(memory, th.zeros(2, 2, 8)), made.initial_slots)
    assert all(map(th.equal, memory, restored))
    zeros = th.zeros(1, 2, layout.hidden_size)
    assert all(map(th.equal, layout.unpack((zeros, zeros), made.initial_slots)[0], made.initial_memory(2)))


def test_a_core_has_no_parameters_but_its_own() -> None:
    def count(module: nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    assert count(build("gru", n_layers=3)) == count(nn.GRU(8, 8, 3))
    assert count(build("lstm", n_layers=3)) == count(nn.LSTM(8, 8, 3))
    attention, ffn, norms = 5 * 8 * 8, 3 * 8 * 16, 2 * 2 * 8
    assert count(build("slotless", n_layers=3)) == 3 * (attention + ffn + norms) + 2 * 8


def test_cells_learn_to_recall_across_segments_and_a_transformer_without_slots_cannot() -> None:
    cue = th.randint(0, 2, (64,), generator=th.Generator().manual_seed(0)) * 2.0 - 1
    x = th.zeros(64, 6, 8)
    x[:, 0] = cue[:, None]
    losses = {}
    for core in CORES:
        th.manual_seed(0)
        made = build(core, n_layers=1).float().train()
        optimizer = th.optim.Adam(made.parameters(), 3e-2)
        for _ in range(60):
            y, _ = replay(made, x)
            loss = (y[:, -1, 0] - 0.5 * cue).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses[core] = loss.item()
    assert losses["gru"] < 0.02
    assert losses["lstm"] < 0.02
    assert losses["slotless"] > 0.2


@every_core
@pytest.mark.parametrize("how", [unroll, step_through])
def test_runs_under_bf16_autocast(core: str, how: Any) -> None:
    made, x, starts = build(core).float(), th.randn(2, 9, 8), th.zeros(2, 9)
    exact = how(made, x, starts)[0]
    with th.autocast("cpu", dtype=th.bfloat16):
        y = how(made, x, starts)[0]
    th.testing.assert_close(y.float(), exact, atol=0.1, rtol=0.1)


@every_core
@pytest.mark.parametrize("action_space", ACTION_SPACES, ids=lambda space: type(space).__name__)
def test_predict_with_its_pair_with_plain_arrays_and_step_act_alike(core: str, action_space: spaces.Space) -> None:
    policy = make_policy(VECTOR, action_space, **CORES[core])
    rng = np.random.default_rng(0)
    pair, plain, state = None, None, None
    for t in range(10):
        obs, starts = rng.uniform(-1, 1, (3, 3)).astype(np.float32), rng.random(3) < 0.1
        expected, pair = policy.predict(obs, pair, starts, deterministic=True)
        replayed, plain = policy.predict(obs, plain, starts, deterministic=True)
        plain = tuple(part.copy() for part in plain)
        stepped, state = policy.step(obs, state, starts, deterministic=True)
        np.testing.assert_allclose(replayed, expected, atol=1e-5, err_msg=f"step {t}")
        np.testing.assert_allclose(stepped, expected, atol=1e-5, err_msg=f"step {t}")
        np.testing.assert_allclose(np.stack(plain), np.stack(pair), atol=1e-5)


@every_core
def test_a_state_that_does_not_fit_is_refused(core: str) -> None:
    policy = make_policy(VECTOR, spaces.Discrete(2), **CORES[core])
    obs = np.zeros((3, 3), np.float32)
    _, pair = policy.predict(obs[:2])
    _, state = policy.step(obs[:2])
    for act, other in ((policy.predict, pair), (policy.step, state), (policy.step, pair)):
        with pytest.raises(ValueError, match=r"`state`.* 3 environment"):
            act(obs, other)


@every_core
@both_ppos
@settings(max_examples=5, deadline=None)
@given(
    n_envs=st.integers(1, 4),
    n_steps=st.integers(2, 20),
    batch_size=st.integers(2, 40),
    segment_length=st.integers(1, 6),
    mean_length=st.sampled_from([1.5, 6.0, 50.0]),
    separate_critic=st.booleans(),
)
def test_training_replays_what_the_rollout_saw(
    core: str, cls: type, n_envs: int, n_steps: int, batch_size: int, segment_length: int, mean_length: float,
    separate_critic: bool,
) -> None:  # fmt: skip
    """Ratio 1 in the first epoch, over several rollouts with updates between."""
    if n_steps * n_envs % batch_size == 1:  # the host turns weights NaN on a minibatch of one step
        batch_size = n_steps * n_envs
    model = make_model(
        cls, core, random_envs(n_envs, mean_length=mean_length), n_steps=n_steps, batch_size=batch_size, n_epochs=1,
        policy_kwargs={"segment_length": segment_length, "separate_critic": separate_critic},
    )  # fmt: skip
    assert max(replay_differences(model, rollouts=3)) < 1e-4


@every_core
@both_ppos
@pytest.mark.parametrize(("observation_space", "policy"), [(DICT, "ElmurMultiInputPolicy"), (IMAGE, "ElmurCnnPolicy")])
def test_replay_holds_for_dict_and_image_observations(
    core: str, cls: type, observation_space: spaces.Space, policy: str
) -> None:
    model = make_model(cls, core, random_envs(2, observation_space), policy, n_epochs=1)
    assert max(replay_differences(model, rollouts=2)) < 1e-4


@every_core
@pytest.mark.parametrize("through_memory", [False, True])
def test_first_update_equals_the_hosts(core: str, through_memory: bool) -> None:
    models = []
    for cls in PPOS:
        kwargs: dict[str, Any] = {"optimizer_class": th.optim.SGD}
        if cls is sb3_contrib.RecurrentPPO:
            kwargs["detach_memory"], extra = not through_memory, {}
        else:
            extra = AS_THE_HOST | {"bptt_segments": 9 if through_memory else 1}
        model = make_model(cls, core, random_envs(3), n_steps=33, batch_size=99, n_epochs=1, policy_kwargs=kwargs, **extra)
        models.append(model.learn(99))
    host, ours = (model.policy.parameters_to_vector() for model in models)
    np.testing.assert_allclose(ours, host, atol=1e-5)


@every_core
@both_ppos
@pytest.mark.parametrize("action_space", ACTION_SPACES, ids=lambda space: type(space).__name__)
def test_every_parameter_of_the_core_learns_on_every_action_space(core: str, cls: type, action_space: spaces.Space) -> None:
    model = make_model(cls, core, random_envs(2, action_space=action_space), policy_kwargs={"separate_critic": True})
    before = [parameter.clone() for parameter in model.policy.parameters()]
    model.learn(32)
    for (name, parameter), old in zip(model.policy.named_parameters(), before, strict=True):
        assert parameter.isfinite().all(), name
        assert not th.equal(parameter, old), name


@every_core
@pytest.mark.parametrize("cls", [ElmurPolicy, ElmurCnnPolicy, ElmurMultiInputPolicy])
def test_a_policy_survives_saving_alone(core: str, cls: type[ElmurPolicy], tmp_path: Path) -> None:
    channels_first = spaces.Box(0, 255, (3, 36, 36), dtype=np.uint8)
    observation_space = {ElmurPolicy: VECTOR, ElmurCnnPolicy: channels_first, ElmurMultiInputPolicy: DICT}[cls]
    policy = make_policy(observation_space, spaces.Box(-1, 1, (2,)), cls, separate_critic=True, **CORES[core])
    policy.save(tmp_path / "policy.pt")
    loaded = cls.load(tmp_path / "policy.pt")
    state = loaded_state = None
    for _ in range(6):
        observation = observation_space.sample()
        expected, state = policy.predict(observation, state, deterministic=True)
        action, loaded_state = loaded.predict(observation, loaded_state, deterministic=True)
        assert (action == expected).all()


@every_core
@pytest.mark.parametrize(("saved", "loaded"), [PPOS, PPOS[::-1]], ids=["saved by the unmodified", "saved by ours"])
def test_files_load_in_both_ppos_and_training_goes_on(core: str, saved: type, loaded: type, tmp_path: Path) -> None:
    model = make_model(saved, core).learn(32)
    model.save(tmp_path / "model")
    other = loaded.load(tmp_path / "model", env=random_envs(3))
    observation = np.ones((4, 3), np.float32)
    expected, _ = model.predict(observation, deterministic=True)
    assert (other.predict(observation, deterministic=True)[0] == expected).all()
    other.learn(96, reset_num_timesteps=False)
    assert other.num_timesteps == model.num_timesteps + 96


def test_experts_are_balanced_without_slots_too() -> None:
    model = make_model(RecurrentPPO, "slotless", policy_kwargs={"ffn": "moe"})
    model.learn(32)
    assert model.logger.name_to_value["train/aux_loss"] > 0


def test_what_only_elmur_needs_does_not_limit_a_cell() -> None:
    policy = make_policy(VECTOR, spaces.Discrete(2), core="lstm", d_model=7, n_heads=4, memory_size=0, norm_first=True)
    assert policy.step(np.ones((2, 3), np.float32))[0].shape == (2,)
    assert not any(isinstance(module, nn.LayerNorm) for module in policy.modules())
