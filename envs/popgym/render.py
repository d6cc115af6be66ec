"""Pictures of POPGym's games: what the agent sees, what it hides from it, the last action and the reward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

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
from .tasks import COLORS, RANKS, SUITS, Feature, Task

if TYPE_CHECKING:
    from pygame import Surface

WIDTH, HEIGHT = 720, 400
TABLE = (24, 84, WIDTH - 48, HEIGHT - 108)  # left, top, width, height of what lies below the header
MOVES = ("left", "right", "up", "down")
FACES: dict[Feature, tuple[str, ...]] = {
    COLORS: ("black", "red"),
    SUITS: ("spades", "diamonds", "clubs", "hearts"),
    RANKS: ("A", *map(str, range(2, 11)), "J", "Q", "K"),
}


class Moment(NamedTuple):
    """
    What a picture shows of an episode.

    :param task: The task's name.
    :param facts: Its family and numbers.
    :param base: Popgym's environment.
    :param observation: What it showed last.
    :param action: What the agent did before, as popgym takes it; None at an episode's start.
    :param steps: Steps taken in the episode.
    :param reward: Reward of the last one.
    :param total: Sum of the rewards so far.
    """

    task: str
    facts: Task
    base: Any
    observation: Any
    action: Any
    steps: int
    reward: float
    total: float


def draw(moment: Moment) -> np.ndarray:
    """
    Draw a game: a header with the last action and its reward, and the table with what is hidden on it.

    :param moment: What to draw.
    :return: RGB image, uint8 of shape (HEIGHT, WIDTH, 3).
    :raises DependencyNotInstalled: Without pygame.
    """
    surface = blank(WIDTH, HEIGHT)
    table, words = PICTURES[moment.facts.family]
    action = "-" if moment.action is None else words(moment.action, moment.facts)
    write(surface, moment.task, (24, 26), 30, anchor="midleft")
    write(surface, f"step {moment.steps}", (WIDTH - 24, 26), 26, anchor="midright")
    write(surface, f"last action: {action}", (24, 56), 26, anchor="midleft")
    color = GREEN if moment.reward > 0 else RED if moment.reward < 0 else INK
    write(surface, f"reward {moment.reward:+.3f}", (WIDTH / 2 + 60, 56), 26, color, anchor="midleft")
    write(surface, f"return {moment.total:+.3f}", (WIDTH - 24, 56), 26, anchor="midright")
    table(surface, moment)
    return pixels(surface)


# Cards


def _draw_suit(surface: Surface, suit: int, center: Point, size: float) -> None:
    """Draw a spade, diamond, club or heart, as popgym numbers them."""
    pygame = import_pygame()
    x, y = center
    r = size / 4
    color = RED if suit % 2 else INK
    circles, corners = {
        0: (((-0.8, 0.4), (0.8, 0.4)), ((-1.7, 0.1), (1.7, 0.1), (0, -2))),
        1: ((), ((0, -2), (1.4, 0), (0, 2), (-1.4, 0))),
        2: (((-0.95, 0.45), (0.95, 0.45), (0, -0.9)), ((-0.9, -0.4), (0.9, -0.4), (0, 1))),
        3: (((-0.8, -0.7), (0.8, -0.7)), ((-1.7, -0.3), (1.7, -0.3), (0, 2))),
    }[suit]
    for dx, dy in circles:
        pygame.draw.circle(surface, color, (x + dx * r, y + dy * r), r)
    pygame.draw.polygon(surface, color, [(x + dx * r, y + dy * r) for dx, dy in corners])
    if suit in (0, 2):  # spades and clubs stand on a stem
        pygame.draw.polygon(surface, color, [(x, y + 0.4 * r), (x + 0.7 * r, y + 2 * r), (x - 0.7 * r, y + 2 * r)])


def _draw_face(surface: Surface, feature: Feature, value: int, center: Point, size: float) -> None:
    pygame = import_pygame()
    if feature is SUITS:
        _draw_suit(surface, value, center, size)
    elif feature is COLORS:
        pygame.draw.circle(surface, RED if value else INK, center, size / 3)
    else:
        write(surface, FACES[feature][value], center, round(size))


def _draw_card(
    surface: Surface, feature: Feature, value: int, center: Point, height: float, paper: Color = WHITE, edge: Color = PALE
) -> None:
    pygame = import_pygame()
    card = pygame.Rect(0, 0, height * 0.7, height)
    card.center = center
    pygame.draw.rect(surface, paper, card, border_radius=round(height / 10))
    pygame.draw.rect(surface, edge, card, width=3 if edge != PALE else 1, border_radius=round(height / 10))
    _draw_face(surface, feature, value, center, height * 0.55)


def _draw_observed(surface: Surface, label: str, feature: Feature, value: int, x: float, y: float = 240) -> None:
    write(surface, label, (x, 130), 24, PALE)
    _draw_card(surface, feature, int(value), (x, y), 150, edge=BLUE)


def _draw_cards(surface: Surface, label: str, feature: Feature, values: Sequence[int], asked: int | None) -> None:
    """Draw cards in the order in which they were dealt, in reading order, right of the one on show."""
    left, top, width, height = 190.0, 150.0, 506.0, 226.0
    write(surface, label, (left, 130), 24, PALE, anchor="midleft")
    n_columns = next(n for n in range(8, 40) if -(-len(values) // n) * (width / n / 0.72) <= height)
    pitch = width / n_columns
    for i, value in enumerate(values):
        row, column = divmod(i, n_columns)
        center = left + (column + 0.5) * pitch, top + (row + 0.5) * pitch / 0.72
        _draw_card(surface, feature, int(value), center, pitch / 0.72 - 4, YELLOW if i == asked else WHITE)


def _draw_bars(surface: Surface, label: str, names: Sequence[str], heights: Sequence[float], colors: Sequence[Color]) -> None:
    """Draw a bar for each name, of a height from 0 to 1, right of the cards on show."""
    pygame = import_pygame()
    left, bottom, width, height = 300.0, 350.0, 396.0, 190.0
    write(surface, label, (left, 130), 24, PALE, anchor="midleft")
    pitch = width / len(names)
    for i, (name, share, color) in enumerate(zip(names, heights, colors, strict=True)):
        bar = pygame.Rect(0, 0, pitch * 0.7, max(height * share, 2))
        bar.midbottom = left + (i + 0.5) * pitch, bottom
        pygame.draw.rect(surface, color, bar)
        write(surface, name, (left + (i + 0.5) * pitch, bottom + 16), min(22, round(pitch)))


def _repeat_first(surface: Surface, moment: Moment) -> None:
    _draw_observed(surface, "on show", SUITS, moment.observation, 100)
    _draw_observed(surface, "asked: the first card", SUITS, moment.base.card, 420)


def _repeat_previous(surface: Surface, moment: Moment) -> None:
    k = moment.facts.constants["k"]
    hand = moment.base.deck["player"][-k:]
    _draw_observed(surface, "on show", SUITS, moment.observation, 100)
    asked = 0 if len(hand) == k else None
    _draw_cards(surface, f"the last {k} cards; asked: the yellow one", SUITS, moment.base.deck.suits_idx[hand], asked)


def _autoencode(surface: Surface, moment: Moment) -> None:
    watching, suit = moment.observation
    hand = moment.base.deck["system"]
    _draw_observed(surface, "watch" if watching else "play", SUITS, suit, 100)
    asked = None if watching else len(hand) - 1
    _draw_cards(surface, "cards to name, the last one first", SUITS, moment.base.deck.suits_idx[hand], asked)


def _higher_lower(surface: Surface, moment: Moment) -> None:
    copies = 4 * moment.facts.constants["n_decks"]
    left = copies - moment.base.state.astype(int)
    _draw_observed(surface, "on show", RANKS, moment.observation, 100)
    colors = [YELLOW if rank == moment.observation else BLUE for rank in range(RANKS.size)]
    _draw_bars(surface, "cards left in the deck", FACES[RANKS], left / copies, colors)


def _count_recall(surface: Surface, moment: Moment) -> None:
    feature = moment.facts.constants["feature"]
    value, query = moment.observation
    _draw_observed(surface, "dealt", feature, value, 82)
    _draw_observed(surface, "how many?", feature, query, 208)
    names = [f"{name} {count}" for name, count in zip(FACES[feature], moment.base.counts, strict=True)]
    if feature is RANKS:
        names = list(FACES[RANKS])
    heights = moment.base.counts / moment.base.max_card_count
    colors = [YELLOW if i == query else BLUE for i in range(feature.size)]
    _draw_bars(surface, f"dealt so far; asked: {moment.base.counts[query]}", names, heights, colors)


# Boards


def _cells(n_rows: int, n_columns: int) -> Callable[[int, int], Any]:
    """Lay out a board; return what gives the rectangle of the cell in a row and column."""
    pygame = import_pygame()
    left, top, width, height = map(float, TABLE)
    size = min(width / n_columns, height / n_rows)
    left, top = left + (width - size * n_columns) / 2, top + (height - size * n_rows) / 2

    def cell(row: int, column: int) -> Any:
        return pygame.Rect(left + column * size, top + row * size, size - 2, size - 2)

    return cell


def _concentration(surface: Surface, moment: Moment) -> None:
    pygame = import_pygame()
    feature, deck = moment.facts.constants["feature"], moment.base.deck
    values = moment.base.deck_idx_type[deck.idx]
    cell = _cells(len(values) // RANKS.size, RANKS.size)
    for i, value in enumerate(values):
        card = cell(*divmod(i, RANKS.size))
        up = moment.observation[i] < feature.size
        paper = GREEN if i in deck["face_up_idx"] else YELLOW if up else FLOOR
        pygame.draw.rect(surface, paper, card, border_radius=4)
        _draw_face(surface, feature, int(value), card.center, card.width * (0.8 if up else 0.45))
        if i == moment.action:
            pygame.draw.rect(surface, BLUE, card, width=3, border_radius=4)


def _battleship(surface: Surface, moment: Moment) -> None:
    pygame = import_pygame()
    board, guesses = moment.base.board, moment.base.guesses
    cell = _cells(*board.shape)
    for place in np.ndindex(board.shape):
        sea = cell(*place)
        pygame.draw.rect(surface, PALE if board[place] else FLOOR, sea)
        if guesses[place]:
            pygame.draw.circle(surface, RED if board[place] else WHITE, sea.center, sea.width * 0.3)
        if moment.action is not None and place == tuple(moment.action):
            pygame.draw.rect(surface, BLUE, sea, width=3)


def _minesweeper(surface: Surface, moment: Moment) -> None:
    pygame = import_pygame()
    hidden, neighbours = moment.base.hidden_grid, moment.base.neighbor_grid
    mine, viewed = 1, 2
    cell = _cells(*hidden.shape)
    for place in np.ndindex(hidden.shape):
        square = cell(*place)
        pygame.draw.rect(surface, WHITE if hidden[place] == viewed else FLOOR, square)
        if hidden[place] == mine:
            pygame.draw.circle(surface, RED, square.center, square.width * 0.2)
        elif hidden[place] == viewed:
            write(surface, str(neighbours[place]), square.center, round(square.width * 0.7))
        if moment.action is not None and place == tuple(moment.action):
            pygame.draw.rect(surface, BLUE, square, width=3)


def _labyrinth(surface: Surface, moment: Moment) -> None:
    pygame = import_pygame()
    grid, explored = moment.base.maze.grid, moment.base.explored
    cell = _cells(*grid.shape)
    colors = {0: FLOOR, 1: INK, 2: BLUE, 3: GREEN}
    for place in np.ndindex(grid.shape):
        pygame.draw.rect(surface, YELLOW if explored[place] and grid[place] == 0 else colors[int(grid[place])], cell(*place))
    row, column = moment.base.position
    agent = cell(row, column)
    pygame.draw.circle(surface, RED, agent.center, agent.width * 0.4)
    view = agent.inflate(2 * agent.width + 4, 2 * agent.width + 4)
    pygame.draw.rect(surface, RED, view, width=2)


def _bandit(surface: Surface, moment: Moment) -> None:
    pygame = import_pygame()
    chances = moment.base.bandits
    left, top, width, height = TABLE
    pitch = width / len(chances)
    for arm, chance in enumerate(chances):
        bar = pygame.Rect(0, 0, pitch * 0.7, max((height - 30) * float(chance), 2))
        bar.midbottom = left + (arm + 0.5) * pitch, top + height - 20
        color = FLOOR if arm != moment.action else GREEN if moment.observation else RED
        pygame.draw.rect(surface, color, bar)
        write(surface, str(arm), (bar.centerx, top + height - 8), min(22, round(pitch)))


# Words for actions


def _suit(action: Any, facts: Task) -> str:
    return FACES[SUITS][int(action)]


def _number(action: Any, facts: Task) -> str:
    return str(int(action))


def _side(action: Any, facts: Task) -> str:
    return ("higher", "lower")[int(action)]


def _place(action: Any, facts: Task) -> str:
    return f"row {action[0]}, column {action[1]}"


def _move(action: Any, facts: Task) -> str:
    return MOVES[int(action)]


PICTURES: dict[str, tuple[Callable[[Surface, Moment], None], Callable[[Any, Task], str]]] = {
    "Autoencode": (_autoencode, _suit),
    "Battleship": (_battleship, _place),
    "Concentration": (_concentration, _number),
    "CountRecall": (_count_recall, _number),
    "HigherLower": (_higher_lower, _side),
    "LabyrinthEscape": (_labyrinth, _move),
    "LabyrinthExplore": (_labyrinth, _move),
    "MineSweeper": (_minesweeper, _place),
    "MultiarmedBandit": (_bandit, _number),
    "RepeatFirst": (_repeat_first, _suit),
    "RepeatPrevious": (_repeat_previous, _suit),
}
"""By family, what draws its table, and what says an action in words. Popgym itself draws the other families."""
