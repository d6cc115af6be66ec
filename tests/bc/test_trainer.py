"""One update: learning rate, clipping, weight decay, load balancing; and what is logged."""

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from cloning_helpers import LENGTHS, MOE, MadeEpisodes, dumped, make_bc, watch_gradients, watch_step_losses
from helpers import ACTION_SPACES
from sb3_elmur.bc.config import BCConfig
from sb3_elmur.bc.trainer import BC


def test_learning_rate_warms_up_linearly_and_decays_as_a_cosine() -> None:
    trainer = make_bc(n_epochs=100, warmup=0.25)  # 300 batches
    rates = []
    for batch in range(trainer.total_batches):
        trainer.batches_done = batch
        rates.append(trainer._learning_rate())
    np.testing.assert_allclose(np.diff(rates[:75]), 1e-2 / 75)
    decay = np.array(rates[75:])
    np.testing.assert_allclose(decay + decay[::-1], 1e-2)
    assert (np.diff(decay) < 0).all()
    assert decay[0] == pytest.approx(1e-2, rel=1e-3)
    assert 0 < decay[-1] < 1e-5 > rates[0] - 1e-4
    trainer.train_batch()
    assert trainer.optimizer.param_groups[0]["lr"] == rates[-1]


def test_gradients_are_clipped_to_their_norm() -> None:
    free, clipped = make_bc(max_grad_norm=1e9), make_bc(max_grad_norm=0.01)
    seen = [watch_gradients(free), watch_gradients(clipped)]
    for trainer in (free, clipped):
        trainer.train_batch()
    whole, short = (th.cat([gradient.flatten() for gradient in gradients[0]]) for gradients in seen)
    assert whole.norm() > 0.1
    th.testing.assert_close(short, whole * 0.01 / whole.norm())
    assert free.epoch_sums[1] > 0.1  # what is logged is the norm before
    assert clipped.epoch_sums[1] > 0.1


def test_weight_decay_shrinks_what_is_trained() -> None:
    def trained(weight_decay: float) -> BC:
        trainer = make_bc(lengths=[8], n_epochs=1, weight_decay=weight_decay)
        trainer.train_batch()
        return trainer

    start, plain, decayed = make_bc(), trained(0.0), trained(2.0)
    rate = plain.optimizer.param_groups[0]["lr"]
    for a, b, c in zip(start.parameters, plain.parameters, decayed.parameters, strict=True):
        th.testing.assert_close(c, b - 2.0 * rate * a)
    assert th.equal(decayed.policy.value_net.weight, start.policy.value_net.weight)


def test_one_segment_per_chain_detaches_memory() -> None:
    write = "write.key_value"

    def gradient(bptt_segments: int) -> float:
        trainer = make_bc(bptt_segments=bptt_segments)
        seen = watch_gradients(trainer)
        trainer.train_batch()
        names = [name for name, p in trainer.policy.named_parameters() if any(p is q for q in trainer.parameters)]
        return max(g.abs().max().item() for g, name in zip(seen[0], names, strict=True) if write in name)

    assert gradient(1) == 0.0
    assert gradient(2) > 0.0


def test_load_balancing_reaches_the_gradient_and_the_log() -> None:
    def gradient(coefficient: float) -> th.Tensor:
        trainer = make_bc(policy_kwargs={**MOE, "aux_loss_coef": coefficient}, max_grad_norm=1e9)
        seen = watch_gradients(trainer)
        trainer.train_batch()
        return th.cat([gradient.flatten() for gradient in seen[0]])

    without, single, double = gradient(0.0), gradient(0.5), gradient(1.0)
    assert (single - without).abs().max() > 1e-4
    th.testing.assert_close(double - without, 2 * (single - without), rtol=1e-3, atol=1e-6)
    trainer = make_bc(policy_kwargs=MOE, n_epochs=1)
    logged = dumped(trainer)
    assert 0.9 < logged[0]["train/aux_loss"] < 3.0  # between balance and one expert for all (E / k = 3)
    assert "train/aux_loss" not in dumped(make_bc(n_epochs=1))[0]


