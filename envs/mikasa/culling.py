"""Leaving out of a camera's picture what it cannot see, where a CPU renders and every triangle costs time."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from itertools import product
from typing import Any

import numpy as np

MARGIN = 1e-3  # metres


class Culling:
    """
    Hides bodies that lie outside of a camera's view while it takes its picture, which changes no pixel.

    :param simulation: The suite's environment of a task, drawn on the CPU, whose cameras' ``capture`` is replaced.
    """

    def __init__(self, simulation: Any) -> None:
        components = (body for entity in simulation.scene.sub_scenes[0].entities for body in entity.components)
        self._bodies = list(filter(has_box, components))
        self._boxes = np.stack([box(body) for body in self._bodies])  # (N, 8, 4)
        for camera in simulation.scene.sensors.values():
            camera.capture = partial(self.capture, camera)

    def capture(self, camera: Any) -> None:
        """
        Take a picture.

        :param camera: ManiSkill's.
        """
        (taken,) = camera.camera._render_cameras
        poses = np.stack([body.entity.pose.to_transformation_matrix() for body in self._bodies])  # (N, 4, 4)
        to_camera = np.linalg.inv(taken.global_pose.to_transformation_matrix()) @ poses
        corners = self._boxes @ to_camera.transpose(0, 2, 1)  # (N, 8, 4)
        unseen = outside(corners[..., :3], np.tan(taken.fovx / 2), np.tan(taken.fovy / 2))
        hidden = [(body, body.visibility) for body, out in zip(self._bodies, unseen, strict=True) if out]
        for body, _ in hidden:
            body.visibility = 0.0
        camera.camera.take_picture()
        for body, visibility in hidden:
            body.visibility = visibility


def has_box(component: Any) -> bool:
    """
    Tell whether a component of an entity is a body that is drawn from meshes, whose size is known.

    :param component: SAPIEN's.
    :return: Whether :func:`box` takes it.
    """
    render = import_module("sapien").render
    if not isinstance(component, render.RenderBodyComponent) or not component.render_shapes:
        return False
    return all(isinstance(shape, render.RenderShapeTriangleMesh) for shape in component.render_shapes)


def box(body: Any) -> np.ndarray:
    """
    The box around a body.

    :param body: SAPIEN's, of meshes.
    :return: Its corners in the body's frame, with a one behind each, (8, 4).
    """
    vertices = []
    for shape in body.render_shapes:
        pose = shape.local_pose.to_transformation_matrix()
        scaled = np.concatenate([part.vertices for part in shape.parts]) * shape.scale
        vertices.append(scaled @ pose[:3, :3].T + pose[:3, 3])
    every = np.concatenate(vertices)
    sides = np.stack((every.min(axis=0), every.max(axis=0)))  # (2, 3)
    return np.array([[sides[i, 0], sides[j, 1], sides[k, 2], 1.0] for i, j, k in product((0, 1), repeat=3)])


def outside(corners: np.ndarray, tan_x: float, tan_y: float) -> np.ndarray:
    """
    Tell which boxes a camera cannot see: those that lie beyond one of the sides of its view, or behind it.

    :param corners: In the camera's frame, which looks along x, with y to its left and z up, (N, 8, 3).
    :param tan_x: Tangent of half the horizontal angle of view.
    :param tan_y: Of the vertical one.
    :return: (N,) bool.
    """
    ahead, left, up = np.moveaxis(corners, -1, 0)  # each (N, 8)
    beyond = np.stack((left - tan_x * ahead, -left - tan_x * ahead, up - tan_y * ahead, -up - tan_y * ahead, -ahead))
    all_beyond: np.ndarray = np.all(beyond > MARGIN, axis=2)  # (5, N)
    return np.any(all_beyond, axis=0)
