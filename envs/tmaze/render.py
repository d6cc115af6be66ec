"""Pictures of the T-Maze, drawn with pygame."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..drawing import (
    BLUE,
    FLOOR,
    GREEN,
    INK,
    PALE,
    RED,
    WHITE,
    YELLOW,
    Color,
    Point,
    blank,
    import_pygame,
    pixels,
    write,
)

if TYPE_CHECKING:
    from pygame import Surface

WIDTH, HEIGHT = 720, 340
CELL = 56
VISIBLE_CELLS = 11
ROW = 156
PROGRESS_WIDTH, PROGRESS_Y = 200, 260
BAR_LEFT, BAR_RIGHT, BAR_Y = 52, WIDTH - 52, 296

ORACLE, GOAL, AGENT, FAILURE, BUBBLE = YELLOW, GREEN, BLUE, RED, WHITE


class Scene(NamedTuple):
    """
    What a picture shows of one maze.

    :param x: Position along the corridor.
    :param y: 0, or +-1 in an end of the junction.
    :param goal: +1 up, -1 down.
    :param hint: The goal while the agent sees it, else 0.
    :param corridor: Cells before the junction.
    :param leftmost: Position of the leftmost cell; a negative one is the oracle.
    :param steps: Steps taken in the corridor.
    :param length: Step limit.
    :param turns: Turns taken in the episode.
    :param correct_turns: How many of them were right.
    :param n_corridors: Corridors of the episode.
    :param last_action: Name of the last action, None right after a reset.
    :param cues: In a maze of several cues, all of them, else ().
    :param asked: Number of the cue that the next junction asks for.
    :param runes: In a maze of runes, their names, else ().
    :param rune: Number of the one that is seen.
    """

    x: int
    y: int
    goal: int
    hint: int
    corridor: int
    leftmost: int
    steps: int
    length: int
    turns: int
    correct_turns: int
    n_corridors: int
    last_action: str | None
    cues: tuple[int, ...] = ()
    asked: int = 0
    runes: tuple[str, ...] = ()
    rune: int | None = None

    @property
    def outcome(self) -> str | None:
        """How the episode ended, None while it runs."""
        if self.y:
            return "success" if self.correct_turns == self.n_corridors else "failure: wrong turn"
        return "failure: out of steps" if self.steps == self.length else None


def draw(scene: Scene) -> np.ndarray:
    """
    Draw a maze: the cells around the agent, and the whole corridor as a bar below.

    :param scene: What to draw.
    :return: RGB image, uint8 of shape (HEIGHT, WIDTH, 3).
    :raises DependencyNotInstalled: Without pygame.
    """
    surface = blank(WIDTH, HEIGHT)
    _draw_header(surface, scene)
    _draw_maze(surface, scene)
    _draw_bar(surface, scene)
    _draw_cues(surface, scene)
    _draw_runes(surface, scene)
    if scene.n_corridors > 1:
        _draw_progress(surface, scene)
    return pixels(surface)


def _draw_header(surface: Surface, scene: Scene) -> None:
    write(surface, f"step {scene.steps} / {scene.length}", (24, 24), 26, anchor="midleft")
    write(surface, f"last action: {scene.last_action or '-'}", (WIDTH / 2, 24), 26)
    if scene.outcome:
        color = GOAL if scene.outcome == "success" else FAILURE
        write(surface, scene.outcome, (WIDTH - 24, 24), 26, color, anchor="midright")


def _draw_maze(surface: Surface, scene: Scene) -> None:
    pygame = import_pygame()
    n_cells = min(VISIBLE_CELLS, scene.corridor - scene.leftmost + 1)
    first = min(max(scene.x - VISIBLE_CELLS // 2, scene.leftmost), scene.corridor - n_cells + 1)
    left = (WIDTH - n_cells * CELL) / 2

    def center(x: int, y: int) -> Point:
        return left + (x - first + 0.5) * CELL, ROW - y * CELL

    def draw_cell(x: int, y: int, color: Color) -> None:
        cell = pygame.Rect(0, 0, CELL - 4, CELL - 4)
        cell.center = center(x, y)
        pygame.draw.rect(surface, color, cell, border_radius=6)

    for x in range(first, first + n_cells):
        draw_cell(x, 0, ORACLE if x < 0 else FLOOR)
        write(surface, str(x), (center(x, 0)[0], ROW + CELL / 2 - 10), 16, PALE)
        if x <= 0:
            write(surface, "oracle" if x < 0 else "start", (center(x, 0)[0], ROW + CELL / 2 + 12), 20, PALE)
    if first + n_cells > scene.corridor:
        for y in (1, -1):
            draw_cell(scene.corridor, y, GOAL if y == scene.goal else FLOOR)
        goal_x, goal_y = center(scene.corridor, scene.goal)
        write(surface, "goal", (goal_x, goal_y + CELL / 2 - 10), 20, BUBBLE)
    else:
        write(surface, ". . .", (WIDTH - left / 2, ROW), 26, PALE)
    if first > scene.leftmost:
        write(surface, ". . .", (left / 2, ROW), 26, PALE)
    agent_x, agent_y = center(scene.x, scene.y)
    agent = agent_x, agent_y - 5
    pygame.draw.circle(surface, AGENT, agent, CELL * 0.26)
    if scene.hint:
        _draw_bubble(surface, agent, scene)


def _draw_bubble(surface: Surface, agent: Point, scene: Scene) -> None:
    pygame = import_pygame()
    aside = CELL * 1.2 if scene.x == scene.corridor else 0
    x, y = agent[0] - aside, agent[1] - (0 if scene.y else CELL * 1.2)
    for share, radius in ((0.3, 3), (0.45, 5)):
        tail = agent[0] + (x - agent[0]) * share, agent[1] + (y - agent[1]) * share
        pygame.draw.circle(surface, INK, tail, radius, width=2)
    pygame.draw.circle(surface, BUBBLE, (x, y), 26)
    pygame.draw.circle(surface, INK, (x, y), 26, width=2)
    _draw_arrow(surface, (x, y), scene.hint, 1.0)


def _draw_arrow(surface: Surface, center: Point, direction: int, scale: float) -> None:
    shape = ((0, -16), (13, 1), (5, 1), (5, 16), (-5, 16), (-5, 1), (-13, 1))
    x, y = center
    import_pygame().draw.polygon(surface, GOAL, [(x + dx * scale, y + dy * scale * direction) for dx, dy in shape])


def _draw_cues(surface: Surface, scene: Scene) -> None:
    """Draw all cues in a row, the one that is asked for in a frame."""
    pygame = import_pygame()
    for i, cue in enumerate(scene.cues):
        center = WIDTH / 2 + 26 * (i - (len(scene.cues) - 1) / 2), BAR_Y + 26
        if i == scene.asked:
            frame = pygame.Rect(0, 0, 24, 28)
            frame.center = center
            pygame.draw.rect(surface, ORACLE, frame, border_radius=5)
        _draw_arrow(surface, center, cue, 0.6)


def _draw_runes(surface: Surface, scene: Scene) -> None:
    """Name all runes in a row, the one that is seen in ink."""
    for i, name in enumerate(scene.runes):
        x = WIDTH * (i + 0.5) / len(scene.runes)
        write(surface, name, (x, PROGRESS_Y), min(22, 160 // len(scene.runes)), INK if i == scene.rune else PALE)


def _draw_bar(surface: Surface, scene: Scene) -> None:
    pygame = import_pygame()

    def place(x: int) -> float:
        return BAR_LEFT + (BAR_RIGHT - BAR_LEFT) * (x - scene.leftmost) / (scene.corridor - scene.leftmost)

    pygame.draw.line(surface, PALE, (BAR_LEFT, BAR_Y), (BAR_RIGHT, BAR_Y), 4)
    for y in (1, -1):
        color = GOAL if y == scene.goal else PALE
        pygame.draw.line(surface, color, (BAR_RIGHT, BAR_Y), (BAR_RIGHT, BAR_Y - 14 * y), 6)
    write(surface, str(scene.leftmost), (BAR_LEFT, BAR_Y + 29), 18, PALE)
    write(surface, str(scene.corridor), (BAR_RIGHT, BAR_Y + 29), 18, PALE)
    pygame.draw.circle(surface, AGENT, (place(scene.x), BAR_Y - 14 * scene.y), 8)


def _draw_progress(surface: Surface, scene: Scene) -> None:
    pygame = import_pygame()
    number = min(scene.turns + 1, scene.n_corridors)
    write(surface, f"corridor {number} of {scene.n_corridors}", (BAR_LEFT, PROGRESS_Y), 22, anchor="midleft")
    write(surface, f"correct turns: {scene.correct_turns} of {scene.turns}", (BAR_RIGHT, PROGRESS_Y), 22, anchor="midright")
    track = pygame.Rect(0, 0, PROGRESS_WIDTH, 8)
    track.center = WIDTH // 2, PROGRESS_Y
    pygame.draw.rect(surface, FLOOR, track, border_radius=4)
    track.width = round(PROGRESS_WIDTH * scene.turns / scene.n_corridors)
    pygame.draw.rect(surface, AGENT, track, border_radius=4)
