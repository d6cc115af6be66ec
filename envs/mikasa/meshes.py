"""Lighter meshes for cameras that a CPU renders."""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

WRIST_CAMERA = "camera_link"  # of 425,160 triangles, four fifths of all that is drawn
GRID = 1e-3  # metres; a pixel of the benchmark's images shows several times as much of the wrist


class Mesh(NamedTuple):
    """
    Triangles between points.

    :param vertices: Places in metres, (V, 3) float32.
    :param triangles: Indices of their corners, (F, 3) uint32.
    :param normals: Directions, (V, 3) float32.
    :param uvs: Places in a texture, (V, 2) float32.
    """

    vertices: np.ndarray
    triangles: np.ndarray
    normals: np.ndarray
    uvs: np.ndarray


def simplify(mesh: Mesh, grid: float) -> Mesh:
    """
    Merge vertices that lie in the same cell of a grid and face about the same way, and drop the triangles that collapse.

    :param mesh: Any.
    :param grid: Edge of a cell in metres.
    :return: A mesh of about the same shape, with fewer triangles.
    """
    cells = np.concatenate((np.round(mesh.vertices / grid), np.round(mesh.normals)), axis=1)  # (V, 6)
    _, kept, merged = np.unique(cells, axis=0, return_index=True, return_inverse=True)
    corners = merged.reshape(-1)[mesh.triangles]  # (F, 3), indices of merged vertices
    a, b, c = corners.T
    corners = corners[(a != b) & (b != c) & (c != a)]
    turn = (corners.argmin(axis=1)[:, None] + np.arange(3)) % 3  # the same triangle may begin at any corner
    triangles = np.unique(np.take_along_axis(corners, turn, axis=1), axis=0).astype(np.uint32)
    return Mesh(mesh.vertices[kept], triangles, mesh.normals[kept], mesh.uvs[kept])


def simplify_wrist_camera(simulation: Any) -> None:
    """
    Draw the housing of the wrist's camera with fewer triangles, which halves the time of a step with images.

    :param simulation: The suite's environment of a task, drawn on the CPU.
    """
    render = import_module("sapien").render
    entity = simulation.agent.robot.links_map[WRIST_CAMERA]._objs[0].entity
    detailed = next(component for component in entity.components if isinstance(component, render.RenderBodyComponent))
    body = render.RenderBodyComponent()
    for shape in detailed.render_shapes:
        for part in shape.parts:
            mesh = Mesh(part.vertices, part.triangles, part.get_vertex_normal(), part.get_vertex_uv())
            lighter = render.RenderShapeTriangleMesh(*simplify(mesh, GRID), part.material)
            lighter.local_pose, lighter.scale = shape.local_pose, shape.scale
            body.attach(lighter)
    entity.remove_component(detailed)
    entity.add_component(body)
