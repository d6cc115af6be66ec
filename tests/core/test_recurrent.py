"""A memory of one's own: how it is found, and that it trains."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch as th
from torch import Tensor, nn

import helpers
from sb3_elmur import RecurrentPPO
from sb3_elmur.core import ElmurConfig, RecurrentCore
from sb3_elmur.core.config import CORE_NAMES
from sb3_elmur.core.recurrent import State
from sb3_elmur.core.registry import CORES, find_core, make_core


class Leaky(RecurrentCore):
    """A sum that fades."""

    def __init__(self, config: ElmurConfig, decay: float = 0.9) -> None:
        super().__init__(config)
        self.inner, self.decay = nn.Linear(config.d_model, config.d_model), decay

    def initial(self, batch: int) -> State:
        return (self.inner.weight.new_zeros(batch, 3, self.config.d_model),)

    def advance(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        after = self.decay * state[0] + self.inner(x)[:, None].tanh()
        return after.sum(1), (after,)


class NoStep(RecurrentCore):
    """Not complete."""

    def initial(self, batch: int) -> State:
        return (th.zeros(batch, 1),)


PATH = f"{__name__}:Leaky"


def test_names_of_the_configuration_are_those_of_the_registry() -> None:
    assert tuple(CORES) == CORE_NAMES


def test_a_class_and_its_path_are_the_same_core() -> None:
    assert find_core(Leaky) is find_core(PATH) is Leaky


@pytest.mark.parametrize(
    "core", ["os:system", "builtins:dict", f"{__name__}:make_core", f"{__name__}:nothing", dict, "no.module:X"]
)
def test_what_is_no_core_is_refused_and_not_called(core: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "system", lambda *_: pytest.fail("called"))
    with pytest.raises(ValueError, match="`core`"):
        make_core(ElmurConfig(core=core))


def test_a_core_without_a_step_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`core` .*`advance`"):
        find_core(NoStep)


def test_unknown_arguments_of_a_core_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`core_kwargs` .*decay.* Received 'speed'"):
        make_core(ElmurConfig(core=Leaky, core_kwargs={"speed": 1}))


@pytest.mark.parametrize("core", [Leaky, PATH], ids=["class", "path"])
def test_a_core_of_ones_own_trains_and_is_loaded_as_it_was(core: Any, tmp_path: Any) -> None:
    policy_kwargs = {"core": core, "core_kwargs": {"decay": 0.5}}
    model = helpers.make_model(RecurrentPPO, helpers.random_envs(2), policy_kwargs=policy_kwargs, n_epochs=1)
    assert max(helpers.replay_differences(model, rollouts=2)) < 1e-4
    model.save(tmp_path / "model")
    loaded = RecurrentPPO.load(tmp_path / "model")
    assert loaded.policy.backbone.core.decay == 0.5
    for (name, one), other in zip(model.policy.state_dict().items(), loaded.policy.state_dict().values(), strict=True):
        assert th.equal(one, other), name


class Drawn(Leaky):
    """Begins with numbers that were drawn."""

    def __init__(self, config: ElmurConfig) -> None:
        super().__init__(config)
        self.register_buffer("begin", th.randn(3, config.d_model))

    def initial(self, batch: int) -> State:
        return (self.begin.expand(batch, -1, -1),)


def test_after_loading_training_replays_what_the_rollout_began_with(tmp_path: Path) -> None:
    kwargs = {"core": f"{__name__}:Drawn"}
    helpers.make_model(RecurrentPPO, helpers.random_envs(2), policy_kwargs=kwargs).save(tmp_path / "model")
    model = RecurrentPPO.load(tmp_path / "model", env=helpers.random_envs(2), seed=None)
    assert max(helpers.replay_differences(model, rollouts=2)) < 1e-4
