"""The processes that train one model together, as ``torchrun`` starts them."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch as th
from torch import Tensor, nn
from torch import distributed as dist

PATIENCE = timedelta(days=1)  # how long processes wait for each other, such as for the first one's evaluation
SIGNS = ("gloo", "NCCL", "TCPStore")  # in messages of PyTorch when a process is gone

T = TypeVar("T")


class LostProcessError(ConnectionError):
    """Another process of the group has ended, so that this one cannot go on."""


class Group(NamedTuple):
    """
    The processes of one training run. Each calls the same methods in the same order.

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

    def gather(self, numbers: Any) -> np.ndarray:
        """
        Collect numbers of all processes.

        :param numbers: This one's, an array or what becomes one, of the same shape in all.
        :return: (size, ...) float64, in the order of ranks.
        """
        own = np.asarray(numbers, np.float64)
        numbers_of_all = th.zeros(self.size, *own.shape, dtype=th.float64)
        numbers_of_all[self.rank] = th.as_tensor(own)
        return self.total(numbers_of_all).numpy()

    def mean(self, number: float) -> float:
        """The mean of every process's ``number``, the same bits in all of them."""
        return float(self.gather(number).mean()) if self.size > 1 else number

    def join(self, tensor: Tensor, sizes: list[int]) -> Tensor:
        """
        Lay the columns of all processes side by side.

        The gradient of the whole, which all compute alike, is that of this one's columns times ``size``, since gradients
        will be averaged.

        :param tensor: This one's, (..., ``sizes[rank]``).
        :param sizes: Columns of each process.
        :return: (..., sum of ``sizes``), in the order of ranks.
        """
        return _Join.apply(tensor, self, sizes)

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

    @th.no_grad()
    def copy_first(self, module: nn.Module) -> None:
        """
        Give a module the weights and buffers that it has in the first process, and train the same of them.

        :param module: Of the same shapes in all processes.
        """
        if self.size == 1:
            return
        parameters = list(module.parameters())
        trained = self.gather([parameter.requires_grad for parameter in parameters])[0]
        for parameter, flag in zip(parameters, trained, strict=True):
            parameter.requires_grad_(bool(flag))
        weights = nn.utils.parameters_to_vector(parameters)
        dist.broadcast(weights, 0)
        for parameter, new in zip(parameters, weights.split([p.numel() for p in parameters]), strict=True):
            parameter.copy_(new.view_as(parameter))
        for buffer in module.buffers():
            dist.broadcast(buffer, 0)


class _Join(th.autograd.Function):
    """See :meth:`Group.join`."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: Group, sizes: list[int]) -> Tensor:
        begin = sum(sizes[: group.rank])
        ctx.own, ctx.size = slice(begin, begin + sizes[group.rank]), group.size
        whole = tensor.new_zeros(*tensor.shape[:-1], sum(sizes))
        whole[..., ctx.own] = tensor
        dist.all_reduce(whole)
        return whole

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        return grad_outputs[0][..., ctx.own] * ctx.size, None, None


ALONE = Group(0, 1)


def current_group() -> Group:
    """The group that was joined, or one of this process alone."""
    if dist.is_available() and dist.is_initialized():
        return Group(dist.get_rank(), dist.get_world_size())
    return ALONE


def join_group(device: str) -> tuple[Group, str]:
    """
    Join the processes that ``torchrun`` started; without it this is the only one.

    :param device: "auto", "cpu", "cuda" or another torch device; with several GPUs each process takes its own.
    :return: The group, and this process's device.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ALONE, device
    on_gpu = device.startswith("cuda") or (device == "auto" and th.cuda.is_available())
    if on_gpu:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        th.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=PATIENCE)
    return current_group(), device


@contextmanager
def joined_group(device: str) -> Iterator[tuple[Group, str]]:
    """
    :func:`join_group`, and leave the group in the end.

    A group of which a process is lost is not left: that could wait for ever.

    :param device: See :func:`join_group`.
    :return: The group, and this process's device.
    :raises LostProcessError: If another process ends before this one.
    """
    group, device = join_group(device)
    try:
        yield group, device
    except Exception as error:
        if group.size > 1 and is_loss(error):
            message = f"Process {group.rank} of {group.size} has lost another one, which was killed or has failed."
            raise LostProcessError(message) from error
        raise
    if group.size > 1:
        dist.destroy_process_group()


def is_loss(error: BaseException) -> bool:
    """
    Tell whether an error means that another process is gone.

    :param error: What PyTorch raised.
    """
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and any(s in str(error) for s in SIGNS))
