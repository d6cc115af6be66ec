"""The processes that train one model together, as ``torchrun`` starts them."""

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch as th
from torch import Tensor
from torch import distributed as dist

PATIENCE = timedelta(days=1)  # how long processes wait for each other, such as for the first one's evaluation

T = TypeVar("T")


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

    def pool(self, tensor: Tensor) -> Tensor:
        """:meth:`total`, whose gradient is ``size`` times that of this one's ``tensor``, since gradients will be averaged."""
        return self.total(tensor.detach()) + self.size * (tensor - tensor.detach())

    def from_first(self, make: Callable[[], T]) -> T:
        """What ``make`` returns in the first process, the only one to call it; or the ValueError or OSError that it raises."""
        if self.size == 1:
            return make()
        outcome: list[Any] = [None, None]
        if self.rank == 0:
            try:
                outcome[0] = make()
            except (ValueError, OSError) as error:
                outcome[1] = error
        dist.broadcast_object_list(outcome)
        result, raised = outcome
        if raised is not None:
            raise raised
        return result


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
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Group(0, 1), device
    on_gpu = device.startswith("cuda") or (device == "auto" and th.cuda.is_available())
    if on_gpu:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        th.cuda.set_device(device)
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=PATIENCE)
    return current_group(), device
