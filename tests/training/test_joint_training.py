"""Several processes that train one RecurrentPPO, each in environments of its own."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from joint_helpers import EXACT, N_ENVS, N_STEPS, N_UPDATES, in_processes, learn, make_envs, train_in_two, train_randomly
from stable_baselines3.common.running_mean_std import RunningMeanStd

from helpers import make_model, random_envs
from sb3_elmur import RecurrentPPO
from sb3_elmur.distributed import ALONE
from sb3_elmur.saved_statistics import check_statistics
from sb3_elmur.training.joint import SharedMeanStd

pytestmark = pytest.mark.xdist_group("joint")


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two processes came to."""
    return in_processes(2, train_in_two, tmp_path_factory.mktemp("together"))


@pytest.mark.parametrize("name", EXACT)
def test_two_processes_train_as_one_does_with_all_environments(together: list[dict[str, Any]], name: str) -> None:
    first, second = (outcome[name] for outcome in together)
    alone = learn(N_ENVS, **EXACT[name])
    assert th.equal(first["parameters"], second["parameters"])
    assert (alone["parameters"] - alone["begin"]).abs().max() > 1e-3
    th.testing.assert_close(first["parameters"], alone["parameters"], rtol=0, atol=1e-5)
    for left, right in zip(first["statistics"], alone["statistics"], strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-6, atol=1e-6)
    assert first["logged"] == pytest.approx(alone["logged"], rel=1e-3, abs=1e-4)
    for name in ("num_timesteps", "n_updates", "progress"):
        assert first[name] == second[name] == alone[name]


def test_a_divergence_beyond_target_kl_ends_the_update_in_all_processes(together: list[dict[str, Any]]) -> None:
    assert together[0]["target_kl"]["n_updates"] < N_UPDATES * EXACT["target_kl"]["n_epochs"]


def test_processes_whose_rollouts_have_other_numbers_of_minibatches_train_alike(together: list[dict[str, Any]]) -> None:
    first, second = (outcome["other numbers of minibatches"] for outcome in together)
    assert th.equal(first, second)


def test_callbacks_and_logs_are_of_the_first_process_and_what_they_stop_ends_for_all(together: list[dict[str, Any]]) -> None:
    first, second = (outcome["stopped"] for outcome in together)
    assert first["calls"] == 7
    assert second["calls"] == second["dumps"] == 0
    assert first["steps"] == second["steps"] == N_STEPS * N_ENVS


def test_what_a_callback_does_to_the_weights_reaches_all_processes(together: list[dict[str, Any]]) -> None:
    first, second = (outcome["noise"] for outcome in together)
    assert th.equal(first["parameters"], second["parameters"])
    assert (first["log_std"] < -0.1).all()


def test_all_processes_go_on_from_what_the_first_has(together: list[dict[str, Any]]) -> None:
    first, second = (outcome["goes on as the first"] for outcome in together)
    assert th.equal(first["parameters"], second["parameters"])
    assert (first["steps"], first["updates"]) == (second["steps"], second["updates"]) == (96 + N_STEPS * N_ENVS, 6)


def test_other_numbers_of_environments_are_refused(together: list[dict[str, Any]]) -> None:
    for outcome in together:
        assert "`n_envs`" in outcome["other numbers of environments"]
        assert "[2, 3]" in outcome["other numbers of environments"]


def test_a_process_that_has_lost_another_says_so(together: list[dict[str, Any]]) -> None:
    assert "Process 0 of 2 has lost another one" in together[0]["lost"]


def test_statistics_that_processes_share_are_copied_and_saved_as_the_hosts(tmp_path: Path) -> None:
    env: Any = make_envs(2, normalize=True)
    env.reset()
    env.obs_rms, env.ret_rms = (SharedMeanStd(rms, ALONE) for rms in (env.obs_rms, env.ret_rms))
    env.save(str(tmp_path / "statistics.pkl"))
    check_statistics(tmp_path / "statistics.pkl")
    loaded = env.load(str(tmp_path / "statistics.pkl"), make_envs(2))
    for rms in (loaded.obs_rms, copy.deepcopy(env.obs_rms)):
        assert type(rms) is RunningMeanStd
        np.testing.assert_array_equal(rms.mean, env.obs_rms.mean)
        rms.update(np.ones((2, 3)))


@pytest.mark.parametrize("number", [1, 2])
def test_minibatches_that_are_joined_hold_every_step_once(number: int) -> None:
    model = make_model(RecurrentPPO, random_envs(2), n_steps=20).learn(40)
    asked: list[int] = []

    def at_most(most: int) -> int:
        asked.append(most)
        return number

    minibatches = list(model.rollout_buffer.get(8, at_most))
    assert asked[0] > number == len(minibatches)
    returns = th.cat([data.returns for data in minibatches]).sort().values
    th.testing.assert_close(returns, th.as_tensor(model.rollout_buffer.returns).flatten().sort().values)


@pytest.mark.slow
def test_no_two_processes_wait_for_each_other_forever(tmp_path: Path) -> None:
    for first, second in zip(*in_processes(2, train_randomly, tmp_path, limit=3000), strict=True):
        assert th.equal(first, second)
