"""
Behaviour cloning: supervised training of an ELMUR policy on recorded episodes. ``python -m sb3_elmur.bc`` runs it.

Episodes are trained on from their starts in chains of ``bptt_segments`` segments. Every chain is one optimiser step, through
which gradients flow; the memory after it, detached, begins the episode's next chain. Nothing is padded.
"""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

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
from sb3_elmur.bc.config import BCConfig
from sb3_elmur.bc.distributed import Group, current_group
from sb3_elmur.bc.loss import CloningLoss, fit_log_std, make_cloning_loss
from sb3_elmur.core.memory import Memory
from sb3_elmur.datasets.episodes import Episode, Episodes
from sb3_elmur.policies import ElmurPolicy
from sb3_elmur.ppo import RecurrentPPO

CHECKPOINT, BEST_MODEL = "checkpoint.pt", "best_model.zip"
PROGRESS = ("batches_done", "updates", "steps", "best_reward", "epoch_sums")  # attributes of `BC`, to be restored


class Batch(NamedTuple):
    """
    Chains of consecutive segments, one of each of C episodes; their R steps are laid out in segment-major order.

    :param obs: Observations, (R, ...).
    :param actions: Recorded actions, (R, ...).
    :param lengths: Steps of each chain, (C,) int64, on the CPU, none larger than the one before.
    """

    obs: Any
    actions: Tensor
    lengths: Tensor


class ChainLoss(nn.Module):
    """
    One pass over chains, as a module, so that ``DistributedDataParallel`` can wrap it.

    :param policy: What is trained.
    :param cloning_loss: For its action space.
    :param group: Processes that make each pass together.
    """

    def __init__(self, policy: ElmurPolicy, cloning_loss: CloningLoss, group: Group) -> None:
        super().__init__()
        self.policy, self.cloning_loss, self.group = policy, cloning_loss, group

    def forward(self, batch: Batch, memory: Memory, need_memory: bool) -> tuple[Tensor, Tensor, Memory]:
        """
        :param batch: C chains.
        :param memory: Memory before them.
        :param need_memory: Whether the returned memory is used.
        :return: The sum of the steps' losses; the number of steps and sums over them, (3 + m,): of losses, of the squared
            length of the action network's input, and of the m measures of the loss; and memory after the last segment,
            detached, of the chains that reach it.
        """
        pool = self.group.pool
        latent, memory = self.policy.replay(batch.obs, memory, batch.lengths, need_memory=need_memory, pool=pool)
        outputs = self.policy.action_net(latent).float()
        loss = self.cloning_loss.loss(outputs, batch.actions).sum()
        measured = self.cloning_loss.measure(outputs.detach(), batch.actions).sum(0)
        square = latent.detach().float().square().sum()
        sums = th.cat((th.stack((loss.new_tensor(len(latent)), loss.detach(), square)), measured))
        if self.group.size > 1:  # so that every process gives all parameters a gradient, whatever its share is
            loss = loss + 0.0 * th.stack([parameter.sum() for parameter in self.policy.parameters()]).sum()
        return loss, sums, memory._replace(slots=memory.slots.detach())


