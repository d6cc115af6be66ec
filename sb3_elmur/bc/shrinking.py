"""
How many memory slots a task needs, found by behaviour cloning.

1. Train with many slots, and hold some episodes out.
2. Halve the slots, keep all weights, of which none belongs to a slot, and train on for a few epochs.
3. Go on while the loss on the held-out episodes stays as small as it was.
4. It does if it lies above the smallest one so far by at most 1 % of the loss that the policy has without its memory.
5. The last number with which it did is the answer.

So short a training can fail by chance: the first one that does is continued once. Together they take no more epochs than the
training did. If the loss tells right, fewer than half of the slots found are too few.
"""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from sb3_elmur.bc.config import BCConfig
from sb3_elmur.bc.trainer import BC
from sb3_elmur.core.elmur import Elmur
from sb3_elmur.models import resize_memory

TOLERANCE = 0.01  # of the loss without memory


class ShrunkMemory(NamedTuple):
    """
    What :func:`shrink_memory` returns.

    :param trainer: Of the policy with the fewest slots that was as good as with all.
    :param losses: By number of slots M the mean loss of a step of the held-out episodes; the last number may be one too few.
    """

    trainer: BC
    losses: dict[int, float]


def shrink_memory(trainer: BC, folder: str | Path | None = None, progress_bar: bool = False) -> ShrunkMemory:
    """
    Halve the memory slots of a trained policy again and again, as long as it stays as good on held-out episodes.

    After each halving it trains on, and once more after the first that is not as good; together for ``trainer``'s epochs at
    most, but at least one each. A policy that makes no use of its memory raises a warning.

    :param trainer: After :meth:`sb3_elmur.bc.BC.train`; it and its model stay as they are.
    :param folder: Where to keep what an interrupted call goes on with, in a folder ``slots_<M>`` for each number of slots, and
        ``slots_<M>_again``.
    :param progress_bar: Whether to show one for each of them.
    :return: The trainer whose policy has the fewest slots, and the losses.
    :raises ValueError: If no episodes are held out, the policy has fewer than two slots, or a checkpoint is of another run.
    :raises FloatingPointError: If a loss or a gradient is not finite.
    """
    check_shrinkable(trainer)
    slots = trainer.policy.config.memory_size
    n_halvings = (slots - 1).bit_length()
    config = replace(trainer.config, n_epochs=max(1, trainer.config.n_epochs // (n_halvings + 1)))
    losses = {slots: held_out_loss(trainer)}
    without = held_out_loss(trainer, remember=False)
    if without <= (1 + TOLERANCE) * losses[slots]:
        warnings.warn(
            f"`trainer` predicts held-out episodes no better with its {slots} slots (loss {losses[slots]:.4g}) than without "
            f"memory ({without:.4g}). Unless the task needs none, train longer: the number of slots found says nothing.",
            stacklevel=2,
        )

    def train_with(trainer: BC, slots: int, suffix: str) -> BC:
        """Train on with so many slots, and note the loss."""
        resized = with_slots(trainer, slots, config)
        resized.train(None if folder is None else Path(folder) / f"slots_{slots}{suffix}", progress_bar)
        losses[slots] = held_out_loss(resized)
        return resized

    continued = False
    while slots > 1:
        slots = -(-slots // 2)
        bound = min(losses.values()) + TOLERANCE * held_out_loss(trainer, remember=False)
        smaller = train_with(trainer, slots, "")
        if losses[slots] > bound and not continued:
            continued = True
            smaller = train_with(smaller, slots, "_again")
        if losses[slots] > bound:
            break
        trainer = smaller
    return ShrunkMemory(trainer, losses)


def check_shrinkable(trainer: BC) -> None:
    """
    Refuse a trainer whose policy's memory cannot be shrunk.

    :param trainer: Before or after its training.
    :raises ValueError: If no episodes are held out, or the policy has fewer than two slots.
    """
    if not len(trainer.held_out):
        raise ValueError(f"`validation` must be above 0 to shrink memory. Received {trainer.config.validation:g}.")
    config = trainer.policy.config
    if not isinstance(trainer.policy.backbone.core, Elmur) or config.memory_size < 2:
        received = f"core={config.core_name!r}, memory_size={config.memory_size}"
        raise ValueError(f"`policy` must have at least 2 memory slots to shrink memory. Received {received}.")


def with_slots(trainer: BC, slots: int, config: BCConfig) -> BC:
    """
    A trainer that trains a policy on with another number of slots.

    :param trainer: Of the policy, which is copied.
    :param slots: Per layer.
    :param config: Hyper-parameters of the new trainer.
    """
    resized = BC(resize_memory(trainer.model, slots), trainer.episodes, config, trainer.eval_env, trainer.on_epoch)
    resized.features = trainer.features  # an extractor that is not trained has computed them
    return resized


def held_out_loss(trainer: BC, remember: bool = True) -> float:
    """
    The mean loss of a step of the held-out episodes, the same in all processes.

    :param trainer: Of the policy.
    :param remember: Whether memory lasts; else it is emptied before every segment.
    """
    steps, loss, *_ = trainer.group.from_first(lambda: trainer.held_out_sums(remember).tolist())
    return loss / steps
