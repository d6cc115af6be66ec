"""
Behaviour cloning: supervised training of an ELMUR policy on recorded episodes. ``python -m sb3_elmur.bc`` runs it.

Episodes are trained on from their starts in chains of ``bptt_segments`` segments. Every chain is one optimiser step, through
which gradients flow; the memory after it, detached, begins the episode's next chain. Nothing is padded.
"""

import math
import pickle
import time
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

from sb3_elmur.bc_config import BCConfig
from sb3_elmur.cloning_loss import CloningLoss, fit_log_std, make_cloning_loss
from sb3_elmur.datasets import Episode, Episodes
from sb3_elmur.distributed import current_group
from sb3_elmur.files import atomic_path
from sb3_elmur.memory import Memory
from sb3_elmur.policies import ElmurPolicy
from sb3_elmur.ppo import RecurrentPPO

CHECKPOINT, BEST_MODEL = "checkpoint.pt", "best_model.zip"


class Batch(NamedTuple):
    """
    Chains of consecutive segments, one of each of C episodes; their R steps are laid out in segment-major order.

    :param obs: Observations, (R, ...).
    :param actions: Recorded actions, (R, ...).
    :param lengths: Steps of each chain, (C,) int64, none larger than the one before.
    """

    obs: Any
    actions: Tensor
    lengths: Tensor


class ChainLoss(nn.Module):
    """
    One pass over chains, as a module, so that ``DistributedDataParallel`` can wrap it.

    :param policy: What is trained.
    :param cloning_loss: For its action space.
    """

    def __init__(self, policy: ElmurPolicy, cloning_loss: CloningLoss) -> None:
        super().__init__()
        self.policy, self.cloning_loss = policy, cloning_loss

    def forward(self, batch: Batch, memory: Memory) -> tuple[Tensor, Tensor, Memory]:
        """
        :param batch: C chains.
        :param memory: Memory before them.
        :return: The sum of the steps' losses, what else is summed over the steps (squared length of the action network's
            input, then the measures of the loss), and memory after the last segment, detached, of the chains that reach it.
        """
        latent, memory = self.policy.replay(batch.obs, memory, batch.lengths, need_memory=True)
        outputs = self.policy.action_net(latent).float()
        loss = self.cloning_loss.loss(outputs, batch.actions).sum()
        if current_group().size > 1:  # so that every process gives all parameters a gradient, whatever its share is
            loss = loss + 0.0 * th.stack([parameter.sum() for parameter in self.policy.parameters()]).sum()
        measured = self.cloning_loss.measure(outputs.detach(), batch.actions).sum(0)
        sums = th.cat((latent.detach().float().square().sum()[None], measured))
        return loss, sums, memory._replace(slots=memory.slots.detach())


