"""
Behaviour cloning: supervised training of an ELMUR policy on recorded episodes. ``sb3-elmur bc`` runs it.

Episodes are trained on from their starts in chains of ``bptt_segments`` segments. Every chain is one optimiser step, through
which gradients flow; the memory after it, detached, begins the episode's next chain. Nothing is padded.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.utils import configure_logger
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from sb3_elmur.atomic_files import atomic_path
from sb3_elmur.bc.chains import Batch, ChainLoss, cut_chains
from sb3_elmur.bc.checkpoint import (
    CHECKPOINT,
    check_optimizer,
    identity,
    no_checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from sb3_elmur.bc.config import BCConfig
from sb3_elmur.bc.features import check_same_spaces, frozen_features
from sb3_elmur.bc.loss import fit_log_std, make_cloning_loss
from sb3_elmur.core.arguments import check_count
from sb3_elmur.core.memory import Memory
from sb3_elmur.datasets.episodes import Episode, Episodes
from sb3_elmur.distributed import ALONE, current_group
from sb3_elmur.ppo import RecurrentPPO

BEST_MODEL = "best_model.zip"
COUNTERS = ("batches_done", "updates", "steps")
PROGRESS = (*COUNTERS, "best_score", "epoch_sums")  # attributes of `BC`, to be restored
N_COMMON_SUMS = 6  # of `epoch_sums`, before those of the loss's measures


class BC:
    """
    Behaviour cloning of the policy of a :class:`sb3_elmur.RecurrentPPO`, which can then be saved, or trained online.

    Images that the actor sees through a features extractor without anything to train are turned into features once, which are
    kept in memory; a :class:`sb3_elmur.bc.features.FeatureEpisodes` is taken as it is.

    Under ``torchrun`` all processes together train on each batch as one process would.

    :param model: Its policy is trained; seed, device and logger are the model's. Without a seed it is 0. Every batch seeds
        PyTorch's generator, so that a continued training equals one that was not interrupted.
    :param episodes: The data set.
    :param config: Hyper-parameters.
    :param eval_env: Where the policy is evaluated during training, if anywhere.
    :param on_epoch: Called with this trainer after every epoch, before its logs are written.
    :raises ValueError: If the data set was opened for other spaces than the policy has.
    """

    def __init__(
        self,
        model: RecurrentPPO,
        episodes: Episodes,
        config: BCConfig | None = None,
        eval_env: VecEnv | None = None,
        on_epoch: Callable[["BC"], None] | None = None,
    ) -> None:
        self.model, self.policy, self.on_epoch = model, model.policy, on_epoch
        self.episodes, self.config, self.eval_env = episodes, config or BCConfig(), eval_env
        check_same_spaces(episodes, model.policy)
        self.group = current_group()
        self.seed = 0 if model.seed is None else model.seed
        self.segment_length = self.policy.backbone.core.segment_length
        self.chain_length = self.config.bptt_segments * self.segment_length
        self.features = frozen_features(episodes, self.policy)

        policy = self.policy
        actor = nn.ModuleList(
            [policy.pi_features_extractor, policy.backbone, policy.mlp_extractor.policy_net, policy.action_net]
        )
        self.parameters = [parameter for parameter in actor.parameters() if parameter.requires_grad]
        for parameter in self.parameters:  # a parameter without gradient counts as one with gradient zero
            parameter.grad = th.zeros_like(parameter)
        betas, decay = (self.config.beta1, self.config.beta2), self.config.weight_decay
        self.optimizer = th.optim.AdamW(self.parameters, betas=betas, weight_decay=decay, fused=True)
        cloning_loss = make_cloning_loss(policy, self.config.label_smoothing)
        self.metric = cloning_loss.metric
        chain_loss = ChainLoss(policy, cloning_loss, self.group)
        self.chain_loss = DistributedDataParallel(chain_loss) if self.group.size > 1 else chain_loss
        self.held_out, self.trained = split(len(episodes), self.config.validation, self.seed)

        self.batches_done = self.updates = self.steps = 0
        self.best_score = -math.inf
        # Of the present epoch: updates, and sums over them of gradient norm and load-balancing loss; then what `ChainLoss`
        # sums over steps.
        self.epoch_sums: Tensor | None = None
        self._own_identity: dict[str, Any] | None = None

    @property
    def batches_per_epoch(self) -> int:
        """Batches that cover the episodes that are trained on once."""
        return math.ceil(len(self.trained) / self.config.batch_size)

    @property
    def total_batches(self) -> int:
        """Batches of the whole training."""
        return self.config.n_epochs * self.batches_per_epoch

    def train(self, folder: str | Path | None = None, progress_bar: bool = False) -> None:
        """
        Train for ``n_epochs``, or for what is left of them if ``folder`` holds the checkpoint of an interrupted run.

        :param folder: Where to keep ``checkpoint.pt``, and the best model of all evaluations, ``best_model.zip``.
        :param progress_bar: Whether to show one.
        :raises ValueError: If the checkpoint is of another run, or no checkpoint at all; nothing is restored then.
        :raises FloatingPointError: If a loss or a gradient is not finite. The checkpoint is an earlier one.
        """
        folder = None if folder is None else Path(folder)
        if folder is not None:
            self._restore(folder)
        if not self.model._custom_logger:
            log = self.model.tensorboard_log if self.group.rank == 0 else None
            self.model._logger = configure_logger(self.model.verbose if self.group.rank == 0 else 0, log, "BC")
        shown = progress_bar and self.group.rank == 0
        with tqdm(total=self.total_batches, initial=self.batches_done, unit="batch", disable=not shown) as bar:
            while self.batches_done < self.total_batches:
                start = time.perf_counter()
                self.train_batch()
                bar.update()
                if self.group.rank == 0:
                    self.model.logger.record_mean("time/seconds_per_batch", time.perf_counter() - start)
                    self._after_batch(folder)
        self._fit_spread()

    def save(self, path: str | Path) -> None:
        """
        Save the model, as :meth:`sb3_elmur.RecurrentPPO.save` does, but never half of it.

        :param path: The zip file; its suffix may be left out.
        """
        self._fit_spread()
        path = Path(path)
        with atomic_path(path if path.suffix else path.with_suffix(".zip")) as temporary:
            self.model.save(temporary)

    def train_batch(self) -> None:
        """
        Train on the next batch of episodes: one update for each chain of the longest.

        :raises FloatingPointError: If a loss or a gradient is not finite.
        """
        rank, size = self.group
        epoch, batch = divmod(self.batches_done, self.batches_per_epoch)
        order = self.trained[np.random.default_rng((self.seed, epoch)).permutation(len(self.trained))]
        chosen = self._longest_first(order[batch * self.config.batch_size : (batch + 1) * self.config.batch_size])
        own = [self.inputs[int(i)] for i in chosen[rank::size]]

        th.manual_seed(int(np.random.SeedSequence((self.seed, self.batches_done, rank)).generate_state(1)[0]))
        if not self.policy.training:
            self.policy.set_training_mode(True)
        memory = self.policy.initial_memories(len(own)).pi
        sums = []
        for chains in self._cut_chains(own, self.episodes.lengths[chosen], self.chain_length):
            memory, summed = self._update(chains, memory.rows(slice(len(chains.lengths))))
            sums.append(summed)
        total = self.group.total(th.stack(sums).sum(0)).cpu().double()  # all numbers of the batch leave the device at once
        if not (total.isfinite().all() and nn.utils.get_total_norm(self.parameters).isfinite()):
            raise FloatingPointError(
                f"Loss, gradient or weights are not finite in batch {self.batches_done + 1}. Lower `learning_rate`. "
                f"Received {self.config.learning_rate:g}."
            )
        self.epoch_sums = total if self.epoch_sums is None or batch == 0 else self.epoch_sums + total
        self.batches_done += 1

    @property
    def inputs(self) -> Episodes:
        """What is trained on: the episodes, or the features that are computed once."""
        return self.episodes if self.features is None else self.features

    def _cut_chains(self, episodes: list[Episode], lengths: np.ndarray, chain_length: int) -> Iterator[Batch]:
        space = None if self.features is None else self.features.observation_space
        return cut_chains(self.policy, episodes, lengths, chain_length, space)

    def _longest_first(self, indices: np.ndarray) -> np.ndarray:
        return indices[np.argsort(-self.episodes.lengths[indices], kind="stable")]

    def _update(self, batch: Batch, memory: Memory) -> tuple[Memory, Tensor]:
        """
        One optimiser step.

        :param batch: This process's chains.
        :param memory: Memory before them.
        :return: Memory after the chains, and this process's share of what ``epoch_sums`` sums.
        """
        for options in self.optimizer.param_groups:
            options["lr"] = self._learning_rate()
        self.optimizer.zero_grad(set_to_none=False)
        with th.autocast(self.model.device.type, th.bfloat16, enabled=self.config.mixed_precision):
            loss, sums, memory = self.chain_loss(batch, memory)
        (loss * (self.group.size / batch.n_steps)).backward()  # the mean over processes is then that over steps
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
        self.optimizer.step()
        self.updates += 1
        self.steps += batch.n_steps
        aux_loss = self.policy.backbone.core.aux_loss
        common = th.stack((th.ones_like(norm), norm, th.zeros_like(norm) if aux_loss is None else aux_loss))
        return memory, th.cat((common / self.group.size, sums))

    def _learning_rate(self) -> float:
        """Linear warm-up, then a cosine to zero, in the middle of the batch."""
        progress, warmup = (self.batches_done + 0.5) / self.total_batches, self.config.warmup
        if progress < warmup:
            return self.config.learning_rate * progress / warmup
        return self.config.learning_rate * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup))) / 2

    def _after_batch(self, folder: Path | None) -> None:
        """Evaluate, log and save where it is time to."""
        epoch, within = divmod(self.batches_done, self.batches_per_epoch)
        ended = self.batches_done == self.total_batches
        if within == 0:
            if ended or epoch % self.config.eval_freq == 0:
                self._evaluate(folder)
            self._log(epoch)
        if folder is not None and (ended or self.batches_done % self.config.save_freq == 0):
            write_checkpoint(folder / CHECKPOINT, self._identity(), self._state())

    def _evaluate(self, folder: Path | None) -> None:
        """Evaluate in the environment and on held-out episodes, and keep the model if it is the best so far."""
        scores = []
        if self.eval_env is not None:
            scores.append(self._evaluate_in(self.eval_env))
        if len(self.held_out):
            scores.append(-self.validate())
        if scores and scores[-1] > self.best_score:
            self.best_score = scores[-1]
            if folder is not None:
                self.save(folder / BEST_MODEL)

    def _log(self, epoch: int) -> None:
        """Log an epoch that is complete."""
        assert self.epoch_sums is not None
        updates, norm, aux_loss, steps, loss, _, *measured = self.epoch_sums.tolist()
        logger = self.model.logger
        logger.record("train/loss", loss / steps)
        logger.record(f"train/{self.metric}", float(np.mean(measured)) / steps)
        logger.record("train/grad_norm", norm / updates)
        if self.policy.backbone.core.aux_loss is not None:
            logger.record("train/aux_loss", aux_loss / updates)
        logger.record("train/learning_rate", self.optimizer.param_groups[0]["lr"])
        logger.record("time/epoch", epoch)
        logger.record("time/steps", self.steps)
        if self.on_epoch is not None:
            self.on_epoch(self)
        logger.dump(self.updates)

    def _evaluate_in(self, env: VecEnv) -> float:
        """The mean reward in the environment, always in the same episodes."""
        successes: list[bool] = []

        def collect(variables: dict[str, Any], _: dict[str, Any]) -> None:
            if variables["done"] and "is_success" in variables["info"]:
                successes.append(variables["info"]["is_success"])

        env.seed(self.seed)
        with self.model.masked_by(env):
            rewards, lengths = evaluate_policy(
                self.model, env, self.config.n_eval_episodes, callback=collect, return_episode_rewards=True
            )
        self.model.logger.record("eval/mean_reward", float(np.mean(rewards)))
        self.model.logger.record("eval/mean_ep_length", float(np.mean(lengths)))
        if successes:
            self.model.logger.record("eval/success_rate", float(np.mean(successes)))
        return float(np.mean(rewards))

    def validate(self) -> float:
        """
        Measure the loss on the held-out episodes, in this process alone, and log it.

        :return: Its mean over their steps.
        """
        steps, loss, _, *measured = self.held_out_sums().tolist()
        self.model.logger.record("validation/loss", loss / steps)
        self.model.logger.record(f"validation/{self.metric}", float(np.mean(measured)) / steps)
        return loss / steps

    @th.no_grad()
    def held_out_sums(self, remember: bool = True) -> Tensor:
        """
        Run the held-out episodes, in this process alone.

        :param remember: Whether memory lasts; else it is emptied before every segment.
        :return: What :class:`sb3_elmur.bc.chains.ChainLoss` sums over their steps, (3 + m,) float64.
        """
        chain_loss = ChainLoss(self.policy, make_cloning_loss(self.policy, self.config.label_smoothing), ALONE)
        chain_length = self.chain_length if remember else self.segment_length
        training = self.policy.training
        self.policy.set_training_mode(False)
        total = th.zeros((), dtype=th.float64, device=self.policy.device)
        for start in range(0, len(self.held_out), self.config.batch_size):
            chosen = self._longest_first(self.held_out[start : start + self.config.batch_size])
            empty = memory = self.policy.initial_memories(len(chosen)).pi
            episodes = [self.inputs[int(i)] for i in chosen]
            for chains in self._cut_chains(episodes, self.episodes.lengths[chosen], chain_length):
                before = memory if remember else empty
                _, sums, memory = chain_loss(chains, before.rows(slice(len(chains.lengths))))
                total = total + sums.double()
        self.policy.set_training_mode(training)
        return total

    def _fit_spread(self) -> None:
        if isinstance(self.policy.action_space, spaces.Box) and self.epoch_sums is not None:
            steps, _, latent_square, *squared_errors = self.epoch_sums[3:]
            fit_log_std(self.policy, th.stack(squared_errors) / steps, latent_square / steps)

    def _identity(self) -> dict[str, Any]:
        if self._own_identity is None:
            self._own_identity = identity(self.model, self.config, self.episodes)
        return self._own_identity

    def _state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {
            "policy": self.policy.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": {name: getattr(self, name) for name in PROGRESS},
        }

    def _set_state(self, state: dict[str, Any]) -> None:
        progress = state["progress"]
        for name in COUNTERS:
            check_count(name, progress[name], 0)
        if progress["batches_done"] > self.total_batches:
            raise ValueError(f"`batches_done` must be at most {self.total_batches}. Received {progress['batches_done']}.")
        sums, begun = progress["epoch_sums"], progress["updates"] > 0
        if begun != (isinstance(sums, Tensor) and sums.dtype == th.float64 and sums.ndim == 1 and len(sums) > N_COMMON_SUMS):
            raise ValueError("`epoch_sums` must be sums over the updates.")
        if not isinstance(progress["best_score"], float) or math.isnan(progress["best_score"]):
            raise ValueError(f"`best_score` must be a number. Received {progress['best_score']!r}.")
        check_optimizer(self.optimizer, state["optimizer"], begun)
        self.policy.load_state_dict(state["policy"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name in PROGRESS:
            setattr(self, name, progress[name])

    def _restore(self, folder: Path) -> None:
        """Restore the checkpoint of a folder, which is made, if it has one. All of it is restored, or nothing."""
        path = folder / CHECKPOINT

        def read() -> dict[str, Any] | None:
            folder.mkdir(parents=True, exist_ok=True)
            return read_checkpoint(path, self._identity()) if path.exists() else None

        state = self.group.from_first(read)
        if state is None:
            return
        before = copy.deepcopy(self._state())
        try:
            self._set_state(state)
        except Exception as error:
            self._set_state(before)
            raise no_checkpoint(path, error) from error


def split(n_episodes: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """
    Hold out a share of the episodes.

    :param n_episodes: How many there are.
    :param share: How many of them to hold out, at least one unless it is 0.
    :param seed: Which ones.
    :return: Indices of those held out and of the others, in order.
    :raises ValueError: If no episode is left to train on.
    """
    n_held_out = max(1, round(share * n_episodes)) if share else 0
    if n_held_out == n_episodes:
        raise ValueError(f"`validation` must leave an episode to train on. Received {share} of {n_episodes}.")
    shuffled = np.random.default_rng((seed, n_episodes, n_held_out)).permutation(n_episodes)
    return np.sort(shuffled[:n_held_out]), np.sort(shuffled[n_held_out:])
