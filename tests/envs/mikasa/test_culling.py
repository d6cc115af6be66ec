"""What a camera cannot see."""

import numpy as np
import pytest

from sb3_elmur.envs.mikasa.culling import outside


def corners(place: tuple[float, float, float], half: float = 0.1) -> np.ndarray:
    """The corners of a cube in the camera's frame, (8, 3)."""
    signs = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, 8).T
    return np.array(place) + half * signs


@pytest.mark.parametrize(
    ("place", "unseen"),
    [
        ((1.0, 0.0, 0.0), False),
        ((-1.0, 0.0, 0.0), True),
        ((1.0, 0.9, 0.0), False),
        ((1.0, 1.15, 0.0), False),  # a corner of it is in sight
        ((1.0, 1.3, 0.0), True),
        ((1.0, -1.3, 0.0), True),
        ((1.0, 0.0, 0.4), False),
        ((1.0, 0.0, 0.7), True),
        ((1.0, 0.0, -0.7), True),
        ((0.0, 0.0, 0.0), False),  # around the camera
    ],
)
def test_boxes_beyond_a_side_of_the_view_are_outside(place: tuple[float, float, float], unseen: bool) -> None:
    assert outside(corners(place)[None], tan_x=1.0, tan_y=0.5).tolist() == [unseen]
