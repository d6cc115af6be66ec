"""The number of slots that a task needs: which one is found, at what cost, and what an interruption changes."""

from pathlib import Path
from typing import Any

import pytest
import torch as th

import sb3_elmur
from cloning_helpers import DROPOUT, MadeEpisodes, equal, make_bc, parameters
from helpers import ACTION_SPACES
from sb3_elmur.bc import BC, shrink_memory, shrinking
from sb3_elmur.bc.callback import CloningMemoryCallback
from sb3_elmur.datasets import Episode


def shrinkable(memory_size: int = 4, **arguments: Any) -> BC:
    policy_kwargs = {"memory_size": memory_size} | arguments.pop("policy_kwargs", {})
    return make_bc(policy_kwargs=policy_kwargs, **{"validation": 0.3, "n_epochs": 4} | arguments)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Losses of a task that needs so many slots, in place of training; and the trainers that were asked to train."""
    task: dict[str, Any] = {"needed": 1, "noise": 0.0, "trained": []}

    def loss(trainer: BC, remember: bool = True) -> float:
        slots = trainer.policy.config.memory_size
        forgotten = max(0, task["needed"] - slots) if remember else task["needed"]
        return 0.1 + forgotten / task["needed"] + task["noise"] * (slots % 3 - 1)

    monkeypatch.setattr(shrinking, "held_out_loss", loss)
    monkeypatch.setattr(BC, "train", lambda trainer, *_: task["trained"].append(trainer))
    return task


@pytest.mark.parametrize("memory_size", [2, 5, 16])
@pytest.mark.parametrize("noise", [0.0, 5e-3, -5e-3])
def test_fewer_than_half_of_the_slots_found_are_too_few(told: dict[str, Any], memory_size: int, noise: float) -> None:
    for needed in range(1, memory_size + 1):
        told["needed"], told["noise"] = needed, noise
        trainer, losses = shrink_memory(shrinkable(memory_size))
        slots = trainer.policy.config.memory_size
        assert needed <= slots < 2 * needed
        assert {memory_size, slots} <= losses.keys()


def test_a_memory_that_is_used_raises_no_warning(told: dict[str, Any], recwarn: pytest.WarningsRecorder) -> None:
    told["needed"] = 4
    shrink_memory(shrinkable(4))
    assert not [warning for warning in recwarn if "`trainer`" in str(warning.message)]


@pytest.mark.parametrize("memory_size", [2, 5, 16])
def test_all_trainings_take_no_more_epochs_than_the_first(told: dict[str, Any], memory_size: int) -> None:
    for needed in (1, 2):
        told["needed"], told["trained"] = needed, []
        shrink_memory(shrinkable(memory_size, n_epochs=10))
        assert 0 < sum(trainer.config.n_epochs for trainer in told["trained"]) <= 10


def test_the_first_training_that_fails_is_continued_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 4 slots the first training fails by chance; with 2 every one does."""
    losses = iter([0.1, 0.5, 0.1, 0.5, 0.5])
    monkeypatch.setattr(shrinking, "held_out_loss", lambda trainer, remember=True: next(losses) if remember else 1.0)
    trained: list[BC] = []
    monkeypatch.setattr(BC, "train", lambda trainer, *_: trained.append(trainer))
    trainer, found = shrink_memory(shrinkable(8, n_epochs=8))
    assert [each.policy.config.memory_size for each in trained] == [4, 4, 2]
    assert trainer is trained[1]
    assert found == {8: 0.1, 4: 0.1, 2: 0.5}


def test_slots_that_nothing_needs_are_given_up_with_a_warning() -> None:
    """Actions are always the same, so that no memory helps."""
    trainer = shrinkable(expert=lambda observations: (observations[:, 0] * 0).astype(int), learning_rate=3e-2)
    trainer.train()
    with pytest.warns(UserWarning, match="`trainer` .* 4 slots"):
        shrunk, losses = shrink_memory(trainer)
    assert list(losses) == [4, 2, 1]
    assert shrunk.policy.config.memory_size == shrunk.model.policy_kwargs["memory_size"] == 1


def test_the_trainer_that_is_shrunk_stays_as_it_is() -> None:
    trainer = shrinkable()
    trainer.train()
    before, state = parameters(trainer), trainer._state()
    shrunk, _ = shrink_memory(trainer)
    assert th.equal(parameters(trainer), before)
    assert equal(trainer._state(), state)
    assert trainer.policy.config.memory_size == 4
    assert not th.equal(parameters(shrunk), before)


def test_a_memory_that_is_emptied_is_that_of_each_segment_alone() -> None:
    trainer = shrinkable()
    pieces = [
        Episode(*(values[begin : begin + 4] for values in (episode.observations, episode.actions, episode.rewards)))
        for episode in (trainer.episodes[int(i)] for i in trainer.held_out)
        for begin in range(0, len(episode), 4)
    ]
    alone = make_bc(policy_kwargs={"memory_size": 4}, validation=0.3)
    assert isinstance(alone.episodes, MadeEpisodes)
    alone.episodes.made = pieces
    alone.episodes.lengths = th.tensor([len(piece) for piece in pieces]).numpy()
    alone.held_out = th.arange(len(pieces)).numpy()
    th.testing.assert_close(trainer.held_out_sums(remember=False), alone.held_out_sums())
    assert not th.allclose(trainer.held_out_sums(remember=False), trainer.held_out_sums())


def test_an_interrupted_halving_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    def trained(folder: Path) -> BC:
        trainer = shrinkable(action_space=ACTION_SPACES[1], policy_kwargs=DROPOUT, n_epochs=5, save_freq=1)
        trainer.train(folder)
        return trainer

    whole, losses = shrink_memory(trained(tmp_path / "whole"), tmp_path / "whole")
    killed = trained(tmp_path / "killed")
    train_batch, calls = BC.train_batch, []

    def dying(trainer: BC) -> None:
        calls.append(trainer)
        if len(calls) == 4:
            raise KeyboardInterrupt
        train_batch(trainer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BC, "train_batch", dying)
        with pytest.raises(KeyboardInterrupt):
            shrink_memory(killed, tmp_path / "killed")
    resumed, again = shrink_memory(trained(tmp_path / "killed"), tmp_path / "killed")
    assert again == losses
    assert equal(resumed._state(), whole._state())


def test_the_callback_looks_into_the_smaller_memory() -> None:
    trainer, looked = shrinkable(), []

    class Callback(CloningMemoryCallback):
        def __call__(self, trainer: BC) -> None:
            super().__call__(trainer)
            assert self._monitor is not None
            looked.append(self._monitor.core.config.memory_size)

    trainer.on_epoch = Callback()
    trainer.train()
    _, losses = shrink_memory(trainer)
    assert list(dict.fromkeys(looked)) == list(losses)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"validation": 0.0}, r"`validation` .* Received 0\."),
        ({"memory_size": 1}, "`policy` .* memory_size=1"),
        ({"policy_kwargs": {"core": "gru"}}, "`policy` .* core='gru'"),
    ],
)
def test_what_cannot_be_shrunk_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        shrink_memory(shrinkable(**arguments))


def test_a_shrunk_model_is_saved_with_its_slots(tmp_path: Path) -> None:
    trainer, _ = shrink_memory(shrinkable())
    trainer.save(tmp_path / "model")
    assert sb3_elmur.RecurrentPPO.load(tmp_path / "model").policy.config == trainer.policy.config
