"""What looks into the memory during behaviour cloning: it changes nothing, and measures real segments."""

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.logger import Logger

from cloning_helpers import LENGTHS, make_bc
from helpers import DICT, VECTOR, Kept
from sb3_elmur.bc.callback import CloningMemoryCallback, sample_segments


def train(callback: CloningMemoryCallback | None, **arguments: Any) -> Any:
    trainer = make_bc(**arguments)
    trainer.on_epoch = callback
    kept = Kept()
    trainer.model.set_logger(Logger(None, [kept]))
    trainer.train()
    return trainer, kept.dumps


def test_recording_changes_nothing() -> None:
    (plain, _), (watched, dumps) = (
        train(callback, policy_kwargs={"dropout": 0.1}) for callback in (None, CloningMemoryCallback())
    )
    for expected, found in zip(plain.policy.parameters(), watched.policy.parameters(), strict=True):
        assert th.equal(expected, found)
    assert watched.policy.training == plain.policy.training
    for dump in dumps:
        assert {"memory/occupancy", "memory/read_entropy", "memory/write_grad_share", "train/loss"} <= set(dump)


@pytest.mark.parametrize(("space", "policy"), [(VECTOR, "ElmurPolicy"), (DICT, "ElmurMultiInputPolicy")])
def test_segments_are_of_the_episodes_with_the_memory_before_them(space: spaces.Space, policy: str) -> None:
    trainer = make_bc(observation_space=space, policy=policy)
    obs, memory, lengths = sample_segments(trainer)
    assert (lengths > 0).all()
    assert (memory.position % 4 == 0).all()
    vectors = (obs["vector"] if isinstance(obs, dict) else obs).unflatten(0, (len(lengths), -1))
    for i, (begin, length) in enumerate(zip(memory.position.tolist(), lengths.tolist(), strict=True)):
        episode: Any = trainer.episodes[i].observations
        episode = episode["vector"] if isinstance(episode, dict) else episode
        assert np.array_equal(vectors[i, :length], episode[begin : begin + length])
        assert begin + length <= LENGTHS[i]


def test_memory_is_that_of_the_steps_before() -> None:
    trainer = make_bc()
    _, memory, _ = sample_segments(trainer)
    row = int(memory.position.argmax())
    n_steps = memory.position[row : row + 1]
    assert n_steps > 4
    earlier = th.as_tensor(trainer.episodes[row].observations[: int(n_steps)])  # type: ignore[index]
    with th.no_grad():
        _, expected = trainer.policy.replay(earlier, trainer.policy.initial_memories(1).pi, n_steps, need_memory=True)
    th.testing.assert_close(memory.slots[row], expected.slots[0])
    assert th.equal(memory.anchors[row], expected.anchors[0])
