"""
Episodes looked into: what the memory held, read and wrote, step by step, and what probes decode from it.

The episodes are first played as always, and then traced a segment at a time, all together. One of them is shown; the others
are there to fit linear probes.

Axis letters: B episodes, T steps and S segments of the shown one, N layers, M slots, D width, L segment length.
"""

from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.utils import check_for_correct_spaces
from stable_baselines3.common.vec_env import VecEnv

from sb3_elmur.core.memory import EMPTY
from sb3_elmur.inspection.probing import Label, probe
from sb3_elmur.monitoring.monitor import embed_observations, memory_of
from sb3_elmur.monitoring.tracing import trace_segment
from sb3_elmur.policies import ElmurPolicy

FEWEST_EPISODES = 10  # besides the shown one, for probes


class Played(NamedTuple):
    """
    B episodes; what comes after an episode's end is zero.

    :param observations: As the policy saw them, (B, T, ...), or a dictionary of such arrays.
    :param actions: (B, T, ...).
    :param rewards: (B, T).
    :param lengths: Steps of each episode, (B,).
    :param last_infos: What the environment said at each episode's end.
    """

    observations: Any
    actions: np.ndarray
    rewards: np.ndarray
    lengths: np.ndarray
    last_infos: list[dict[str, Any]]


def play(policy: ElmurPolicy, env: VecEnv, seed: int, deterministic: bool = True) -> Played:
    """
    Play one episode in each environment.

    :param policy: Who plays.
    :param env: Environments, which are seeded and reset.
    :param seed: Seed of the first environment, and of actions if these are drawn; the others follow.
    :param deterministic: Take the most probable actions.
    :raises ValueError: If the environments have other spaces than the policy.
    """
    check_for_correct_spaces(env, policy.observation_space, policy.action_space)
    env.seed(seed)
    th.manual_seed(seed)
    obs: Any = env.reset()
    state = None
    starts, running = np.ones((2, env.num_envs), dtype=bool)
    lengths = np.zeros(env.num_envs, dtype=np.int64)
    last_infos: list[dict[str, Any]] = [{} for _ in range(env.num_envs)]
    steps = []
    while running.any():
        actions, state = policy.step(obs, state, starts, deterministic)
        new_obs, rewards, starts, infos = env.step(actions)
        steps.append((_masked(obs, running), _masked(actions, running), _masked(rewards, running)))
        lengths += running
        for i in np.flatnonzero(starts & running):
            last_infos[i] = infos[i]
        running, obs = running & ~starts, new_obs
    columns = list(zip(*steps, strict=True))
    observations, actions, rewards = (_stack(column) for column in columns)
    return Played(observations, actions, rewards, lengths, last_infos)


def _masked(value: Any, running: np.ndarray) -> Any:
    if isinstance(value, dict):
        return {key: _masked(each, running) for key, each in value.items()}
    return np.where(running.reshape(-1, *[1] * (value.ndim - 1)), value, np.zeros_like(value))


def _stack(column: Any) -> Any:
    """Steps of all episodes, (B, T, ...)."""
    if isinstance(column[0], dict):
        return {key: _stack([each[key] for each in column]) for key in column[0]}
    return np.stack(column, axis=1)


class Inspection(NamedTuple):
    """
    What happened in the memory in the shown episode.

    :param slots: After each segment, (S, N, M, D).
    :param empty: Whether nothing was written to a slot yet, after each segment, (S, M) bool.
    :param written: The slot that each segment wrote, (S,); -1 if it was too short to write.
    :param replaced: Whether that slot had been written before, (S,) bool.
    :param blend: Weight of the new content, (S, N); 0 where nothing was written.
    :param read: Attention of each step on each slot, the mean over heads, (T, N, M).
    :param write: Attention of each write on the steps of its segment, the mean over heads, (S, N, L); 0 if none.
    :param bias: Relative bias of each layer, the mean over heads, (N, 2 R + 1), for distances from -R to R steps.
    :param accuracy: Share of the other episodes in which a probe decodes the label from each slot after each segment,
        (S, N, M); NaN where too few last as long. ``None`` without a label.
    :param decoded: The class that it decodes in the shown episode, (S, N, M); ``None`` without a label.
    """

    slots: np.ndarray
    empty: np.ndarray
    written: np.ndarray
    replaced: np.ndarray
    blend: np.ndarray
    read: np.ndarray
    write: np.ndarray
    bias: np.ndarray
    accuracy: np.ndarray | None
    decoded: np.ndarray | None

    @property
    def segment_length(self) -> int:
        """L."""
        return self.write.shape[2]

    @property
    def ages(self) -> np.ndarray:
        """Steps since each slot's content last changed, after each segment, (S, N, M); NaN for empty slots."""
        n_segments, n_layers, n_slots = self.slots.shape[:3]
        ages = np.full((n_segments, n_layers, n_slots), np.nan)
        for s in range(n_segments):
            if s:
                ages[s] = ages[s - 1] + self.segment_length
            if self.written[s] >= 0:
                ages[s, self.blend[s] > 0, self.written[s]] = 0.0
        return ages


