"""Segments of episodes at once: what an actor does in them, and its memory after them."""

import numpy as np
import torch as th
from torch import Tensor

from sb3_elmur.core.memory import Memory
from sb3_elmur.core.states import CoreState, Memories
from sb3_elmur.policies import ElmurPolicy


def replay_segments(policy: ElmurPolicy, observations: np.ndarray, memory: Memory) -> tuple[np.ndarray, Memory]:
    """
    Replay whole segments.

    :param policy: Who acts.
    :param observations: (B, L, F).
    :param memory: Before the segments, of B rows.
    :return: The most probable actions (B, L), and the memory after the segments.
    """
    lengths = th.full((len(observations),), observations.shape[1], device=policy.device)
    latent, memory = policy.replay(_as_tokens(policy, observations), memory, lengths, need_memory=True)
    return policy.action_net(latent).argmax(1).view(len(observations), -1).cpu().numpy(), memory


def open_segments(policy: ElmurPolicy, observations: np.ndarray, memory: Memory) -> CoreState:
    """
    The state with which a policy goes on within segments.

    :param policy: Who acts.
    :param observations: Of the steps of the segments so far, (B, T, F); T may be 0.
    :param memory: Before the segments, of B rows.
    """
    lengths = th.full((len(observations),), observations.shape[1], device=policy.device)
    memories = Memories(memory, memory)  # the critic's is not looked at
    return policy.reopen(_as_tokens(policy, observations), memories, lengths).pi


def _as_tokens(policy: ElmurPolicy, observations: np.ndarray) -> Tensor:
    return th.as_tensor(observations.reshape(-1, observations.shape[-1]), device=policy.device)
