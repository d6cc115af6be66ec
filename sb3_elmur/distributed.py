"""The processes that train one model together, as ``torchrun`` starts them."""

import os
from typing import NamedTuple

import torch as th
from torch import Tensor
from torch import distributed as dist


class Group(NamedTuple):
    """
    The processes of one training run.

    :param rank: Number of this one; 0 logs, evaluates and saves.
    :param size: How many there are.
    """

    rank: int
    size: int

    def total(self, tensor: Tensor) -> Tensor:
        """The sum of every process's ``tensor``."""
        if self.size > 1:
            tensor = tensor.clone()
            dist.all_reduce(tensor)
        return tensor


def current_group() -> Group:
    """The group that was joined, or one of this process alone."""
    if dist.is_available() and dist.is_initialized():
        return Group(dist.get_rank(), dist.get_world_size())
    return Group(0, 1)


def join_group(device: str) -> tuple[Group, str]:
    """
    Join the processes that ``torchrun`` started; without it this is the only one.

    :param device: "auto", "cpu", "cuda" or another torch device; with several GPUs each process takes its own.
    :return: The group, and this process's device.
    """
    if "WORLD_SIZE" not in os.environ or int(os.environ["WORLD_SIZE"]) == 1:
        return Group(0, 1), device
    on_gpu = device.startswith("cuda") or (device == "auto" and th.cuda.is_available())
    dist.init_process_group("nccl" if on_gpu else "gloo")
    if on_gpu:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        th.cuda.set_device(device)
    return current_group(), device
