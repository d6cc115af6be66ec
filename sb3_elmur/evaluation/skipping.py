"""Skipping of quiet segments, however many there are, where nothing that can be seen in them changes what memory becomes."""

from collections.abc import Callable
from itertools import product

import numpy as np

from sb3_elmur.envs.tmaze.config import NOISE, Action
from sb3_elmur.envs.tmaze.noise import NOISE_VALUES
from sb3_elmur.evaluation.known_segments import UNSETTLED, KnownSegments

MOST_PATTERNS = 729  # of noise in a segment, of which all are tried
VISITS = 8  # one of so many patterns was met before all are tried
Replay = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


class Skipping:
    """
    Finds memories that lead to the same next one with every noise that there is, and follows them.

    :param known: Where they are numbered.
    :param segment_length: L. In segments of more than six steps there are too many patterns of noise, and nothing is skipped.
    :param replay: From observations in a segment (b, L, F) and the numbers of the memories before it (b,) to the actions
        (b, L), and the numbers of the memories after it (b,).
    """

    def __init__(self, known: KnownSegments, segment_length: int, replay: Replay) -> None:
        self._known, self._replay = known, replay
        few = len(NOISE_VALUES) ** segment_length <= MOST_PATTERNS
        self._patterns = np.array([*product(NOISE_VALUES, repeat=segment_length)], dtype=np.float32) if few else None

    def skip(self, numbers: np.ndarray, observations: np.ndarray, n_segments: int) -> np.ndarray | None:
        """
        Numbers of memories after quiet segments, in which agents move right whatever the noise.

        :param numbers: Of the memories before them, (B,).
        :param observations: In the corridor, of which noise alone will change, (B, F).
        :param n_segments: How many.
        :return: (B,), or ``None`` where noise makes a difference, or may make one.
        """
        if self._patterns is None:
            return None
        for number in self._known.often(numbers, len(self._patterns) // VISITS + 1):
            seen = np.tile(observations[numbers == number][0], (*self._patterns.shape, 1))
            seen[:, :, NOISE] = self._patterns
            actions, after = self._replay(seen, np.full(len(seen), number))
            self._known.settle(number, np.where((actions == Action.RIGHT).all(1), after, UNSETTLED))
        return self._known.follow(numbers, n_segments)
