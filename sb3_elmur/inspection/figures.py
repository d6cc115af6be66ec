"""Pictures of an inspected episode, with matplotlib, for light and for dark pages."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sb3_elmur.inspection.episodes import Inspection, Played
from sb3_elmur.inspection.probing import Label
from sb3_elmur.monitoring.panels import require_drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, DPI = 11.0, 130  # inches, dots per inch
MOST_COMPONENTS = 16  # of an observation; more are shown by their principal components
MOST_SLOTS = 16  # of a layer, those that were written
MOST_BORDERS = 60  # segments in a picture, up to which their borders are drawn
DETAIL = 60  # steps of the pictures of the beginning and the end, where the whole is longer than three times that
COLOURS = {"light": ("#ffffff", "#1b1f24", "#d0d4d9"), "dark": ("#14171c", "#e6e9ee", "#3a414b")}  # page, ink, empty


class Picture(NamedTuple):
    """
    A picture of the report.

    :param name: Of its file.
    :param title: Its heading.
    :param description: What is to be seen, for those who do not see it.
    :param draw: Draws it in the present style.
    """

    name: str
    title: str
    description: str
    draw: Callable[[], "Figure"]


class Panel(NamedTuple):
    """
    Rows of values over time.

    :param title: What they are.
    :param values: (rows, columns).
    :param labels: Of the rows.
    :param signed: Whether the colours have a middle, which is 0.
    :param limits: Values at the ends of the colours; ``None`` for those that occur.
    :param missing: Which values are missing, (rows, columns) bool.
    :param per_segment: Whether a column is a segment instead of a step.
    """

    title: str
    values: np.ndarray
    labels: list[str]
    signed: bool = False
    limits: tuple[float, float] | None = None
    missing: np.ndarray | None = None
    per_segment: bool = False


def make_pictures(played: Played, inspection: Inspection, label: Label | None) -> list[Picture]:
    """
    The pictures of an episode: all of it, its beginning and end if it is long, and the relative bias.

    :param played: The episodes.
    :param inspection: Of the first.
    :param label: What was decoded.
    :return: The pictures, each still to be drawn.
    :raises DependencyNotInstalled: Without matplotlib.
    """
    require_drawing()
    panels = make_panels(played, inspection, label)
    n_steps, length = len(inspection.read), inspection.segment_length
    spans = {"episode": ("The whole episode", 0, n_steps)}
    if n_steps > 3 * DETAIL:
        reach = max(DETAIL // length, 4) * length
        last = -(-n_steps // length) * length
        spans["beginning"] = (f"The first {reach} steps", 0, reach)
        spans["end"] = (f"The last steps, from {last - reach}", last - reach, n_steps)
    listed = ", ".join(panel.title for panel in panels)
    pictures = [
        Picture(
            name,
            title,
            f"Heat maps over the steps {begin} to {end - 1}, one below the other: {listed}.",
            lambda begin=begin, end=end: _draw_timeline(panels, begin, end, length),  # type: ignore[misc]
        )
        for name, (title, begin, end) in spans.items()
    ]
    text = "Curves of the relative bias by distance in steps, one for each layer; reads right of 0, writes left of it."
    return [*pictures, Picture("bias", "Relative bias", text, lambda: _draw_bias(inspection))]


def make_panels(played: Played, inspection: Inspection, label: Label | None) -> list[Panel]:
    """What is shown over time, from top to bottom; arguments as in :func:`make_pictures`."""
    return [*_panels_of_steps(played, len(inspection.read)), *_panels_of_memory(inspection, label)]


def _panels_of_steps(played: Played, n_steps: int) -> list[Panel]:
    """Observations, each part of a dictionary with colours of its own; actions; and rewards."""
    parts = played.observations if isinstance(played.observations, dict) else {"": played.observations}
    panels = []
    for key, array in parts.items():
        values, kind = _components(array[0, :n_steps])
        labels = [f"{key} {kind} {i}".strip() for i in range(len(values))]
        panels.append(Panel(f"observation {key}".strip(), values, labels, signed=True))
    actions = played.actions[0, :n_steps].reshape(n_steps, -1).T.astype(float)
    names = [f"action {i}" for i in range(len(actions))] if len(actions) > 1 else ["action"]
    return [*panels, Panel("action", actions, names), Panel("reward", played.rewards[:1, :n_steps], ["reward"], signed=True)]


def _panels_of_memory(inspection: Inspection, label: Label | None) -> list[Panel]:
    """Reads, slots, writes, and what probes decode."""
    n_layers, n_slots = inspection.read.shape[1:]
    used = np.unique(inspection.written[inspection.written >= 0])[:MOST_SLOTS]
    shown = used if len(used) else np.arange(min(n_slots, MOST_SLOTS))
    layers = [f"layer {n}" for n in range(n_layers)]
    slots = [f"{layer}, slot {m}" for layer in layers for m in shown]

    def by_slot(values: np.ndarray) -> np.ndarray:
        """(columns, N, M) to (rows, columns), of the slots that are shown."""
        return values[:, :, shown].reshape(len(values), -1).T

    empty = by_slot(np.broadcast_to(inspection.empty[:, None], (len(inspection.empty), n_layers, n_slots)))
    content = by_slot(np.stack([_principal_component(inspection.slots[:, n]) for n in range(n_layers)], axis=1))
    ages = by_slot(inspection.ages)
    idle = np.broadcast_to(inspection.written < 0, (n_layers, len(inspection.written)))  # (N, S)
    length = inspection.segment_length
    writes = inspection.write.transpose(1, 2, 0).reshape(n_layers * length, -1)  # (S, N, L) to (N * L, S)
    panels = [
        Panel("attention of reads", by_slot(inspection.read), slots, limits=(0, 1)),
        Panel("slots by content (first principal component)", content, slots, signed=True, missing=empty, per_segment=True),
        Panel("slots by age of their content in steps", ages, slots, missing=np.isnan(ages), per_segment=True),
        Panel("weight of new content", inspection.blend.T, layers, limits=(0, 1), missing=idle, per_segment=True),
        Panel(
            "attention of writes on the steps of their segment",
            writes,
            [f"{layer}, step {i}" for layer in layers for i in range(length)],
            limits=(0, max(writes.max(), 1e-12)),
            missing=np.repeat(idle, length, axis=0),
            per_segment=True,
        ),
    ]
    if label is not None and inspection.accuracy is not None:
        accuracy, chance = by_slot(inspection.accuracy), min(label.chance, 0.999)
        title, missing = f"accuracy of decoding {label.name} from slots", np.isnan(accuracy)
        panels.append(Panel(title, accuracy, slots, limits=(chance, 1), missing=missing, per_segment=True))
    return panels


def _components(steps: np.ndarray) -> tuple[np.ndarray, str]:
    """Rows to show of observations (T, ...), and what they are: components, or principal components of many."""
    flat = steps.reshape(len(steps), -1).astype(float)
    if flat.shape[1] <= MOST_COMPONENTS:
        return flat.T, "component"
    left, singular, _ = np.linalg.svd(flat - flat.mean(0), full_matrices=False)
    return (left * singular)[:, :3].T, "principal component"


def _principal_component(slots: np.ndarray) -> np.ndarray:
    """The first principal component of all contents of a layer's slots, (S, M, D) to (S, M)."""
    flat = slots.reshape(-1, slots.shape[-1]).astype(float)
    _, _, directions = np.linalg.svd(flat - flat.mean(0), full_matrices=False)
    return ((flat - flat.mean(0)) @ directions[0]).reshape(slots.shape[:2])


