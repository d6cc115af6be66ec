"""What happened to a fact in an inspected episode: when slots came to know it, lost it, and were read."""

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
    return sorted(summaries, key=lambda each: -np.nan_to_num(each.accuracy))
