"""The loss and its gradients are those of episodes alone, step by step; what is trained on, and that it lowers the loss."""

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from cloning_helpers import LENGTHS, MOE, make_bc, parameters, watch_gradients, watch_step_losses
from helpers import ACTION_SPACES
from sb3_elmur.bc.trainer import BC


def by_episode(trainer: BC, updates: list[th.Tensor], lengths: list[int]) -> dict[int, np.ndarray]:
    """Losses of one batch, that of the given lengths, by the episode's length, in the order of time."""
    found: dict[int, list[float]] = {length: [] for length in lengths}
    for update, losses in enumerate(updates):
        remaining = losses.tolist()
        for segment in range(trainer.config.bptt_segments):
            start = update * trainer.chain_length + segment * trainer.segment_length
            for length in sorted(lengths, reverse=True):
                n = max(0, min(length - start, trainer.segment_length))
                found[length] += remaining[:n]
                del remaining[:n]
        assert not remaining
    return {length: np.array(losses) for length, losses in found.items()}


def slow_loss(policy: Any, outputs: th.Tensor, action: np.ndarray, smoothing: float) -> th.Tensor:
    """Loss of one step from the textbook; outputs (n,)."""
    space = policy.action_space
    if isinstance(space, spaces.Box):
        target = th.as_tensor(policy.scale_action(action) if policy.squash_output else action)
        return ((outputs.tanh() if policy.squash_output else outputs) - target).pow(2).mean()
    if isinstance(space, spaces.MultiBinary):
        target = th.as_tensor(action, dtype=th.float32) * (1 - smoothing) + smoothing / 2
        return -(target * outputs.sigmoid().log() + (1 - target) * (1 - outputs.sigmoid()).log()).sum()
    sizes = [int(space.n)] if isinstance(space, spaces.Discrete) else space.nvec.tolist()
    total = th.zeros(())
    for logits, choice, n in zip(outputs.split(sizes), np.atleast_1d(action), sizes, strict=True):
        target = th.full((n,), smoothing / n)
        target[choice] += 1 - smoothing
        total = total - (target * logits.softmax(0).log()).sum()
    return total


