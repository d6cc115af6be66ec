"""What the pictures of all environments share: pygame, colours, text, and a window."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from gymnasium.error import DependencyNotInstalled

if TYPE_CHECKING:
    from pygame import Surface

Color = tuple[int, int, int]
Point = tuple[float, float]

BACKGROUND = (250, 249, 246)
INK = (45, 48, 56)
PALE = (150, 152, 160)
FLOOR = (228, 229, 234)
WHITE = (255, 255, 255)
YELLOW = (255, 226, 150)
GREEN = (96, 190, 120)
BLUE = (54, 112, 214)
RED = (206, 66, 58)


def import_pygame() -> ModuleType:
    """
    Import pygame.

    :return: The module.
    :raises DependencyNotInstalled: If it is missing.
    """
    try:
        import pygame
    except ImportError as error:
        raise DependencyNotInstalled('pygame is missing: run `pip install "sb3-elmur[render]"`.') from error
    return pygame


def blank(width: int, height: int) -> Surface:
    """
    Begin a picture.

    :param width: In pixels.
    :param height: In pixels.
    :return: An empty surface.
    :raises DependencyNotInstalled: Without pygame.
    """
    pygame = import_pygame()
    pygame.font.init()
    surface = pygame.Surface((width, height))
    surface.fill(BACKGROUND)
    return surface


def pixels(surface: Surface) -> np.ndarray:
    """
    End a picture.

    :param surface: What was drawn.
    :return: RGB image, uint8 of shape (height, width, 3).
    """
    return np.ascontiguousarray(import_pygame().surfarray.array3d(surface).swapaxes(0, 1))


def write(surface: Surface, text: str, place: Point, size: int, color: Color = INK, anchor: str = "center") -> None:
    """
    Write a line of text.

    :param surface: Where to write.
    :param text: What to write.
    :param place: Where its anchor lies, in pixels.
    :param size: Height of the font in pixels.
    :param color: Of the letters.
    :param anchor: Attribute of pygame's ``Rect``, such as "midleft".
    """
    rendered = import_pygame().font.Font(None, size).render(text, True, color)
    surface.blit(rendered, rendered.get_rect(**{anchor: place}))


class Window:
    """
    A window on screen, as large as the first image that it shows.

    :param caption: Its title.
    :param fps: Images shown per second.
    """

    def __init__(self, caption: str, fps: int) -> None:
        self._pygame = import_pygame()
        self._pygame.display.init()
        self._pygame.display.set_caption(caption)
        self._screen: Surface | None = None
        self._clock = self._pygame.time.Clock()
        self._fps = fps

    def show(self, image: np.ndarray) -> None:
        """
        Show an image, and wait for the frame to pass.

        :param image: RGB, uint8 of shape (height, width, 3).
        """
        if self._screen is None:
            self._screen = self._pygame.display.set_mode((image.shape[1], image.shape[0]))
        self._pygame.surfarray.blit_array(self._screen, image.swapaxes(0, 1))
        self._pygame.event.pump()
        self._pygame.display.flip()
        self._clock.tick(self._fps)

    def close(self) -> None:
        """Close the window."""
        self._pygame.display.quit()