class BC:
    """
    Behaviour cloning of the policy of a :class:`sb3_elmur.RecurrentPPO`, which can then be saved, or trained online.

    Under ``torchrun`` all processes together train on each batch as one process would.

    :param model: Its policy is trained; seed, device and logger are the model's.
    :param episodes: The data set.
    :param config: Hyper-parameters.
    :param eval_env: Where the policy is evaluated during training, if anywhere.
    """

    def __init__(
        self, model: RecurrentPPO, episodes: Episodes, config: BCConfig | None = None, eval_env: VecEnv | None = None
    ) -> None:
        self.model, self.policy = model, model.policy
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
        chain_loss = ChainLoss(policy, cloning_loss)
        self.chain_loss = DistributedDataParallel(chain_loss) if self.group.size > 1 else chain_loss

        self.batches_done = self.updates = self.steps = 0
        self.best_reward = -math.inf
        self.running_sums: Tensor | None = None  # running means over updates of what a pass sums, per step

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
        :raises ValueError: If the checkpoint is of another run, or no checkpoint at all.
        """
        folder = None if folder is None else Path(folder)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            if (folder / CHECKPOINT).exists():
                self._restore(folder / CHECKPOINT)
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

        :param path: The zip file.
        """
        self._fit_spread()
        with atomic_path(path) as temporary:
            self.model.save(temporary)

    def train_batch(self) -> None:
        """Train on the next batch of episodes: one update for each chain of the longest."""
        rank, size = self.group
        epoch, batch = divmod(self.batches_done, self.batches_per_epoch)
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.episodes))
        chosen = order[batch * self.config.batch_size : (batch + 1) * self.config.batch_size]
        chosen = chosen[np.argsort(-self.episodes.lengths[chosen], kind="stable")]
        lengths = self.episodes.lengths[chosen]
        own = [self.episodes[int(i)] for i in chosen[rank::size]]
        own_lengths = lengths[rank::size]

        th.manual_seed(int(np.random.SeedSequence((self.seed, self.batches_done, rank)).generate_state(1)[0]))
        self.policy.set_training_mode(True)
        memory = self.policy.initial_memories(len(own))[0]
        for begin in range(0, int(lengths[0]), self.chain_length):
            n_steps = int((lengths - begin).clip(0, self.chain_length).sum())
            rows = int((own_lengths > begin).sum())
            memory = self._update(self._chains(own[:rows], own_lengths[:rows], begin), memory.rows(slice(rows)), n_steps)
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
            obs = _join([episode.observations[part] for episode, part in parts], space)
        actions = _join([episode.actions[part] for episode, part in parts], self.policy.action_space)
        if self.policy.squash_output:
            actions = self.policy.scale_action(actions)
        device = self.model.device
        return Batch(
            self.policy.obs_to_tensor(obs)[0], th.as_tensor(actions, device=device), th.as_tensor(ends - begin, device=device)
        )

    def _update(self, batch: Batch, memory: Memory, n_steps: int) -> Memory:
        """
        One optimiser step.

        :param batch: This process's chains.
        :param memory: Memory before them.
        :param n_steps: Steps of the chains of all processes.
        """
        learning_rate = self._learning_rate()
        for options in self.optimizer.param_groups:
            options["lr"] = learning_rate
        self.optimizer.zero_grad(set_to_none=False)
        with th.autocast(self.model.device.type, th.bfloat16, enabled=self.config.mixed_precision):
            loss, sums, memory = self.chain_loss(batch, memory)
        (loss * (self.group.size / n_steps)).backward()  # the mean over processes is then that over steps
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
        self.optimizer.step()
        self.updates += 1
        self.steps += n_steps

        means = self.group.total(th.cat((loss.detach()[None], sums))) / n_steps
        sums = means[1:]
        self.running_sums = sums if self.running_sums is None else self.running_sums.lerp(sums, 0.01)
        logger = self.model.logger
        logger.record_mean("train/loss", means[0].item())
        logger.record_mean(f"train/{self.metric}", sums[1:].mean().item())
        logger.record_mean("train/grad_norm", norm.item())
        logger.record("train/learning_rate", learning_rate)
        aux_loss = self.policy.backbone.core.aux_loss
        if aux_loss is not None:
            logger.record_mean("train/aux_loss", aux_loss.item())
        return memory

    def _learning_rate(self) -> float:
        """Linear warm-up, then a cosine to zero."""
        progress, warmup = (self.batches_done + 1) / self.total_batches, self.config.warmup
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
            self.model.logger.record("time/epoch", epoch)
            self.model.logger.record("time/steps", self.steps)
            self.model.logger.dump(self.updates)
        if folder is not None and (ended or self.batches_done % self.config.save_freq == 0):
            self._save_checkpoint(folder / CHECKPOINT)

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
        if folder is not None and np.mean(rewards) > self.best_reward:
            self.best_reward = float(np.mean(rewards))
            self.save(folder / BEST_MODEL)

    def _fit_spread(self) -> None:
        if isinstance(self.policy.action_space, spaces.Box) and self.running_sums is not None:
            fit_log_std(self.policy, self.running_sums[1:], self.running_sums[0])

    def _run(self) -> dict[str, Any]:
        """What a run must have in common with a checkpoint to continue it."""
        return {**asdict(self.config), "episodes": len(self.episodes), "seed": self.seed}

    def _save_checkpoint(self, path: Path) -> None:
        state = {
            "run": self._run(),
            "policy": self.policy.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": {name: getattr(self, name) for name in PROGRESS},
        }
        with atomic_path(path) as temporary:
            th.save(state, temporary)

    def _restore(self, path: Path) -> None:
        try:
            state = th.load(path, map_location=self.model.device, weights_only=True)
            run, policy, optimizer, progress = (state[key] for key in ("run", "policy", "optimizer", "progress"))
        except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not a checkpoint of behaviour cloning: {error}") from error
        different = [f"{key}={run.get(key)!r}" for key, value in self._run().items() if run.get(key) != value]
        if different:
            raise ValueError(
                f"{path} is the checkpoint of a run with {', '.join(different)}. Continue with the same, or in another folder."
            )
        self.policy.load_state_dict(policy)
        self.optimizer.load_state_dict(optimizer)
        for name in PROGRESS:
            setattr(self, name, progress[name])


PROGRESS = ("batches_done", "updates", "steps", "best_reward", "running_sums")


def _join(parts: list[np.ndarray], space: spaces.Space) -> np.ndarray:
    """Arrays of steps one after another; without any, none."""
    return np.concatenate(parts) if parts else np.empty((0, *space.shape), dtype=space.dtype)  # type: ignore[misc]


if __name__ == "__main__":
    from sb3_elmur.bc_command import main

    main()
