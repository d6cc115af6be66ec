"""Hyper-parameters of behaviour cloning, checked once, when they are given."""

from dataclasses import dataclass

from sb3_elmur.core.arguments import check_count, check_range


@dataclass(frozen=True)
class BCConfig:
    """
    Hyper-parameters of behaviour cloning.

    :param n_epochs: Passes over the data set.
    :param batch_size: Episodes per batch, of all processes together.
    :param bptt_segments: Consecutive segments (k) per optimiser step, through which gradients flow. 1 is the paper's detached
        memory, whose write path learns nothing from the task.
    :param learning_rate: Largest learning rate, between a linear warm-up and a cosine decay to zero.
    :param warmup: Share of training that is warm-up.
    :param weight_decay: Weight decay of AdamW.
    :param beta1: How much AdamW keeps of its mean gradient at each step.
    :param beta2: How much AdamW keeps of its mean squared gradient.
    :param label_smoothing: Share of a discrete target that is spread over all choices.
    :param max_grad_norm: Largest norm of the gradient.
    :param mixed_precision: Whether to compute in bfloat16 where autocast deems it safe.
    :param validation: Share of the episodes that is held out. The model with the smallest loss on them is kept as the best,
        instead of the one with the largest mean reward.
    :param eval_freq: Epochs between evaluations.
    :param n_eval_episodes: Episodes of an evaluation.
    :param save_freq: Batches between checkpoints.
    :raises ValueError: If an argument lies outside its range; the message names it, its value and what is allowed.
    """

    n_epochs: int = 100
    batch_size: int = 64
    bptt_segments: int = 8
    learning_rate: float = 3e-4
    warmup: float = 0.05
    weight_decay: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.999
    label_smoothing: float = 0.0
    max_grad_norm: float = 1.0
    mixed_precision: bool = False
    validation: float = 0.0
    eval_freq: int = 10
    n_eval_episodes: int = 100
    save_freq: int = 100

    def __post_init__(self) -> None:
        for name in ("n_epochs", "batch_size", "bptt_segments", "eval_freq", "n_eval_episodes", "save_freq"):
            check_count(name, getattr(self, name), 1)
        for name in ("learning_rate", "weight_decay", "max_grad_norm"):
            check_range(name, getattr(self, name), 0.0, float("inf"))
        for name in ("warmup", "beta1", "beta2", "label_smoothing", "validation"):
            check_range(name, getattr(self, name), 0.0, 1.0, open_end=True)
        if not isinstance(self.mixed_precision, bool):
            raise ValueError(f"`mixed_precision` must be True or False. Received {self.mixed_precision!r}.")
