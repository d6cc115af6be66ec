"""
Episodes looked into: what the memory held, read and wrote, step by step, and what probes decode from it.

The episodes are first played as always, and then traced a segment at a time, all together. One of them is shown; the others
are there to fit linear probes.

Axis letters: B episodes, T steps and S segments of the shown one, N layers, M slots, D width, L segment length.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.vec_env import VecEnv

from sb3_elmur.core.memory import EMPTY, Memory
from sb3_elmur.evaluation.episodes import play_episodes
from sb3_elmur.inspection.probing import Label, probe
from sb3_elmur.monitoring.monitor import embed_observations, memory_of
from sb3_elmur.monitoring.tracing import SegmentTrace, trace_segment
from sb3_elmur.policies import ElmurPolicy
from sb3_elmur.spaces import map_observations

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
    Play one episode in each environment, and keep what happens.

    :param policy: Who plays.
    :param env: Environments, which are seeded and reset.
    :param seed: Seed of the first environment, and of actions if these are drawn; the others follow.
    :param deterministic: Take the most probable actions.
    :return: The episodes.
    :raises ValueError: If the environments have other spaces than the policy.
    """
    lengths = np.zeros(env.num_envs, dtype=np.int64)
    last_infos: list[dict[str, Any]] = [{} for _ in range(env.num_envs)]
    observations, actions, rewards = [], [], []
    for step in play_episodes(policy, env, seed, deterministic):

        def masked(values: np.ndarray, running: np.ndarray = step.running) -> np.ndarray:
            """Zeros for episodes that have ended."""
            return np.where(running.reshape(-1, *[1] * (values.ndim - 1)), values, np.zeros_like(values))

        observations.append(map_observations(masked, step.observations))
        actions.append(masked(step.actions))
        rewards.append(masked(step.rewards))
        lengths += step.running
        for i in np.flatnonzero(step.ended):
            last_infos[i] = step.infos[i]

    def stacked(*steps: np.ndarray) -> np.ndarray:
        return np.stack(steps, axis=1)  # (B, T, ...)

    return Played(map_observations(stacked, *observations), stacked(*actions), stacked(*rewards), lengths, last_infos)


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


class _Segment(NamedTuple):
    """What one segment adds to the fields of :class:`Inspection` that have its names, without the axis S."""

    slots: np.ndarray
    empty: np.ndarray
    written: int
    replaced: bool
    blend: np.ndarray
    read: np.ndarray
    write: np.ndarray
    accuracy: np.ndarray
    decoded: np.ndarray


def inspect_episodes(policy: ElmurPolicy, played: Played, label: Label | None = None) -> Inspection:
    """
    Trace the first episode, and fit probes to all.

    :param policy: Who played.
    :param played: Its episodes.
    :param label: What to decode from slots, of each episode.
    :return: What happened in the memory.
    :raises ValueError: If the policy has no ELMUR memory.
    """
    core = memory_of(policy)
    policy.set_training_mode(False)
    columns: Any = _Segment(*zip(*_trace(policy, played, label), strict=True))
    middle = core.config.max_distance - 1
    reach = min(middle, int(played.lengths[0]))
    tables = [layer.relative_bias[middle - reach : middle + reach + 1].mean(1) for layer in core.layers]
    return Inspection(
        read=np.concatenate(columns.read),
        bias=th.stack(tables).detach().cpu().numpy(),
        accuracy=None if label is None else np.stack(columns.accuracy),
        decoded=None if label is None else np.stack(columns.decoded),
        **{name: np.stack(getattr(columns, name)) for name in ("slots", "empty", "written", "replaced", "blend", "write")},
    )


def _trace(policy: ElmurPolicy, played: Played, label: Label | None) -> Iterator[_Segment]:
    """The segments of the first episode; the others go along for probes while they last."""
    core, length = memory_of(policy), policy.config.segment_length
    rows = np.arange(1 if label is None else len(played.lengths))
    memory = core.initial_memory(len(rows))
    for begin in range(0, int(played.lengths[0]), length):
        lengths = th.as_tensor((played.lengths[rows] - begin).clip(0, length), device=policy.device)
        x = _tokens(policy, played.observations, rows, slice(begin, begin + length))
        trace = trace_segment(core, x[:1, : int(lengths[0])], memory.rows(slice(1)), lengths[:1])
        with th.no_grad():
            _, memory = core.segment(x, memory, lengths)
        yield _segment(trace, memory, *_probe_slots(memory.slots, rows, label))
        going_on = played.lengths[rows] > begin + length
        rows, memory = rows[going_on], memory.rows(th.as_tensor(going_on, device=policy.device))


def _tokens(policy: ElmurPolicy, observations: Any, rows: np.ndarray, steps: slice) -> th.Tensor:
    """What the stack gets to see at some steps of some episodes, (B, T, D)."""

    def chosen(array: np.ndarray) -> np.ndarray:
        part = array[rows, steps]
        return part.reshape(-1, *part.shape[2:])  # (B * T, ...)

    obs, _ = policy.obs_to_tensor(map_observations(chosen, observations))
    return embed_observations(policy, obs).unflatten(0, (len(rows), -1))


def _segment(trace: SegmentTrace, memory: Memory, accuracy: np.ndarray, decoded: np.ndarray) -> _Segment:
    """What happened to the first row; ``memory`` is that after the segment, and probes have decoded it."""
    n_layers, length = trace.write.shape[1], trace.write.shape[3]
    wrote = len(trace.rows) > 0
    return _Segment(
        slots=memory.slots[0].cpu().numpy(),
        empty=(memory.anchors[0] == EMPTY).cpu().numpy(),
        written=int(trace.slot) if wrote else -1,
        replaced=wrote and not bool(trace.empty),
        blend=trace.blend[0].cpu().numpy() if wrote else np.zeros(n_layers),
        read=trace.read[0].mean(1).transpose(0, 1).cpu().numpy(),  # (N, H, T, M) to (T, N, M)
        write=trace.write[0].mean(1).cpu().numpy() if wrote else np.zeros((n_layers, length)),
        accuracy=accuracy,
        decoded=decoded,
    )


def _probe_slots(slots: th.Tensor, rows: np.ndarray, label: Label | None) -> tuple[np.ndarray, np.ndarray]:
    """
    Probe each slot.

    :param slots: Of B episodes, (B, N, M, D), of which the first is the shown one.
    :param rows: Their numbers, (B,).
    :param label: What to decode.
    :return: The accuracy in the other episodes, and the class that is decoded in the shown one, both (N, M); NaN and -1 if the
        episodes are too few, or there is no label.
    """
    if label is None or len(slots) <= FEWEST_EPISODES:
        return np.full(slots.shape[1:3], np.nan), np.full(slots.shape[1:3], -1)
    classes = label.of[rows].to(slots.device)
    decoded = probe(slots.flatten(1, 2), classes, len(label.classes)).unflatten(1, slots.shape[1:3])  # (B, N, M)
    right = (decoded[1:] == classes[1:, None, None]).double().mean(0)
    return right.cpu().numpy(), decoded[0].cpu().numpy()