def inspect_episodes(policy: ElmurPolicy, played: Played, label: Label | None = None) -> Inspection:
    """
    Trace the first episode, and fit probes to all.

    :param policy: Who played.
    :param played: Its episodes.
    :param label: What to decode from slots, of each episode.
    :raises ValueError: If the policy has no ELMUR memory.
    """
    core, device = memory_of(policy), policy.device
    length, n_layers, n_slots = core.segment_length, core.config.n_layers, core.config.memory_size
    policy.set_training_mode(False)
    n_steps = int(played.lengths[0])
    n_segments = -(-n_steps // length)
    rows = np.arange(1 if label is None else len(played.lengths))
    memory = core.initial_memory(len(rows))
    slots, empty, accuracy, decoded = [], [], [], []
    written, replaced = np.full(n_segments, -1), np.zeros(n_segments, dtype=bool)
    blend, write = np.zeros((n_segments, n_layers)), np.zeros((n_segments, n_layers, length))
    read = np.zeros((n_steps, n_layers, n_slots))
    for s in range(n_segments):
        begin = s * length
        lengths = th.as_tensor((played.lengths[rows] - begin).clip(0, length), device=device)
        x = embed_observations(policy, _cut(policy, played.observations, rows, slice(begin, begin + length)))
        x = x.unflatten(0, (len(rows), -1))
        trace = trace_segment(core, x[:1, : int(lengths[0])], memory.rows(slice(1)), lengths[:1])
        with th.no_grad():
            _, memory = core.segment(x, memory, lengths)
        read[begin : begin + length] = trace.read[0].mean(1).transpose(0, 1).cpu().numpy()
        if len(trace.rows):
            written[s], replaced[s] = int(trace.slot), not bool(trace.empty)
            blend[s], write[s] = trace.blend[0].cpu().numpy(), trace.write[0].mean(1).cpu().numpy()
        slots.append(memory.slots[0].cpu().numpy())
        empty.append((memory.anchors[0] == EMPTY).cpu().numpy())
        if label is not None:
            classes = label.of[rows].to(device)
            found = _probe_slots(memory.slots, classes, len(label.classes))
            right = (found[1:] == classes[1:, None, None]).double().mean(0)
            enough = len(rows) > FEWEST_EPISODES
            accuracy.append(right.cpu().numpy() if enough else np.full((n_layers, n_slots), np.nan))
            decoded.append(found[0].cpu().numpy())
        going_on = played.lengths[rows] > begin + length
        rows, memory = rows[going_on], memory.rows(th.as_tensor(going_on, device=device))
    reach = min(core.config.max_distance - 1, n_steps)
    middle = core.config.max_distance - 1
    tables = [layer.relative_bias[middle - reach : middle + reach + 1].mean(1) for layer in core.layers]
    return Inspection(
        slots=np.stack(slots),
        empty=np.stack(empty),
        written=written,
        replaced=replaced,
        blend=blend,
        read=read,
        write=write,
        bias=th.stack(tables).detach().cpu().numpy(),
        accuracy=np.stack(accuracy) if label is not None else None,
        decoded=np.stack(decoded) if label is not None else None,
    )


def _cut(policy: ElmurPolicy, observations: Any, rows: np.ndarray, steps: slice) -> Any:
    """Observations of some steps as tensors, (B * T, ...), row by row."""

    def cut(array: np.ndarray) -> np.ndarray:
        part = array[rows, steps]
        return part.reshape(-1, *part.shape[2:])

    chosen: Any = (
        {key: cut(value) for key, value in observations.items()} if isinstance(observations, dict) else cut(observations)
    )
    return policy.obs_to_tensor(chosen)[0]


def _probe_slots(slots: th.Tensor, classes: th.Tensor, n_classes: int) -> th.Tensor:
    """The class that is decoded from each slot, (B, N, M)."""
    if len(slots) <= FEWEST_EPISODES:
        return classes.new_full(slots.shape[:3], -1)
    return probe(slots.flatten(1, 2), classes, n_classes).unflatten(1, slots.shape[1:3])
