"""The same numbers on a GPU: the stack, both algorithms, behaviour cloning and evaluation."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sb3_contrib
import torch as th

from helpers import SMALL, make_model, random_envs, replay_differences
from sb3_elmur import RecurrentPPO
from sb3_elmur.bc.config import BCConfig
from sb3_elmur.bc.trainer import BC
from sb3_elmur.core.base import MemoryCore
from sb3_elmur.core.config import ElmurConfig
from sb3_elmur.core.registry import make_core
from sb3_elmur.datasets.episodes import NpzEpisodes
from sb3_elmur.envs import TMazeVecEnv
from sb3_elmur.evaluation import Corridors, run_episodes
from sb3_elmur.recording import record

pytestmark = pytest.mark.skipif(not th.cuda.is_available(), reason="there is no CUDA device")


@pytest.fixture(autouse=True)
def _full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recurrent cells of cuDNN compute in TF32 unless told otherwise."""
    monkeypatch.setattr(th.backends.cudnn, "allow_tf32", False)


CONFIGS: list[dict[str, Any]] = [
    {},
    {"blend": "gated"},
    {"memory_size": 40},
    {"ffn": "moe", "n_routed_experts": 8, "top_k": 3},
    {"norm_first": True, "norm": "rms", "ffn": "gelu"},
    {"memory_size": 0},
    {"core": "gru"},
    {"core": "lstm"},
    {"core": "mingru"},
    {"core": "ffm"},
    {"core": "shm", "core_kwargs": {"matrix_size": 4}},
    {"core": "gtrxl", "core_kwargs": {"window": 6}},
]


def run_chains(core: MemoryCore, x: th.Tensor, lengths: th.Tensor) -> tuple[th.Tensor, list[th.Tensor]]:
    """Outputs of a pass over chains, and the gradients of its parameters."""
    y, _ = core.replay(x.to(core.initial_slots.device), core.initial_memory(len(lengths)), lengths)
    y.square().mean().backward()
    return y.detach().cpu(), [p.grad.cpu() for p in core.parameters() if p.grad is not None]


@pytest.mark.parametrize("changes", CONFIGS, ids=str)
def test_gpu_and_cpu_agree_forward_and_backward(changes: dict[str, Any]) -> None:
    th.manual_seed(0)
    core = make_core(ElmurConfig(**(SMALL | changes)))
    lengths = th.tensor([12, 11, 9, 4, 2])
    x = th.randn(int(lengths.sum()), 8)
    on_cpu = run_chains(core, x, lengths)
    core.zero_grad()
    on_gpu = run_chains(core.cuda(), x, lengths)
    th.testing.assert_close(on_gpu, on_cpu, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("changes", CONFIGS, ids=str)
def test_steps_equal_segments_on_a_gpu(changes: dict[str, Any]) -> None:
    th.manual_seed(0)
    core = make_core(ElmurConfig(**(SMALL | changes))).cuda().eval()
    x = th.randn(3, 12, 8, device="cuda")
    state, never = core.initial_state(3), th.zeros(3, dtype=th.bool, device="cuda")
    steps = []
    with th.no_grad():
        for token in x.unbind(1):
            y, state = core.step(token, state, never)
            steps.append(y)
        segments = x.unflatten(1, (3, 4)).transpose(0, 1).flatten(0, 2)  # segment-major
        whole, _ = core.replay(segments, core.initial_memory(3), th.full((3,), 12))
    whole = whole.unflatten(0, (3, 3, 4)).transpose(0, 1).flatten(1, 2)
    th.testing.assert_close(th.stack(steps, 1), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("algorithm", [RecurrentPPO, sb3_contrib.RecurrentPPO])
def test_training_on_a_gpu_replays_what_the_rollout_saw(algorithm: type[sb3_contrib.RecurrentPPO]) -> None:
    model = make_model(algorithm, random_envs(3), n_steps=17, n_epochs=1, device="cuda")
    assert max(replay_differences(model, rollouts=3)) < 1e-4


def test_a_model_trained_on_a_gpu_acts_alike_on_the_cpu(tmp_path: Path) -> None:
    env = random_envs(3)
    make_model(RecurrentPPO, env, device="cuda").learn(96).save(tmp_path / "model")
    models = [RecurrentPPO.load(tmp_path / "model", device=device) for device in ("cuda", "cpu")]
    obs, states = env.reset(), [None, None]
    for step in range(10):
        pairs = zip(models, states, strict=True)
        starts = np.full(3, step == 0)
        actions, states = zip(*(m.predict(obs, s, starts, deterministic=True) for m, s in pairs), strict=True)
        np.testing.assert_array_equal(*actions)
        np.testing.assert_allclose(states[0][0], states[1][0], rtol=1e-4, atol=1e-5)
        obs, *_ = env.step(actions[0])


@pytest.mark.parametrize("mixed_precision", [False, True])
@pytest.mark.parametrize("blend", ["fixed", "gated"])
def test_cloning_on_a_gpu_learns_the_turn(mixed_precision: bool, blend: str, tmp_path: Path) -> None:
    record("TMazePassive10-v0", "oracle", tmp_path / "data", 64, env_kwargs={"corridor_length": (1, 8)})
    env = TMazeVecEnv(20, length=10)
    kwargs = SMALL | {"d_model": 32, "blend": blend, "ortho_init": False}
    model = RecurrentPPO("ElmurPolicy", env, policy_kwargs=kwargs, seed=0, device="cuda")
    config = BCConfig(n_epochs=60, batch_size=16, learning_rate=3e-3, mixed_precision=mixed_precision)
    BC(model, NpzEpisodes(tmp_path / "data", env.observation_space, env.action_space), config).train()
    model.policy.set_training_mode(False)
    assert np.mean([episode["is_success"] for episode in run_episodes(model.policy, env, 1)]) >= 0.9
    corridors = Corridors(model.policy, [10, 30], 20, 1)
    assert corridors.finish()[10].mean() >= 0.9
