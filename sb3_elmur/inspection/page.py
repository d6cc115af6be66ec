"""The report of an inspected episode: one HTML page with everything in it, and the pictures as PNG files."""

from base64 import b64encode
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from sb3_elmur.atomic_files import atomic_path
from sb3_elmur.inspection.episodes import Inspection, Played
from sb3_elmur.inspection.events import find_events, summarise_slots, tell
from sb3_elmur.inspection.figures import make_pictures, render
from sb3_elmur.inspection.probing import Label

PAGE = "report.html"  # its name, and that of its template
SHOWN_SLOTS, SHOWN_EVENTS = 32, 100  # rows of the tables
SLOT_COLUMNS = {  # of the table of slots, and how a value is written
    "layer": "{0.layer}",
    "slot": "{0.slot}",
    "accuracy at the end": "{0.accuracy:.2f}",
    "decoded at the end": "{0.decoded}",
    "knows it since step": "{0.knows_since}",
    "content last changed": "{0.last_changed}",
    "attention": "{0.attention:.2f}",
    "last read": "{0.last_read}",
}


def write_report(
    folder: Path, title: str, facts: dict[str, object], played: Played, inspection: Inspection, label: Label | None
) -> Path:
    """
    Write ``report.html``, and the pictures in their light version as PNG files beside it.

    :param folder: Where to, made if needed.
    :param title: Of the page.
    :param facts: What it says first: model, environment, ...
    :param played: The episodes.
    :param inspection: Of the first.
    :param label: What was decoded.
    :return: The page.
    """
    from jinja2 import Environment

    folder.mkdir(parents=True, exist_ok=True)
    pictures = []
    for picture in make_pictures(played, inspection, label):
        light, dark = render(picture, "light"), render(picture, "dark")
        with atomic_path(folder / f"{picture.name}.png") as temporary:
            temporary.write_bytes(light)
        encoded = {"light": b64encode(light).decode(), "dark": b64encode(dark).decode()}
        pictures.append({"title": picture.title, "description": picture.description, **encoded})
    template = Environment(autoescape=True).from_string(files("sb3_elmur.inspection").joinpath(PAGE).read_text("utf-8"))
    html = template.render(
        title=title,
        facts=facts.items(),
        label=None if label is None else label_section(inspection, label),
        pictures=pictures,
        writes=list_writes(inspection),
    )
    with atomic_path(folder / PAGE) as temporary:
        temporary.write_text(html + "\n", encoding="utf-8")
    return folder / PAGE


def label_section(inspection: Inspection, label: Label) -> dict[str, Any]:
    """
    Where a label was written, copied and read.

    :param inspection: With probes.
    :param label: What they decode.
    :return: What the template shows of it.
    """
    events, slots = find_events(inspection, label), summarise_slots(inspection, label)
    rows = [[text.format(slot).replace("None", "-") for text in SLOT_COLUMNS.values()] for slot in slots[:SHOWN_SLOTS]]
    return {
        "name": label.name,
        "story": tell(events, slots, label),
        "slot_columns": list(SLOT_COLUMNS),
        "slots": rows,
        "events": [(e.kind, e.step, e.layer, e.slot, f"{e.accuracy:.2f}") for e in events[:SHOWN_EVENTS]],
    }


def list_writes(inspection: Inspection) -> list[tuple[object, ...]]:
    """
    Every write, as the rows of a table.

    :param inspection: Of an episode.
    :return: Its last step, what it did, the slot, and by layer the weight of new content and the step most attended to.
    """
    rows: list[tuple[object, ...]] = []
    for s in np.flatnonzero(inspection.written >= 0).tolist():
        step = (s + 1) * inspection.segment_length - 1
        kind = "overwrites" if inspection.replaced[s] else "fills"
        weights = ", ".join(f"{weight:.2f}" for weight in inspection.blend[s])
        focus = inspection.write[s].argmax(1) + s * inspection.segment_length  # (N,)
        rows.append((step, kind, int(inspection.written[s]), weights, ", ".join(map(str, focus))))
    return rows
