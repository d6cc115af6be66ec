"""Several processes that train one model."""

import multiprocessing
import os
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from torch import distributed as dist
from torch import nn

import sb3_elmur
from cloning_helpers import MOE, make_bc, parameters, train_until
from helpers import ACTION_SPACES, DICT, make_model, random_envs
from sb3_elmur.bc.distributed import Group, join_group
from sb3_elmur.bc.trainer import BC

pytestmark = pytest.mark.xdist_group("together")

TOGETHER: dict[str, dict[str, Any]] = {
    "moe": {"policy_kwargs": MOE, "save_freq": 1, "n_epochs": 2},
    "chosen experts": {"policy_kwargs": {**MOE, "n_routed_experts": 6}, "bptt_segments": 1},
    "box": {"action_space": ACTION_SPACES[1]},
    "last chain of one episode": {"lengths": [30, 5, 3, 2], "policy_kwargs": MOE},
    "batches of one episode": {"batch_size": 1, "lengths": [9, 14, 3], "policy_kwargs": MOE},
    "dict": {"observation_space": DICT, "policy": "ElmurMultiInputPolicy", "lengths": [9, 4, 2], "batch_size": 2},
    "separate": {"policy_kwargs": {"separate_critic": True, "share_features_extractor": False}},
}
for scenario in TOGETHER.values():
    scenario |= {"n_epochs": 1, "max_grad_norm": 0.1} | scenario


def curve(trainer: BC) -> list[float]:
    """Train, and return the loss of every batch."""
    losses = []
    for batch in range(trainer.total_batches):
        before = th.zeros(()) if batch % trainer.batches_per_epoch == 0 else trainer.epoch_sums
        trainer.train_batch()
        steps, loss = (trainer.epoch_sums - before)[3:5].tolist()
        losses.append(loss / steps)
    return losses


def learn_online() -> th.Tensor:
    """Parameters of a mixture of experts after an update from reward."""
    model = make_model(sb3_elmur.RecurrentPPO, random_envs(2), policy_kwargs=MOE)
    return nn.utils.parameters_to_vector(model.learn(32).policy.parameters()).detach()


def train_together(rank: int, size: int, port: int, folder: Path) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), MASTER_ADDR="localhost", MASTER_PORT=str(port))
    th.set_num_threads(1)  # processes share the cores
    group, device = join_group("cpu")
    assert (group, device) == (Group(rank, size), "cpu")
    results = {}
    for name, scenario in TOGETHER.items():
        trainer = make_bc(**scenario)
        losses = curve(trainer)
        results[name] = {"losses": losses, "parameters": parameters(trainer), "sums": trainer.epoch_sums}
    own_folder = folder / f"of rank {rank}"  # as on two machines: the second one's stays empty
    trainer = make_bc(**TOGETHER["moe"])
    train_until(trainer, own_folder, trainer.optimizer, "step", 8)
    trainer = make_bc(**TOGETHER["moe"])
    trainer.train(own_folder)
    results["resumed"] = {"parameters": parameters(trainer)}
    with pytest.raises(ValueError, match="of a run with seed=0"):
        make_bc(**TOGETHER["moe"], model={"seed": 1}).train(own_folder)
    if rank == 0:
        results["online"] = {"parameters": learn_online()}
    th.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two processes found."""
    folder = tmp_path_factory.mktemp("together")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=train_together, args=(rank, 2, port, folder)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(600)
        process.kill()
    assert [process.exitcode for process in processes] == [0, 0]
    return [th.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", TOGETHER)
def test_two_processes_train_as_one(together: list[dict[str, Any]], name: str) -> None:
    trainer = make_bc(**TOGETHER[name])
    start = parameters(trainer)
    losses = curve(trainer)
    first, second = (results[name] for results in together)
    assert th.equal(first["parameters"], second["parameters"])
    assert first["losses"] == second["losses"]
    np.testing.assert_allclose(first["losses"], losses, rtol=0, atol=1e-5)
    moved = (parameters(trainer) - start).norm()
    assert (first["parameters"] - parameters(trainer)).norm() < 1e-3 * moved  # AdamW enlarges gradients that are rounding
    th.testing.assert_close(first["sums"], trainer.epoch_sums, rtol=1e-4, atol=1e-4)


def test_two_processes_resume_from_the_first_ones_checkpoint(together: list[dict[str, Any]]) -> None:
    for results in together:
        assert th.equal(results["resumed"]["parameters"], results["moe"]["parameters"])


def test_one_of_two_processes_trains_online_alone(together: list[dict[str, Any]]) -> None:
    n_threads = th.get_num_threads()
    th.set_num_threads(1)  # as in the processes: the order of a sum depends on it
    try:
        alone = learn_online()
    finally:
        th.set_num_threads(n_threads)
    assert th.equal(together[0]["online"]["parameters"], alone)
