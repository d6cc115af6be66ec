"""What two processes do together, in a module that a new process can import, for the tests of behaviour cloning."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch as th
from torch import distributed as dist

from cloning_helpers import MOE, make_bc, parameters, train_until
from helpers import ACTION_SPACES, DICT
from sb3_elmur.bc import shrink_memory
from sb3_elmur.bc.trainer import BC
from sb3_elmur.distributed import Group, join_group

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


SHRINKABLE: dict[str, Any] = {"policy_kwargs": {"memory_size": 2}, "validation": 0.3, "n_epochs": 1, "max_grad_norm": 0.1}


def curve(trainer: BC) -> list[float]:
    """Train, and return the loss of every batch."""
    losses = []
    for batch in range(trainer.total_batches):
        before = th.zeros(()) if batch % trainer.batches_per_epoch == 0 else trainer.epoch_sums
        trainer.train_batch()
        steps, loss = (trainer.epoch_sums - before)[3:5].tolist()
        losses.append(loss / steps)
    return losses


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
    trainer, found = shrink_memory(make_bc(**SHRINKABLE))
    results["shrunk"] = {"losses": found, "parameters": parameters(trainer)}
    th.save(results, folder / f"{rank}.pt")
    del trainer  # if it were the last to hold the group, PyTorch would wait for a thread that waits for Python's lock
    dist.destroy_process_group()
