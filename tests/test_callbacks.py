"""Callbacks: they change nothing, log everything, and find what fails."""

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sb3_contrib
import torch as th
from gymnasium import spaces
from stable_baselines3.common.logger import Logger, configure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import sb3_elmur
from helpers import DICT, IMAGE, SMALL, Kept, make_model, random_envs
from sb3_elmur import MemoryCallback
from sb3_elmur.core.memory import Memory
from sb3_elmur.envs import TMazeVecEnv
from sb3_elmur.monitoring.failure_signs import PATIENCE
from sb3_elmur.monitoring.monitor import MemoryMonitor

CLASSES = [sb3_elmur.RecurrentPPO, sb3_contrib.RecurrentPPO]


def learn(cls: type, callback: MemoryCallback | None, rollouts: int = 2, env: Any = None, **arguments: Any) -> Any:
    """A model trained for some rollouts of 16 steps, with ``model.kept.dumps``."""
    model = make_model(cls, env or random_envs(3), **{"n_epochs": 1} | arguments)
    model.kept = Kept()
    model.set_logger(Logger(None, [model.kept]))
    model.learn(rollouts * model.n_steps * model.n_envs, callback=callback)
    return model


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("arguments", [{}, {"policy_kwargs": {"ffn": "moe", "dropout": 0.1}}], ids=str)
def test_recording_changes_nothing(cls: type, arguments: dict[str, Any]) -> None:
    plain, watched = (learn(cls, callback, **arguments) for callback in (None, MemoryCallback(interval=1)))
    for expected, found in zip(plain.policy.parameters(), watched.policy.parameters(), strict=True):
        assert th.equal(expected, found)
    assert np.array_equal(plain.rollout_buffer.actions, watched.rollout_buffer.actions)
    assert np.array_equal(plain._last_obs, watched._last_obs)
    assert any("memory/occupancy" in dump for dump in watched.kept.dumps)


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize(("n_envs", "n_steps"), [(3, 32), (12, 16), (1, 5), (3, 2)])
def test_what_is_measured_is_what_the_rollout_saw(
    cls: type, n_envs: int, n_steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values of the measured segments are those of the rollout, so that memory and observations fit together."""
    measured = []

    def compare(monitor: Any, obs: th.Tensor, memory: Memory, lengths: th.Tensor) -> None:
        rows = obs.unflatten(0, (len(lengths), -1))
        for i, length in enumerate(lengths.tolist()):
            if not length:
                continue
            with th.no_grad():
                latent, _ = monitor.policy.replay(rows[i, :length], memory.rows(th.tensor([i])), lengths[i : i + 1])
                values = monitor.policy.value_net(latent).flatten()
            seen = th.as_tensor(model.rollout_buffer.observations)
            ((time, env),) = (seen == rows[i, 0]).all(-1).nonzero().tolist()
            th.testing.assert_close(values, th.as_tensor(model.rollout_buffer.values)[time : time + length, env])
            measured.append(length)

    monkeypatch.setattr(MemoryMonitor, "observe", compare)
    monkeypatch.setattr(cls, "train", lambda self: None)
    model = make_model(cls, random_envs(n_envs, mean_length=9.0), n_steps=n_steps, batch_size=n_steps)
    model.learn(3 * n_steps * n_envs, callback=MemoryCallback(interval=1))
    assert sum(measured) > 2 * min(n_envs * n_steps, 32) / 2
    assert max(measured) == min(SMALL["segment_length"], n_steps)


@pytest.mark.parametrize(("policy", "space"), [("ElmurCnnPolicy", IMAGE), ("ElmurMultiInputPolicy", DICT)])
def test_images_and_dicts_are_measured(policy: str, space: spaces.Space) -> None:
    model = learn(sb3_elmur.RecurrentPPO, MemoryCallback(), 2, random_envs(2, space), policy=policy)
    assert "memory/occupancy" in model.kept.dumps[0]


def test_measurements_come_at_their_interval() -> None:
    model = learn(sb3_elmur.RecurrentPPO, MemoryCallback(interval=100), 6)  # 48 steps a rollout
    measured = ["memory/occupancy" in dump for dump in model.kept.dumps]
    assert measured == [True, False, False, True, False, False]
    gradients = ["memory/write_grad_norm" in dump for dump in model.kept.dumps]
    assert gradients == [False, True, False, False, True, False]


def test_every_key_is_explained() -> None:
    """In the glossary, and the glossary explains nothing else."""
    logged = set()
    for kwargs in ({"ffn": "moe"}, {"blend": "gated"}):
        model = learn(sb3_elmur.RecurrentPPO, MemoryCallback(interval=1), policy_kwargs=kwargs)
        logged |= {key for dump in model.kept.dumps for key in dump if key.startswith("memory/")}
    glossary = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text()
    explained = set(re.findall(r"^\| `(memory/\w+)` \|", glossary, flags=re.MULTILINE))
    numbered = re.compile(r"(?<=slot|.age|ayer)\d+$")
    panels = {key for key in explained if "panel" in key}
    assert {numbered.sub("0", key) for key in logged} == explained - panels


def test_panels_go_to_tensorboard_alone(tmp_path: Path) -> None:
    model = make_model(sb3_elmur.RecurrentPPO, random_envs(3))
    model.set_logger(configure(str(tmp_path), ["csv", "json", "log", "tensorboard"]))
    model.learn(3 * 48, callback=MemoryCallback(interval=1, panels_every=2))
    model.logger.close()
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0, "histograms": 0}).Reload()
    assert len(events.Images("memory/panel_attention")) == 2
    assert len(events.Histograms("memory/panel_slot_norms")) == 2
    assert "panel_" not in "".join((tmp_path / name).read_text() for name in ("progress.csv", "progress.json", "log.txt"))


def test_a_deliberately_collapsed_agent_is_warned_of() -> None:
    """Sigma is tiny, and no gradient reaches memory."""
    env = TMazeVecEnv(8, length=30, seed=0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        learn(
            sb3_elmur.RecurrentPPO, MemoryCallback(interval=1), PATIENCE + 3, env, n_steps=32, batch_size=256,
            bptt_segments=1, policy_kwargs={"memory_init_std": 1e-6, "d_model": 16},
        )  # fmt: skip
    messages = [str(each.message) for each in caught if "Memory:" in str(each.message)]
    assert sum("dead write path" in message for message in messages) == 1
    assert sum("cannot be told apart" in message for message in messages) == 1


@pytest.mark.parametrize("trust_region", [None, 0.1])
@pytest.mark.parametrize(("learning_rate", "too_far"), [(0.3, True), (1e-4, False)])
def test_the_size_of_updates_is_measured(trust_region: float | None, learning_rate: float, too_far: bool) -> None:
    callback, env = MemoryCallback(interval=1), random_envs(4)
    model = learn(sb3_elmur.RecurrentPPO, callback, 2, env, learning_rate=learning_rate, trust_region=trust_region)
    (size,) = [dump["memory/update_size"] for dump in model.kept.dumps if "memory/update_size" in dump]
    assert (size > 1) is too_far


def test_a_callback_serves_several_trainings() -> None:
    callback = MemoryCallback(interval=1)
    learn(sb3_elmur.RecurrentPPO, callback)
    assert "memory/update_size" in set().union(*learn(sb3_elmur.RecurrentPPO, callback).kept.dumps)


def test_a_healthy_agent_is_not_warned_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learn(
            sb3_elmur.RecurrentPPO, MemoryCallback(interval=1), PATIENCE + 2, random_envs(4), policy_kwargs={"blend": "gated"}
        )


def test_rl_zoo_makes_one_from_yaml() -> None:
    utils = pytest.importorskip("rl_zoo3.utils", reason="needs rl_zoo3")
    (callback,) = utils.get_callback_list({"callback": [{"sb3_elmur.MemoryCallback": {"interval": 1000}}]})
    assert isinstance(callback, MemoryCallback)
    assert callback.interval == 1000


@pytest.mark.parametrize("policy_kwargs", [{"core": "gru"}, {"memory_size": 0}], ids=str)
def test_a_policy_without_memory_is_refused(policy_kwargs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="`policy`"):
        learn(sb3_elmur.RecurrentPPO, MemoryCallback(), policy_kwargs=policy_kwargs)


@pytest.mark.parametrize("arguments", [{"interval": 0}, {"panels_every": -1}, {"interval": 1.5}], ids=str)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(arguments))}`"):
        MemoryCallback(**arguments)
