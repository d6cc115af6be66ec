"""Segments in the corridors of T-Mazes whose outcome is known, because memory and observations were the same before."""

import math
from collections import Counter

import numpy as np
import torch as th

from sb3_elmur.core.memory import Memory

MOST_BYTES = 2**28  # that `KnownSegments` may use
ENTRY_BYTES = 256  # for the Python objects of one entry, beside its content
UNSETTLED = -1


class KnownSegments:
    """
    Where segments in which an agent always moved right led to, by the memory before them and the observations.

    Memories are numbered. They are told apart by their content and by how long ago each slot was written; a policy sees
    nothing else of them. A memory is *settled* if all that can be seen in a quiet corridor leads to the same next one.

    :param like: Memory of the same shape and device.
    """

    def __init__(self, like: Memory) -> None:
        self._device = like.slots.device
        slots, ages = like.slots.cpu().numpy(), like.anchors.cpu().numpy()
        fields = [("slots", slots.dtype, slots.shape[1:]), ("ages", ages.dtype, ages.shape[1:])]
        self._type = np.dtype([*fields, ("padding", np.uint8)])  # NumPy refuses rows of no bytes, as without slots
        self._clear()

    def _clear(self) -> None:
        self._memories: list[bytes] = []
        self._numbers: dict[bytes, int] = {}
        self._next: dict[tuple[int, bytes], int] = {}
        self._visits: Counter[int] = Counter()
        self._settled: dict[int, int] = {}
        self._n_bytes = 0

    def number(self, memory: Memory) -> np.ndarray:
        """Numbers of the memories of B rows, (B,) int64, the same for the same memory."""
        rows = np.zeros(len(memory.position), self._type)
        rows["slots"] = memory.slots.cpu().numpy()
        rows["ages"] = (memory.position[:, None] - memory.anchors).cpu().numpy()
        return self._number(row_bytes(rows))

    def _number(self, memories: list[bytes]) -> np.ndarray:
        for content in memories:
            if content not in self._numbers:
                self._numbers[content] = len(self._memories)
                self._memories.append(content)
                self._n_bytes += len(content) + ENTRY_BYTES
        return np.array([self._numbers[content] for content in memories])

    def memory(self, numbers: np.ndarray, time: int) -> Memory:
        """Memories (B rows) of the given numbers, (B,), at a time."""
        rows = np.frombuffer(b"".join([self._memories[i] for i in numbers.tolist()]), self._type)
        slots, ages = (th.as_tensor(rows[field].copy(), device=self._device) for field in ("slots", "ages"))
        return Memory(slots, time - ages, th.full((len(rows),), time, device=self._device))

    def look_up(self, numbers: np.ndarray, observations: np.ndarray) -> np.ndarray:
        """Numbers of the memories after segments with observations (B, L, F), (B,); -1 where unknown."""
        return np.array([self._next.get(key, -1) for key in zip(numbers.tolist(), row_bytes(observations), strict=True)])

    def often(self, numbers: np.ndarray, n_visits: int) -> list[int]:
        """Which of the memories of the given numbers (B,), here once more, were here so often; each is returned once."""
        self._visits.update(numbers.tolist())
        return [number for number in set(numbers.tolist()) if self._visits[number] >= n_visits and number not in self._settled]

    def settle(self, number: int, after: np.ndarray) -> None:
        """
        Remember where all segments lead to that an agent can meet in a quiet corridor.

        :param number: Of the memory before them.
        :param after: Numbers of the memories after all of them; where they differ, or one is negative, they are not settled.
        """
        self._settled[number] = int(after[0]) if (after == after[0]).all() else UNSETTLED

    def follow(self, numbers: np.ndarray, n_segments: int) -> np.ndarray | None:
        """
        Numbers after quiet segments whose observations make no difference.

        :param numbers: Of the memories before them, (B,).
        :param n_segments: How many.
        :return: (B,), or ``None`` where one of them is not settled.
        """
        after = {number: self._follow(number, n_segments) for number in set(numbers.tolist())}
        return None if UNSETTLED in after.values() else np.array([after[number] for number in numbers.tolist()])

    def _follow(self, number: int, n_segments: int) -> int:
        path, place = [number], {number: 0}
        while len(path) <= n_segments:
            after = self._settled.get(path[-1], UNSETTLED)
            if after == UNSETTLED:
                return UNSETTLED
            if after in place:  # from there on it goes round
                start, period = place[after], len(path) - place[after]
                return path[start + (n_segments - start) % period]
            place[after] = len(path)
            path.append(after)
        return path[n_segments]

    def add(self, numbers: np.ndarray, observations: np.ndarray, after: np.ndarray) -> None:
        """Remember what :meth:`look_up` asks for."""
        keys = zip(numbers.tolist(), row_bytes(observations), strict=True)
        self._next.update(zip(keys, after.tolist(), strict=True))
        self._n_bytes += observations.nbytes + len(observations) * ENTRY_BYTES

    def tidy(self, numbers: np.ndarray) -> np.ndarray:
        """Forget all but the memories of the given numbers, (B,), if there is too much; return the numbers they now have."""
        if self._n_bytes < MOST_BYTES:
            return numbers
        kept = [self._memories[i] for i in numbers.tolist()]
        self._clear()
        return self._number(kept)


def row_bytes(array: np.ndarray) -> list[bytes]:
    """The bytes of each row of an array (B, ...)."""
    rows = np.ascontiguousarray(array).reshape(len(array), math.prod(array.shape[1:]))
    return rows.view(f"V{rows.shape[1] * rows.itemsize}")[:, 0].tolist()