def test_the_log_tells_the_means_over_an_epochs_steps() -> None:
    trainer = make_bc(learning_rate=0.0, n_epochs=2, batch_size=100, evaluate=True, eval_freq=2)
    losses = watch_step_losses(trainer)
    first, second = dumped(trainer)
    n_updates = 3  # chains of 8 steps
    assert first["train/loss"] == pytest.approx(th.cat(losses[:n_updates]).mean().item())
    assert second["train/loss"] == pytest.approx(first["train/loss"])
    assert first["step"] == n_updates
    assert second["step"] == 2 * n_updates
    assert second["time/steps"] == 2 * sum(LENGTHS)
    assert 0.0 <= first["train/accuracy"] <= 1.0
    assert "eval/mean_reward" not in first
    assert second["eval/mean_ep_length"] >= 1


def test_accuracy_and_squared_error_are_those_of_predict() -> None:
    for space in ACTION_SPACES:
        trainer = make_bc(space, lengths=[9, 3, 6], learning_rate=0.0, n_epochs=1)
        (row,) = dumped(trainer)
        right, errors = [], []
        for episode in trainer.episodes.made:
            state = None
            for t in range(len(episode)):
                action, state = trainer.model.predict(episode.observations[t], state, deterministic=True)
                right.append(np.all(action == episode.actions[t]))
                errors.append(np.square(action - episode.actions[t]).mean())
        if isinstance(space, spaces.Box):
            assert row["train/squared_error"] == pytest.approx(np.mean(errors), rel=1e-4)
        else:
            assert row["train/accuracy"] == pytest.approx(np.mean(right), rel=1e-6)
            assert 0 < np.mean(right) < 1


@pytest.mark.parametrize("policy_kwargs", [{}, MOE, {"blend": "gated"}, {"blend": "learned"}], ids=str)
def test_mixed_precision_is_close(policy_kwargs: dict) -> None:
    rows = []
    for mixed in (False, True):
        trainer = make_bc(mixed_precision=mixed, n_epochs=3, learning_rate=1e-3, policy_kwargs=policy_kwargs)
        rows.append([row["train/loss"] for row in dumped(trainer)])
        assert all(parameter.dtype == th.float32 for parameter in trainer.policy.parameters())
    assert rows[0] != rows[1]
    np.testing.assert_allclose(rows[1], rows[0], rtol=1e-2)


SHIFTED = [spaces.Discrete(3, start=1), spaces.MultiDiscrete([2, 3], start=[0, -5])]


@pytest.mark.parametrize("space", SHIFTED, ids=str)
def test_actions_of_a_space_that_does_not_begin_at_0_are_cloned(space: Any) -> None:
    action = np.asarray(space.start) + 1

    def expert(observations: np.ndarray) -> np.ndarray:
        return np.broadcast_to(action, (len(observations), *space.shape))

    trainer = make_bc(space, expert=expert, n_epochs=20, learning_rate=1e-2)
    trainer.train()
    played, _ = trainer.model.predict(np.zeros(3, np.float32), deterministic=True)
    assert played.tolist() == action.tolist()


def test_a_config_is_checked() -> None:
    for name, value in {
        "n_epochs": 0,
        "batch_size": 1.5,
        "warmup": 1.0,
        "learning_rate": "1e-3",
        "weight_decay": 10**400,
        "mixed_precision": 1,
    }.items():
        with pytest.raises(ValueError, match=rf"`{name}` must be .*\. Received {value!r}\."):
            BCConfig(**{name: value})


@pytest.mark.parametrize(
    ("observation_space", "action_space", "message"),
    [
        (spaces.Box(-1, 1, (3,)), spaces.Discrete(4), "the action space of the policy"),
        (spaces.Box(-1, 1, (3,)), spaces.Discrete(3, start=2), "the action space of the policy"),
        (spaces.Box(0, 255, (3,), np.uint8), spaces.Discrete(3), "observations of the policy"),
        (spaces.Box(-1, 1, (4,)), spaces.Discrete(3), "observations of the policy"),
    ],
    ids=str,
)
def test_a_data_set_of_other_spaces_is_refused(
    observation_space: spaces.Space, action_space: spaces.Space, message: str
) -> None:
    model = make_bc().model
    episodes = MadeEpisodes(observation_space, action_space, [4, 5])
    with pytest.raises(ValueError, match=rf"`episodes` must have {message}, .*Received"):
        BC(model, episodes)
