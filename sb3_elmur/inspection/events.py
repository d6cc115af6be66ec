"""What happened to a fact in an inspected episode: when slots came to know it, lost it, and were read."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sb3_elmur.inspection.episodes import Inspection
from sb3_elmur.inspection.probing import Label

KNOWN = 0.75  # of the way from chance to certainty, from which on a slot is said to know a label


class Event(NamedTuple):
    """
    Something that happened to a fact.

    :param step: The last step of the segment after which it is so, or the step of a read; the first step is 0.
    :param kind: ``"written"``, ``"copied"`` or ``"lost"``.
    :param layer: Layer.
    :param slot: Slot.
    :param accuracy: With which the fact is decoded from there.
    """

    step: int
    kind: str
    layer: int
    slot: int
    accuracy: float


def knows(inspection: Inspection, label: Label) -> np.ndarray:
    """Whether each slot knows the label after each segment, (S, N, M) bool."""
    assert inspection.accuracy is not None
    with np.errstate(invalid="ignore"):
        return inspection.accuracy >= label.chance + KNOWN * (1 - label.chance)


def find_events(inspection: Inspection, label: Label) -> list[Event]:
    """
    When slots came to know a label, and lost it.

    :param inspection: With probes.
    :param label: What they decode.
    :return: The events, in their order.
    """
    assert inspection.accuracy is not None
    known, events = knows(inspection, label), []
    before = np.zeros_like(known[0])
    for s, now in enumerate(known):
        for layer, slot in np.argwhere(now != before).tolist():
            if np.isnan(inspection.accuracy[s, layer, slot]):
                continue
            kind = "lost" if not now[layer, slot] else "copied" if before.any() else "written"
            step = (s + 1) * inspection.segment_length - 1
            events.append(Event(step, kind, layer, slot, float(inspection.accuracy[s, layer, slot])))
        before = now
    return events


class SlotSummary(NamedTuple):
    """
    What one slot had to do with a fact.

    :param layer: Layer.
    :param slot: Slot.
    :param knows_since: The step after which it knows the fact for good, or ``None`` if it does not in the end.
    :param accuracy: With which the fact is decoded at the end.
    :param last_changed: The last step whose segment changed its content, or ``None``.
    :param attention: Mean attention that it had while it knew the fact, or over the episode if it never did.
    :param last_read: The last step at which it had more attention than any other slot, or ``None``.
    :param decoded: The class that is decoded from it at the end of the shown episode.
    """

    layer: int
    slot: int
    knows_since: int | None
    accuracy: float
    last_changed: int | None
    attention: float
    last_read: int | None
    decoded: str


def summarise_slots(inspection: Inspection, label: Label) -> list[SlotSummary]:
    """
    What each slot had to do with a label, those that know it best first.

    :param inspection: With probes.
    :param label: What they decode.
    :return: Of every slot of every layer.
    """
    assert inspection.accuracy is not None
    assert inspection.decoded is not None
    known, length = knows(inspection, label), inspection.segment_length
    complete = inspection.written >= 0
    known, accuracy = known[complete], inspection.accuracy[complete]
    favourite = inspection.read.argmax(2)  # (T, N)
    summaries = []
    for layer, slot in np.ndindex(known.shape[1:]):
        knew = known[:, layer, slot]
        since = len(knew) - int(np.argmin(knew[::-1])) if not knew.all() else 0
        changed = np.flatnonzero((inspection.written == slot) & (inspection.blend[:, layer] > 0))
        favoured = np.flatnonzero(favourite[:, layer] == slot)
        while_known = np.zeros(len(inspection.read), dtype=bool)
        for s in np.flatnonzero(knew):  # what a segment wrote is read by the next one
            while_known[(s + 1) * length : (s + 2) * length] = True
        attention = inspection.read[while_known if while_known.any() else slice(None), layer, slot].mean()
        summaries.append(
            SlotSummary(
                layer=layer,
                slot=slot,
                knows_since=(since + 1) * length - 1 if len(knew) and knew[-1] else None,
                accuracy=float(accuracy[-1, layer, slot]) if len(knew) else float("nan"),
                last_changed=int(changed[-1] + 1) * length - 1 if len(changed) else None,
                attention=float(attention),
                last_read=int(favoured[-1]) if len(favoured) else None,
                decoded=label.classes[inspection.decoded[complete][-1, layer, slot]] if len(knew) else "",
            )
        )
    return sorted(summaries, key=lambda summary: -np.nan_to_num(summary.accuracy))


def tell(events: Sequence[Event], slots: Sequence[SlotSummary], label: Label) -> str:
    """
    In a few sentences, where a label is.

    :param events: Of the episode.
    :param slots: Of the episode, those that know it best first.
    :param label: The label.
    :return: The sentences.
    """
    chance = f"A linear probe that knows nothing is right in {label.chance:.0%} of the episodes."
    if all(np.isnan(slot.accuracy) for slot in slots):
        return f"{chance} The episode ends before anything is written, or too few other episodes last as long."
    if not events:
        return f"{chance} No slot ever knows {label.name}: the best is right in {slots[0].accuracy:.0%} at the end."
    return " ".join((chance, _tell_course(events, label), _tell_end([slot for slot in slots if slot.knows_since is not None])))


def _tell_course(events: Sequence[Event], label: Label) -> str:
    first = events[0]
    copies, losses = (sum(event.kind == kind for event in events) for kind in ("copied", "lost"))
    return (
        f"{label.name.capitalize()} is written after step {first.step}, to slot {first.slot} of layer {first.layer} "
        f"(decoded in {first.accuracy:.0%}). Later it is copied {copies} times, and lost from a slot {losses} times."
    )


def _tell_end(holders: Sequence[SlotSummary]) -> str:
    """Which slots know the label in the end, and when one of them was read."""
    if not holders:
        return "At the end no slot knows it."
    where = ", ".join(f"slot {slot.slot} of layer {slot.layer} (since step {slot.knows_since})" for slot in holders[:4])
    more = f" and {len(holders) - 4} more" if len(holders) > 4 else ""
    read = max(holders, key=lambda slot: (slot.last_read if slot.last_read is not None else -1, slot.attention))
    if read.last_read is None:
        return f"At the end it is in {where}{more}. No step reads one of these slots more than all others."
    return (
        f"At the end it is in {where}{more}. It was last read at step {read.last_read}, from slot {read.slot} of layer "
        f"{read.layer}, which has {read.attention:.0%} of that layer's attention while it knows it."
    )
