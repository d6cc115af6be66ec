"""Several processes that train one model."""

import multiprocessing
import socket
from typing import Any

import numpy as np
import pytest
import torch as th

from cloning_helpers import make_bc, parameters
from sb3_elmur import distributed
from sb3_elmur.bc import shrink_memory
from sb3_elmur.distributed import ALONE, Group, LostProcessError, joined_group
from together_helpers import SHRINKABLE, TOGETHER, curve, train_together

pytestmark = pytest.mark.xdist_group("together")


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


def test_two_processes_shrink_memory_as_one(together: list[dict[str, Any]]) -> None:
    trainer, losses = shrink_memory(make_bc(**SHRINKABLE))
    first, second = (results["shrunk"] for results in together)
    assert first["losses"] == second["losses"] == pytest.approx(losses, abs=1e-4)
    assert th.equal(first["parameters"], second["parameters"])
    assert len(first["parameters"]) == len(parameters(trainer))


@pytest.mark.parametrize(
    ("group", "message", "raised"),
    [
        (Group(0, 2), "[gloo/transport/tcp/pair.cc] Connection closed by peer", LostProcessError),
        (Group(0, 2), "mat1 and mat2 shapes cannot be multiplied", RuntimeError),
        (ALONE, "[gloo/transport/tcp/pair.cc] Connection closed by peer", RuntimeError),
    ],
)
def test_a_lost_process_is_told_apart_from_other_errors(
    monkeypatch: pytest.MonkeyPatch, group: Group, message: str, raised: type[Exception]
) -> None:
    monkeypatch.setattr(distributed, "join_group", lambda device: (group, device))
    with pytest.raises(raised) as caught, joined_group("cpu"):
        raise RuntimeError(message)
    assert caught.type is raised