def slow_chains(trainer: BC, smoothing: float) -> list[list[th.Tensor]]:
    """Losses of the data set's steps, chain by chain: each episode alone, one step after another, with cached keys."""
    policy, core = trainer.policy, trainer.policy.backbone.core
    longest = max(map(len, trainer.episodes.made))
    chains: list[list[th.Tensor]] = [[] for _ in range(0, longest, trainer.chain_length)]
    no_start, no_tokens = th.zeros(1, dtype=th.bool), th.zeros(1, 0, core.config.d_model)
    for episode in trainer.episodes.made:
        memory = policy.initial_memories(1).pi
        for t in range(len(episode)):
            if t % trainer.chain_length == 0:
                memory = memory._replace(slots=memory.slots.detach())
                state = core.open_segment(no_tokens, memory)
            features = policy.extract_features(policy.obs_to_tensor(episode.observations[t : t + 1])[0])
            latent, state = policy.backbone.step(features, state, no_start)
            memory = state.memory
            outputs = policy.action_net(policy.mlp_extractor.forward_actor(latent))[0]
            chains[t // trainer.chain_length].append(slow_loss(policy, outputs, episode.actions[t], smoothing))
    return chains


@settings(max_examples=10, deadline=None)
@given(
    action_space=st.sampled_from(ACTION_SPACES),
    lengths=st.lists(st.integers(1, 17), min_size=1, max_size=5),
    segment_length=st.integers(1, 5),
    bptt_segments=st.sampled_from([1, 2, 20]),
    smoothing=st.sampled_from([0.0, 0.3]),
    policy_kwargs=st.sampled_from(
        [
            {},
            {"blend": "gated"},
            {"core": "lstm"},
            {"net_arch": [5]},
            {"norm_first": True, "memory_size": 1},
            {**MOE, "aux_loss_coef": 0.0},
        ]
    ),
)
def test_a_batchs_losses_and_gradients_are_those_of_its_episodes_alone_step_by_step(
    action_space: spaces.Space, lengths: list[int], segment_length: int, bptt_segments: int, smoothing: float,
    policy_kwargs: dict,
) -> None:  # fmt: skip
    trainer = make_bc(
        action_space, lengths=lengths, policy_kwargs={"segment_length": segment_length, **policy_kwargs}, learning_rate=0.0,
        batch_size=len(lengths), bptt_segments=bptt_segments, label_smoothing=smoothing, max_grad_norm=1e9,
    )  # fmt: skip
    gradients, losses = watch_gradients(trainer), watch_step_losses(trainer)
    trainer.train_batch()
    expected = slow_chains(trainer, smoothing)
    assert len(expected) == len(losses) == trainer.updates
    assert trainer.steps == sum(lengths)
    for theirs, ours, slow in zip(gradients, losses, expected, strict=True):
        th.testing.assert_close(ours.sort()[0], th.stack(slow).sort()[0], rtol=1e-4, atol=1e-5)
        trainer.optimizer.zero_grad()
        th.stack(slow).mean().backward()
        largest = max(gradient.abs().max().item() for gradient in theirs)
        for gradient, parameter in zip(theirs, trainer.parameters, strict=True):
            slow_gradient = th.zeros_like(parameter) if parameter.grad is None else parameter.grad
            th.testing.assert_close(gradient, slow_gradient, rtol=1e-3, atol=1e-5 * max(1.0, largest))


def test_squashed_actions_are_compared_where_the_policy_acts() -> None:
    kwargs = {"model": {"use_sde": True}, "policy_kwargs": {"squash_output": True}}
    trainer = make_bc(ACTION_SPACES[1], lengths=[5, 9], learning_rate=0.0, **kwargs)
    losses = watch_step_losses(trainer)
    trainer.train_batch()
    expected = [loss for chain in slow_chains(trainer, 0.0) for loss in chain]
    th.testing.assert_close(th.cat(losses).sort()[0], th.stack(expected).sort()[0])


def test_other_episodes_do_not_matter() -> None:
    """Neither their contents, bit for bit, nor, to rounding, whether they are there."""

    def losses(lengths: list[int], poisoned: bool = False) -> dict[int, np.ndarray]:
        trainer = make_bc(lengths=LENGTHS, batch_size=len(lengths), learning_rate=0.0)
        made = [episode for episode in trainer.episodes.made if len(episode) in lengths]
        trainer.episodes.made, trainer.episodes.lengths = made, np.array([len(episode) for episode in made])
        trainer.trained = np.arange(len(made))
        if poisoned:
            for episode in made:
                if len(episode) != 14:
                    episode.observations[:] = 1e6 * (-1) ** len(episode)
        seen = watch_step_losses(trainer)
        trainer.train_batch()
        return by_episode(trainer, seen, lengths)

    expected = losses(LENGTHS)
    poisoned = losses(LENGTHS, poisoned=True)
    np.testing.assert_array_equal(poisoned[14], expected[14])
    assert not np.array_equal(poisoned[22], expected[22])
    for lengths in ([14], [22, 14], [3, 14, 1]):
        found = losses(lengths)
        for length in lengths:
            np.testing.assert_allclose(found[length], expected[length], rtol=1e-4, atol=1e-6)


def test_an_epoch_trains_on_every_step_once_in_an_order_of_its_own() -> None:
    trainer = make_bc(n_epochs=2)
    orders = []
    for _ in range(2):
        asked: list[int] = []
        load = trainer.episodes._load
        trainer.episodes._load = lambda index, asked=asked, load=load: (asked.append(index), load(index))[1]
        for _ in range(trainer.batches_per_epoch):
            trainer.train_batch()
        orders.append(asked)
        trainer.episodes._load = load
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(len(LENGTHS)))
    assert orders[0] != orders[1]
    assert trainer.steps == 2 * sum(LENGTHS)
    assert trainer.batches_done == trainer.total_batches == 6


@pytest.mark.parametrize("lengths", [[1], [1, 1, 1], [4], [8, 8], [300, 1]], ids=str)
def test_odd_data_sets_train(lengths: list[int]) -> None:
    """Also a single update is one, with a batch larger than the data set."""
    trainer = make_bc(lengths=lengths, n_epochs=1, batch_size=100)
    before = parameters(trainer)
    trainer.train()
    assert trainer.updates == -(-max(lengths) // 8)
    assert parameters(trainer).isfinite().all()
    assert not th.equal(parameters(trainer), before)


def test_a_learning_rate_of_zero_changes_nothing() -> None:
    trainer = make_bc(learning_rate=0.0, weight_decay=1.0)
    before = parameters(trainer)
    trainer.train()
    assert th.equal(parameters(trainer), before)


def test_cloning_lowers_the_loss() -> None:
    """Where the action is the first observation's sign, which is seen in the first step only."""

    def expert(obs: np.ndarray) -> np.ndarray:
        obs[1:, 0] = 0.0
        return np.full(len(obs), int(obs[0, 0] > 0))

    trainer = make_bc(spaces.Discrete(2), lengths=[7, 9, 11] * 8, expert=expert, n_epochs=25, batch_size=8, bptt_segments=3)
    trainer.train()
    assert trainer.model.logger.name_to_value == {}  # dumped
    steps, loss = trainer.epoch_sums[3:5].tolist()
    assert loss / steps < 0.05
