"""Pictures of an inspected episode, with matplotlib, for light and for dark pages."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sb3_elmur.inspection.episodes import Inspection, Played
from sb3_elmur.inspection.probing import Label
from sb3_elmur.monitoring.panels import require_matplotlib

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
    :param colours: Colour map.
    :param limits: Values of its ends; ``None`` for those that occur.
    :param per_segment: Whether a column is a segment instead of a step.
    :param missing: Which values are missing, (rows, columns) bool.
    """

    title: str
    values: np.ndarray
    labels: list[str]
    colours: str
    limits: tuple[float, float] | None
    per_segment: bool
    missing: np.ndarray | None = None


def make_pictures(played: Played, inspection: Inspection, label: Label | None) -> list[Picture]:
    """
    The pictures of an episode: all of it, its beginning and end if it is long, and the relative bias.

    :param played: The episodes.
    :param inspection: Of the first.
    :param label: What was decoded.
    :raises DependencyNotInstalled: Without matplotlib.
    """
    require_matplotlib()
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
    n_steps, n_layers, n_slots = inspection.read.shape
    order = np.unique(inspection.written[inspection.written >= 0])[:MOST_SLOTS]
    shown = order if len(order) else np.arange(min(n_slots, MOST_SLOTS))
    slot_rows = [f"layer {n}, slot {m}" for n in range(n_layers) for m in shown]

    def by_slot(values: np.ndarray) -> np.ndarray:
        """(columns, N, M) to (rows, columns), of the slots that are shown."""
        return values[:, :, shown].reshape(len(values), -1).T

    observations, names = _components(played.observations, n_steps)
    actions = played.actions[0, :n_steps].reshape(n_steps, -1).T.astype(float)
    empty = np.broadcast_to(inspection.empty[:, None], (len(inspection.empty), n_layers, n_slots))
    ages = inspection.ages
    content = np.stack([_principal_component(inspection.slots[:, n]) for n in range(n_layers)], axis=1)
    largest = max(float(np.abs(content).max()), 1e-12)
    wrote = np.broadcast_to((inspection.written < 0)[:, None], (len(inspection.written), n_layers))
    writes = inspection.write.transpose(1, 2, 0).reshape(-1, len(inspection.write))
    write_rows = [f"layer {n}, step {i}" for n in range(n_layers) for i in range(inspection.segment_length)]
    panels = [
        Panel("observation", observations, names, "coolwarm", None, False),
        Panel(
            "action",
            actions,
            [f"action {i}" if len(actions) > 1 else "action" for i in range(len(actions))],
            "viridis",
            None,
            False,
        ),
        Panel("reward", played.rewards[:1, :n_steps], ["reward"], "coolwarm", None, False),
        Panel("attention of reads", by_slot(inspection.read), slot_rows, "viridis", (0, 1), False),
        Panel(
            "slots by content (first principal component)",
            by_slot(content),
            slot_rows,
            "coolwarm",
            (-largest, largest),
            True,
            by_slot(empty),
        ),
        Panel(
            "slots by age of their content in steps", by_slot(ages), slot_rows, "viridis", None, True, by_slot(np.isnan(ages))
        ),
        Panel(
            "weight of new content",
            inspection.blend.T,
            [f"layer {n}" for n in range(n_layers)],
            "viridis",
            (0, 1),
            True,
            wrote.T,
        ),
        Panel(
            "attention of writes on the steps of their segment",
            writes,
            write_rows,
            "viridis",
            (0, max(writes.max(), 1e-12)),
            True,
            np.repeat(wrote.T, inspection.segment_length, 0),
        ),
    ]
    if label is not None and inspection.accuracy is not None:
        accuracy = by_slot(inspection.accuracy)
        title = f"accuracy of decoding {label.name} from slots"
        panels.append(Panel(title, accuracy, slot_rows, "viridis", (min(label.chance, 0.999), 1), True, np.isnan(accuracy)))
    return panels


def _components(observations: Any, n_steps: int) -> tuple[np.ndarray, list[str]]:
    """Rows to show of the first episode's observations, and their names."""
    arrays = observations if isinstance(observations, dict) else {"": observations}
    rows, names = [], []
    for key, array in arrays.items():
        flat = array[0, :n_steps].reshape(n_steps, -1).astype(float)
        if flat.shape[1] > MOST_COMPONENTS:
            flat = flat - flat.mean(0)
            left, singular, _ = np.linalg.svd(flat, full_matrices=False)
            flat, kind = (left * singular)[:, :3], "principal component"
        else:
            kind = "component"
        rows.append(flat.T)
        names += [f"{key} {kind} {i}".strip() for i in range(flat.shape[1])]
    return np.concatenate(rows), names


def _principal_component(slots: np.ndarray) -> np.ndarray:
    """The first principal component of all contents of a layer's slots, (S, M, D) to (S, M)."""
    flat = slots.reshape(-1, slots.shape[-1]).astype(float)
    _, _, directions = np.linalg.svd(flat - flat.mean(0), full_matrices=False)
    return ((flat - flat.mean(0)) @ directions[0]).reshape(slots.shape[:2])


def _draw_timeline(panels: list[Panel], begin: int, end: int, length: int) -> "Figure":
    from matplotlib.figure import Figure

    heights = [min(0.25 + 0.2 * len(panel.values), 2.6) for panel in panels]
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.45 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    for each, panel in zip(axes, panels, strict=True):
        _draw_panel(figure, each, panel, length)
        if (end - begin) / length <= MOST_BORDERS:
            for border in range(begin - begin % length, end + 1, length):
                each.axvline(border - 0.5, color=each.xaxis.label.get_color(), linewidth=0.6, alpha=0.6)
    axes[-1].set(xlim=(begin - 0.5, end - 0.5), xlabel=f"step (a segment has {length})")
    return figure


def _draw_panel(figure: "Figure", axes: "Axes", panel: Panel, length: int) -> None:
    values = np.ma.masked_array(panel.values, panel.missing if panel.missing is not None else False)
    n_rows, n_columns = values.shape
    extent = (-0.5, n_columns * (length if panel.per_segment else 1) - 0.5, n_rows - 0.5, -0.5)
    low, high = panel.limits or ((values.min(), values.max()) if values.count() else (0, 1))
    if panel.limits is None and panel.colours == "coolwarm":
        high = max(abs(low), abs(high), 1e-12)
        low = -high
    image = axes.imshow(values, aspect="auto", cmap=panel.colours, vmin=low, vmax=high, extent=extent, interpolation="nearest")
    axes.set_title(panel.title, loc="left", fontsize=10)
    if n_rows <= 16:
        axes.set_yticks(range(n_rows), panel.labels, fontsize=7)
    else:
        axes.set_yticks([0, n_rows - 1], [panel.labels[0], panel.labels[-1]], fontsize=7)
    figure.colorbar(image, ax=axes, pad=0.01, aspect=8).ax.tick_params(labelsize=7)


def _draw_bias(inspection: Inspection) -> "Figure":
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
    """
    with _style(theme):
        file = BytesIO()
        picture.draw().savefig(file, format="png", dpi=DPI)
    return file.getvalue()


def _style(theme: str) -> AbstractContextManager[None]:
    import matplotlib

    page, ink, empty = COLOURS[theme]
    inked = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "legend.labelcolor")
    paper = ("figure.facecolor", "savefig.facecolor", "legend.facecolor")
    colours: Any = dict.fromkeys(inked, ink) | dict.fromkeys(paper, page) | {"axes.facecolor": empty}
    return matplotlib.rc_context(colours)
