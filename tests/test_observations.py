"""The one function for array and Dict observations."""

import numpy as np

from sb3_elmur.observations import map_observations


def test_arrays_are_handed_to_the_function() -> None:
    assert map_observations(np.add, np.ones(2), np.full(2, 3)).tolist() == [4, 4]


def test_dictionaries_are_taken_entry_by_entry() -> None:
    first, second = {"a": np.ones(1), "b": np.zeros(2)}, {"b": np.ones(2), "a": np.ones(1)}
    total = map_observations(np.add, first, second)
    assert list(total) == ["a", "b"]
    assert total["a"].tolist() == [2]
    assert total["b"].tolist() == [1, 1]


def test_several_observations_are_stacked_into_a_batch() -> None:
    rows = [{"a": np.array([i])} for i in range(3)]
    assert map_observations(lambda *arrays: np.stack(arrays), *rows)["a"].tolist() == [[0], [1], [2]]