class BC:
    """
    Behaviour cloning of the policy of a :class:`sb3_elmur.RecurrentPPO`, which can then be saved, or trained online.

    Under ``torchrun`` all processes together train on each batch as one process would.

    :param model: Its policy is trained; seed, device and logger are the model's.
    :param episodes: The data set.
    :param config: Hyper-parameters.
    :param eval_env: Where the policy is evaluated during training, if anywhere.
    :param on_epoch: Called with this trainer after every epoch, before its logs are written.
    :raises ValueError: If discrete actions do not begin at 0.
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
        self.group = current_group()
        self.seed = 0 if model.seed is None else model.seed
        self.segment_length = self.policy.backbone.core.segment_length
        self.chain_length = self.config.bptt_segments * self.segment_length

        policy = self.policy
        actor = [policy.pi_features_extractor, policy.backbone, policy.mlp_extractor.policy_net, policy.action_net]
        self.parameters = list(nn.ModuleList(actor).parameters())
        for parameter in self.parameters:  # a parameter without gradient counts as one with gradient zero
            parameter.grad = th.zeros_like(parameter)
        betas, decay = (self.config.beta1, self.config.beta2), self.config.weight_decay
        self.optimizer = th.optim.AdamW(self.parameters, betas=betas, weight_decay=decay, fused=True)
        cloning_loss = make_cloning_loss(policy, self.config.label_smoothing)
        self.metric = cloning_loss.metric
        chain_loss = ChainLoss(policy, cloning_loss, self.group)
        self.chain_loss = DistributedDataParallel(chain_loss) if self.group.size > 1 else chain_loss

        self.batches_done = self.updates = self.steps = 0
        self.best_reward = -math.inf
        # Of the present epoch: updates, and sums over them of gradient norm and load-balancing loss; then what `ChainLoss`
        # sums over steps.
        self.epoch_sums: Tensor | None = None

    @property
    def batches_per_epoch(self) -> int:
        """Batches that cover the data set once."""
        return math.ceil(len(self.episodes) / self.config.batch_size)

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
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.episodes))
        chosen = order[batch * self.config.batch_size : (batch + 1) * self.config.batch_size]
        chosen = chosen[np.argsort(-self.episodes.lengths[chosen], kind="stable")]
        lengths = self.episodes.lengths[chosen]
        own = [self.episodes[int(i)] for i in chosen[rank::size]]
        own_lengths = lengths[rank::size]

        th.manual_seed(int(np.random.SeedSequence((self.seed, self.batches_done, rank)).generate_state(1)[0]))
        if not self.policy.training:
            self.policy.set_training_mode(True)
        memory = self.policy.initial_memories(len(own)).pi
        sums = []
        for begin in range(0, int(lengths[0]), self.chain_length):
            n_steps = int((lengths - begin).clip(0, self.chain_length).sum())
            rows = int((own_lengths > begin).sum())
            chains = self._chains(own[:rows], own_lengths[:rows], begin)
            goes_on = begin + self.chain_length < lengths[0]
            memory, summed = self._update(chains, memory.rows(slice(rows)), n_steps, goes_on)
            sums.append(summed)
        total = self.group.total(th.stack(sums).sum(0)).cpu().double()  # all numbers of the batch leave the device at once
        if not total.isfinite().all():
            raise FloatingPointError(
                f"Loss or gradient is not finite in batch {self.batches_done + 1}. Lower `learning_rate`. "
                f"Received {self.config.learning_rate:g}."
            )
        self.epoch_sums = total if self.epoch_sums is None or batch == 0 else self.epoch_sums + total
        self.batches_done += 1

    def _chains(self, episodes: list[Episode], lengths: np.ndarray, begin: int) -> Batch:
        """The next chain of each episode, from step ``begin`` on."""
        ends = np.minimum(lengths, begin + self.chain_length)
        parts = [
            (episode, slice(start, min(start + self.segment_length, end)))
            for start in range(begin, begin + self.chain_length, self.segment_length)
            for episode, end in zip(episodes, ends.tolist(), strict=True)
            if start < end
        ]
        space = self.policy.observation_space
        if isinstance(space, spaces.Dict):
            obs: Any = {key: _join([e.observations[key][part] for e, part in parts], space[key]) for key in space}
        else:
            obs = _join([e.observations[part] for e, part in parts], space)  # type: ignore[index]
        actions = _join([e.actions[part] for e, part in parts], self.policy.action_space)
        if self.policy.squash_output:
            actions = self.policy.scale_action(actions)
        return Batch(
            self.policy.obs_to_tensor(obs)[0], th.as_tensor(actions, device=self.model.device), th.as_tensor(ends - begin)
        )

    def _update(self, batch: Batch, memory: Memory, n_steps: int, need_memory: bool) -> tuple[Memory, Tensor]:
        """
        One optimiser step.

        :param batch: This process's chains.
        :param memory: Memory before them.
        :param n_steps: Steps of the chains of all processes.
        :param need_memory: Whether the returned memory is used.
        :return: Memory after the chains, and this process's share of what ``epoch_sums`` sums.
        """
        for options in self.optimizer.param_groups:
            options["lr"] = self._learning_rate()
        self.optimizer.zero_grad(set_to_none=False)
        with th.autocast(self.model.device.type, th.bfloat16, enabled=self.config.mixed_precision):
            loss, sums, memory = self.chain_loss(batch, memory, need_memory)
        (loss * (self.group.size / n_steps)).backward()  # the mean over processes is then that over steps
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
        self.optimizer.step()
        self.updates += 1
        self.steps += n_steps
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
            if self.eval_env is not None and (ended or epoch % self.config.eval_freq == 0):
                self._evaluate(self.eval_env, folder)
            self._log(epoch)
        if folder is not None and (ended or self.batches_done % self.config.save_freq == 0):
            with atomic_path(folder / CHECKPOINT) as temporary:
                th.save(self._state(), temporary)

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

    def _evaluate(self, env: VecEnv, folder: Path | None) -> None:
        """Evaluate in the environment, always in the same episodes, and keep the model if it is the best so far."""
        successes: list[bool] = []

        def collect(variables: dict[str, Any], _: dict[str, Any]) -> None:
            if variables["done"] and "is_success" in variables["info"]:
                successes.append(variables["info"]["is_success"])

        env.seed(self.seed)
        rewards, lengths = evaluate_policy(
            self.model, env, self.config.n_eval_episodes, callback=collect, return_episode_rewards=True
        )
        self.model.logger.record("eval/mean_reward", float(np.mean(rewards)))
        self.model.logger.record("eval/mean_ep_length", float(np.mean(lengths)))
        if successes:
            self.model.logger.record("eval/success_rate", float(np.mean(successes)))
        if np.mean(rewards) > self.best_reward:
            self.best_reward = float(np.mean(rewards))
            if folder is not None:
                self.save(folder / BEST_MODEL)

    def _fit_spread(self) -> None:
        if isinstance(self.policy.action_space, spaces.Box) and self.epoch_sums is not None:
            steps, _, latent_square, *squared_errors = self.epoch_sums[3:]
            fit_log_std(self.policy, th.stack(squared_errors) / steps, latent_square / steps)

    def _run(self) -> dict[str, Any]:
        """What a run must have in common with a checkpoint to continue it."""
        data = {"seed": self.seed, "episodes": len(self.episodes), "steps": int(self.episodes.lengths.sum())}
        return {**asdict(self.config), **asdict(self.policy.config), **data}

    def _state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {
            "run": self._run(),
            "policy": self.policy.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": {name: getattr(self, name) for name in PROGRESS},
        }

    def _set_state(self, state: dict[str, Any]) -> None:
        self.policy.load_state_dict(state["policy"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name in PROGRESS:
            setattr(self, name, state["progress"][name])

    def _restore(self, folder: Path) -> None:
        """Restore the checkpoint of a folder, which is made, if it has one. All of it is restored, or nothing."""
        path = folder / CHECKPOINT

        def read() -> dict[str, Any] | None:
            folder.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                return None
            try:
                state = th.load(path, map_location="cpu", weights_only=True)
                run = dict(state)["run"]
                different = [f"{key}={run.get(key)!r}" for key, value in self._run().items() if run.get(key) != value]
            except Exception as error:  # whatever torch, zipfile and pickle make of damaged and foreign files
                raise _no_checkpoint(path, error) from error
            if different:
                raise ValueError(
                    f"{path} is the checkpoint of a run with {', '.join(different)}. "
                    "Continue with the same, or in another folder."
                )
            return state

        state = self.group.from_first(read)
        if state is None:
            return
        before = copy.deepcopy(self._state())
        try:
            self._set_state(state)
        except Exception as error:
            self._set_state(before)
            raise _no_checkpoint(path, error) from error


def _no_checkpoint(path: Path, error: Exception) -> ValueError:
    reason = " ".join(str(error).split())
    return ValueError(f"{path} is not a checkpoint of this policy. {type(error).__name__}: {reason:.200}")


def _join(parts: list[np.ndarray], space: spaces.Space) -> np.ndarray:
    """Arrays of steps one after another; without any, none."""
    return np.concatenate(parts) if parts else np.empty((0, *space.shape), dtype=space.dtype)  # type: ignore[misc]
