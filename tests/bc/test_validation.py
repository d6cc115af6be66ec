"""Episodes that are held out, and the choice of a model by the loss on them."""

from pathlib import Path

import numpy as np
import pytest
import torch as th

import sb3_elmur
from cloning_helpers import LENGTHS, MOE, dumped, make_bc, parameters, watch_step_losses
from sb3_elmur.bc.trainer import BEST_MODEL


def test_the_loss_on_held_out_episodes_is_that_of_training_on_them() -> None:
    trainer = make_bc(validation=0.3, learning_rate=0.0)
    alone = make_bc(learning_rate=0.0, batch_size=100)
    alone.trained = trainer.held_out
    losses = watch_step_losses(alone)
    alone.train_batch()
    assert trainer.validate() == pytest.approx(th.cat(losses).mean().item(), rel=1e-5)
    assert len(trainer.held_out) == 3


def test_what_is_held_out_is_not_trained_on() -> None:
    trainer, other = make_bc(validation=0.3), make_bc(validation=0.3)
    assert sorted([*trainer.held_out, *trainer.trained]) == list(range(len(LENGTHS)))
    for index in other.held_out:
        other.episodes.made[index].observations[:] = 1e6
    for each in (trainer, other):
        each.train()
    assert th.equal(parameters(trainer), parameters(other))


def test_validation_changes_nothing_else() -> None:
    """But for what is trained on; the router's load and dropout are as without it."""
    kwargs = {**MOE, "dropout": 0.1}
    watched, plain = make_bc(validation=0.3, policy_kwargs=kwargs), make_bc(policy_kwargs=kwargs)
    plain.trained = watched.trained
    for trainer in (watched, plain):
        trainer.train()
    assert th.equal(parameters(watched), parameters(plain))


def test_the_model_with_the_smallest_loss_is_kept(tmp_path: Path) -> None:
    """Random actions cannot be learnt, so that the loss on other episodes rises soon."""
    trainer = make_bc(validation=0.3, n_epochs=12, evaluate=True, n_eval_episodes=1, learning_rate=3e-2)
    losses = [row["validation/loss"] for row in dumped(trainer, tmp_path)]
    assert np.argmin(losses) < 11
    kept = make_bc(validation=0.3)
    kept.policy.load_state_dict(sb3_elmur.RecurrentPPO.load(tmp_path / BEST_MODEL).policy.state_dict())
    assert kept.validate() == pytest.approx(min(losses), rel=1e-5)


@pytest.mark.parametrize("share", [0.99, 0.6])
def test_an_episode_must_be_left_to_train_on(share: float) -> None:
    with pytest.raises(ValueError, match=f"`validation` .*{share} of 1"):
        make_bc(lengths=[5], validation=share)
