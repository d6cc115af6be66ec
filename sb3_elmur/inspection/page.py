"""The report of an inspected episode: one HTML page with everything in it, and the pictures as PNG files."""

from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import numpy as np

from sb3_elmur.atomic_files import atomic_path
from sb3_elmur.inspection.episodes import Inspection, Played
from sb3_elmur.inspection.events import Event, SlotSummary, find_events, summarise_slots
from sb3_elmur.inspection.figures import Picture, make_pictures, render
from sb3_elmur.inspection.probing import Label

PAGE = "report.html"
SHOWN_SLOTS, SHOWN_EVENTS = 32, 100  # rows of the tables
STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --ink: #1b1f24; --line: #d0d4d9; --link: #0b57d0; }
@media (prefers-color-scheme: dark) { :root { --page: #14171c; --ink: #e6e9ee; --line: #3a414b; --link: #8ab4f8; } }
body { margin: 0 auto; max-width: 75rem; padding: 1rem 1.5rem 4rem; background: var(--page); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; }
a { color: var(--link); }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
.skip { position: absolute; left: -100rem; } .skip:focus { left: 1rem; top: 0.5rem; background: var(--page); padding: 0.3rem; }
figure { margin: 1rem 0; } img { display: block; width: 100%; height: auto; border: 1px solid var(--line); }
.wide { overflow-x: auto; margin: 1rem 0; } table { border-collapse: collapse; }
th, td { padding: 0.25rem 0.75rem; border-bottom: 1px solid var(--line); text-align: right;
  font-variant-numeric: tabular-nums; }
th:first-child, td:first-child, td:last-child:nth-child(2), th:last-child:nth-child(2) { text-align: left; }
caption { text-align: left; padding-bottom: 0.3rem; }
"""


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
    pictures = make_pictures(played, inspection, label)
    folder.mkdir(parents=True, exist_ok=True)
    figures = []
    for picture in pictures:
        light, dark = render(picture, "light"), render(picture, "dark")
        with atomic_path(folder / f"{picture.name}.png") as temporary:
            temporary.write_bytes(light)
        figures.append(_figure(picture, light, dark))
    fact_html = label_section(inspection, label) if label is not None else ""
    content = (
        f"<h1>{escape(title)}</h1>\n"
        + _table("The episode", ("what", "value"), facts.items())
        + fact_html
        + "\n".join(figures)
        + writes_section(inspection)
    )
    html = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f'<a class="skip" href="#content">Skip to content</a>\n<main id="content">\n{content}\n</main>\n</body>\n</html>\n'
    )
    with atomic_path(folder / PAGE) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return folder / PAGE


def label_section(inspection: Inspection, label: Label) -> str:
    """Where a label was written, copied and read, as HTML."""
    events, slots = find_events(inspection, label), summarise_slots(inspection, label)
    rows = [(event.kind, event.step, event.layer, event.slot, f"{event.accuracy:.2f}") for event in events[:SHOWN_EVENTS]]
    title = f"Where is {escape(label.name)}?"
    return (
        f"<h2>{title}</h2>\n<p>{escape(tell(events, slots, label))}</p>\n"
        + _table("Slots, those that know it best first", SLOT_COLUMNS, map(_slot_row, slots[:SHOWN_SLOTS]))
        + _table("What happened to it", ("event", "after step", "layer", "slot", "accuracy"), rows)
    )


def tell(events: Sequence[Event], slots: Sequence[SlotSummary], label: Label) -> str:
    """
    In a few sentences, where a label is.

    :param events: Of the episode.
    :param slots: Of the episode, those that know it best first.
    :param label: The label.
    """
    how = f"A linear probe that knows nothing is right in {label.chance:.0%} of the episodes. "
    if all(np.isnan(slot.accuracy) for slot in slots):
        return how + "The episode ends before anything is written, or too few other episodes last as long."
    holders = [slot for slot in slots if slot.knows_since is not None]
    if not events:
        return how + f"No slot ever knows {label.name}: the best is right in {slots[0].accuracy:.0%} at the end."
    first = events[0]
    how += (
        f"{label.name.capitalize()} is written after step {first.step}, to slot {first.slot} of layer {first.layer} "
        f"(decoded in {first.accuracy:.0%}). "
    )
    copies, losses = (sum(event.kind == kind for event in events) for kind in ("copied", "lost"))
    how += f"Later it is copied {copies} times, and lost from a slot {losses} times. "
    if not holders:
        return how + "At the end no slot knows it."
    where = ", ".join(f"slot {each.slot} of layer {each.layer} (since step {each.knows_since})" for each in holders[:4])
    more = f" and {len(holders) - 4} more" if len(holders) > 4 else ""
    how += f"At the end it is in {where}{more}. "
    read = max(holders, key=lambda each: (each.last_read if each.last_read is not None else -1, each.attention))
    if read.last_read is None:
        return how + "No step reads one of these slots more than all others."
    return how + (
        f"It was last read at step {read.last_read}, from slot {read.slot} of layer {read.layer}, which has "
        f"{read.attention:.0%} of that layer's attention while it knows it."
    )


SLOT_COLUMNS = (
    "layer",
    "slot",
    "accuracy at the end",
    "decoded at the end",
    "knows it since step",
    "content last changed",
    "attention",
    "last read",
)


def _slot_row(slot: SlotSummary) -> tuple[object, ...]:
    return (
        slot.layer, slot.slot, f"{slot.accuracy:.2f}", slot.decoded, _or_dash(slot.knows_since),
        _or_dash(slot.last_changed), f"{slot.attention:.2f}", _or_dash(slot.last_read),
    )  # fmt: skip


def _or_dash(value: int | None) -> object:
    return "–" if value is None else value  # noqa: RUF001


def writes_section(inspection: Inspection) -> str:
    """Every write, as HTML that is folded up."""
    rows = []
    for s in np.flatnonzero(inspection.written >= 0).tolist():
        focus = inspection.write[s].argmax(1) + s * inspection.segment_length
        kind = "overwrites" if inspection.replaced[s] else "fills"
        weights = ", ".join(f"{weight:.2f}" for weight in inspection.blend[s])
        step = (s + 1) * inspection.segment_length - 1
        rows.append((step, kind, int(inspection.written[s]), weights, ", ".join(map(str, focus))))
    columns = ("after step", "what", "slot", "weight of new content by layer", "step most attended to by layer")
    table = _table("Writes", columns, rows)
    return f"<details>\n<summary>All {len(rows)} writes</summary>\n{table}</details>\n"


def _figure(picture: Picture, light: bytes, dark: bytes) -> str:
    sources = [f"data:image/png;base64,{b64encode(data).decode()}" for data in (light, dark)]
    return (
        f'<h2>{escape(picture.title)}</h2>\n<figure>\n<picture><source srcset="{sources[1]}" '
        f'media="(prefers-color-scheme: dark)"><img src="{sources[0]}" alt="{escape(picture.description)}"></picture>\n'
        f"<figcaption>{escape(picture.description)} Slots that nothing was written to are grey.</figcaption>\n</figure>\n"
    )


def _table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{escape(caption)}">\n<table>\n<caption>{escape(caption)}'
        f"</caption>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>\n</div>\n"
    )
