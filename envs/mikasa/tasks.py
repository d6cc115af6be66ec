"""MIKASA-Robo's 32 tasks: their step limits, and what their cameras can see of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """
    What sets a task apart from the others. Names are attributes of the task's simulation.

    :param limit: Steps of an episode.
    :param objects: Things on the table whose place is seen; a name may stand for a dict of them.
    :param oriented: Those of them whose orientation matters, too.
    :param covers: Those of them that hide others by standing over them.
    :param readings: What the task itself tells besides, one number each.
    :param delta_time: Steps between the cue and the choice, where the suite lets one choose them, else None.
    :param needs_mug: Whether a mug of the YCB objects must be supplied.
    :param observes: Whether its own observation, seen or not, prepares its rewards.
    """

    limit: int
    objects: tuple[str, ...]
    oriented: tuple[str, ...] = ()
    covers: tuple[str, ...] = ()
    readings: tuple[str, ...] = ()
    delta_time: int | None = None
    needs_mug: bool = False
    observes: bool = False


CUBES, SHAPES = Task(60, ("cubes",), delta_time=5), Task(60, ("shapes",), delta_time=5)
COLORS = Task(120, ("cubes",))
MUGS = ("mug_left", "mug_center", "mug_right")
SHELL_GAME = Task(90, (*MUGS, "red_ball"), covers=MUGS, needs_mug=True, observes=True)
INTERCEPT, INTERCEPT_GRAB = Task(90, ("ball", "goal_region")), Task(90, ("ball",))
ROTATE = Task(90, ("peg",), oriented=("peg",), readings=("target_angle",))
TAKE_IT_BACK = Task(180, ("cube", "goal_region"), readings=("goal_reached_status",))

FAMILIES: dict[str, tuple[Task, tuple[str, ...]]] = {
    "BunchOfColors": (COLORS, ("3", "5", "7")),
    "ChainOfColors": (COLORS, ("3", "5", "7")),
    "Intercept": (INTERCEPT, ("Slow", "Medium", "Fast")),
    "InterceptGrab": (INTERCEPT_GRAB, ("Slow", "Medium", "Fast")),
    "RememberColor": (CUBES, ("3", "5", "9")),
    "RememberShape": (SHAPES, ("3", "5", "9")),
    "RememberShapeAndColor": (SHAPES, ("3x2", "3x3", "5x3")),
    "RotateLenient": (ROTATE, ("Pos", "PosNeg")),
    "RotateStrict": (ROTATE, ("Pos", "PosNeg")),
    "SeqOfColors": (COLORS, ("3", "5", "7")),
    "ShellGame": (SHELL_GAME, ("Pick", "Push", "Touch")),
    "TakeItBack": (TAKE_IT_BACK, ("",)),
}
TASKS: dict[str, Task] = {f"{family}{variant}": task for family, (task, variants) in FAMILIES.items() for variant in variants}