def _draw_timeline(panels: list[Panel], begin: int, end: int, length: int) -> "Figure":
    """Panels one below the other, from one step to another; segments have ``length`` steps."""
    from matplotlib.figure import Figure

    heights = [min(0.25 + 0.2 * len(panel.values), 2.6) for panel in panels]
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.45 * len(panels)), layout="constrained")
    columns = figure.subplots(len(panels), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    for axes, panel in zip(columns, panels, strict=True):
        _draw_panel(figure, axes, panel, length)
        if (end - begin) / length <= MOST_BORDERS:
            for border in range(begin - begin % length, end + 1, length):
                axes.axvline(border - 0.5, color=axes.xaxis.label.get_color(), linewidth=0.6, alpha=0.6)
    columns[-1].set(xlim=(begin - 0.5, end - 0.5), xlabel=f"step (a segment has {length})")
    return figure


def _draw_panel(figure: "Figure", axes: "Axes", panel: Panel, length: int) -> None:
    values = np.ma.masked_array(panel.values, panel.missing if panel.missing is not None else False)
    n_rows, n_columns = values.shape
    extent = (-0.5, n_columns * (length if panel.per_segment else 1) - 0.5, n_rows - 0.5, -0.5)
    low, high = panel.limits or ((values.min(), values.max()) if values.count() else (0, 1))
    if panel.signed:
        high = max(abs(low), abs(high), 1e-12)
        low = -high
    colours = "coolwarm" if panel.signed else "viridis"
    image = axes.imshow(values, aspect="auto", cmap=colours, vmin=low, vmax=high, extent=extent, interpolation="nearest")
    axes.set_title(panel.title, loc="left", fontsize=10)
    if n_rows <= 16:
        axes.set_yticks(range(n_rows), panel.labels, fontsize=7)
    else:
        axes.set_yticks([0, n_rows - 1], [panel.labels[0], panel.labels[-1]], fontsize=7)
    figure.colorbar(image, ax=axes, pad=0.01, aspect=8).ax.tick_params(labelsize=7)


def _draw_bias(inspection: Inspection) -> "Figure":
    """The relative bias of each layer by distance."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    axes = figure.subplots()
    reach = inspection.bias.shape[1] // 2
    for n, curve in enumerate(inspection.bias):
        axes.plot(np.arange(-reach, reach + 1), curve, linewidth=1, label=f"layer {n}")
    axes.axvline(0, linewidth=0.8, color=axes.xaxis.label.get_color(), alpha=0.6)
    axes.set_xscale("symlog", linthresh=16)
    axes.set(
        xlabel="distance in steps: slot before step (reads, right), step before slot (writes, left)", ylabel="relative bias"
    )
    axes.legend()
    return figure


def render(picture: Picture, theme: str) -> bytes:
    """
    A picture as PNG.

    :param picture: What to draw.
    :param theme: ``"light"`` or ``"dark"``.
    :return: The bytes of the file.
    """
    with _style(theme):
        file = BytesIO()
        picture.draw().savefig(file, format="png", dpi=DPI)
    return file.getvalue()


def _style(theme: str) -> AbstractContextManager[None]:
    """Colours of a theme, while the context lasts."""
    import matplotlib

    page, ink, empty = COLOURS[theme]
    inked = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "legend.labelcolor")
    paper = ("figure.facecolor", "savefig.facecolor", "legend.facecolor")
    colours: Any = dict.fromkeys(inked, ink) | dict.fromkeys(paper, page) | {"axes.facecolor": empty}
    return matplotlib.rc_context(colours)
