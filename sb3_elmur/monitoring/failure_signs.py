"""Signs that a memory does not work, and what helps."""

import warnings
from collections.abc import Callable
from typing import NamedTuple

from sb3_elmur.core.config import ElmurConfig
from sb3_elmur.monitoring.measures import Measures

PATIENCE = 5  # measurements in a row that must show a sign
BPTT = "`bptt_segments` above 1 in sb3_elmur.RecurrentPPO and behaviour cloning, `detach_memory=False` in sb3_contrib's class"


class FailureSign(NamedTuple):
    """
    A sign of failure.

    :param needs: Measures without which it says nothing.
    :param shows: Whether the measures show it.
    :param message: What is wrong, and the cure.
    """

    needs: frozenset[str]
    shows: Callable[[Measures, ElmurConfig], bool]
    message: Callable[[Measures, ElmurConfig], str]


SIGNS = {
    "collapsed slots": FailureSign(
        frozenset(("slot_variation", "slot_similarity")),
        lambda seen, config: seen["slot_variation"] < 0.01 and seen["slot_similarity"] > 0.99,
        lambda seen, config: (
            f"All slots hold the same, whatever has happened: variation {seen['slot_variation']:.2g}, similarity "
            f"{seen['slot_similarity']:.3g}. Raise `memory_init_std` (now {config.memory_init_std:g}), and let gradients "
            f"reach what is written: {BPTT}."
        ),
    ),
    "slots that cannot be told apart": FailureSign(
        frozenset(("slot_norm_empty", "slot_norm_written", "slot_similarity")),
        lambda seen, config: seen["slot_norm_empty"] < 1e-3 * seen["slot_norm_written"] and seen["slot_similarity"] > 0.9,
        lambda seen, config: (
            f"Slots begin alike (norm {seen['slot_norm_empty']:.2g}, once written {seen['slot_norm_written']:.2g}) and stay "
            f"so (similarity {seen['slot_similarity']:.3g}): memory has collapsed into copies of one slot. Raise "
            f"`memory_init_std` (now {config.memory_init_std:g}) to about 0.1."
        ),
    ),
    "dead write path": FailureSign(
        frozenset(("write_grad_share",)),
        lambda seen, config: seen["write_grad_share"] < 1e-7,
        lambda seen, config: (
            f"No gradient reaches what is written to memory, so it never learns what to write. Let it: {BPTT}. If you have, "
            "episodes or minibatches hold no two segments in a row: lower `segment_length` (now "
            f"{config.segment_length})."
        ),
    ),
    "attention on empty slots": FailureSign(
        frozenset(("read_written", "share_written")),
        lambda seen, config: seen["read_written"] < 0.02 * seen["share_written"],
        lambda seen, config: (
            f"Tokens read empty slots alone: the written ones get {seen['read_written']:.2g} of their attention, so memory is "
            f"of no use. Lower `memory_init_std` (now {config.memory_init_std:g}) or `memory_size` (now {config.memory_size})"
            f", and let gradients reach what is written: {BPTT}."
        ),
    ),
    "updates that go too far": FailureSign(
        frozenset(("update_size",)),
        lambda seen, config: seen["update_size"] > 1.0,
        lambda seen, config: (
            f"Replayed over whole episodes, the last update changed the policy {seen['update_size']:.2g} times as far as it "
            "can bear. A chain's ratios do not see what happens to the memory before it, and a policy that has solved its "
            "task falls. Train with `trust_region=0.1`, and if you do, with a lower `learning_rate`."
        ),
    ),
    "stuck gate": FailureSign(
        frozenset(("gate_slope", "blend")),
        lambda seen, config: seen["gate_slope"] < 0.01 and seen["blend"] in (0.0, 1.0),
        lambda seen, config: (
            f"The gates are {'open' if seen['blend'] else 'closed'} at every overwrite, and so far from turning that they no "
            f"longer learn: slope {seen['gate_slope']:.2g}. If the task needs them to turn, train anew with a lower "
            f"`learning_rate`, or with another `gate_bias` (now {config.gate_bias:g}; the higher, the more are open)."
        ),
    ),
    "stuck lambda": FailureSign(
        frozenset(("blend",)),
        lambda seen, config: config.blend == "learned" and not 0.005 < seen["blend"] < 0.995,
        lambda seen, config: (
            f"The trained lambda has gone to {seen['blend']:.3g} and no longer learns. If the task needs slots that are both "
            'kept and renewed, train with `blend="gated"`, or a lower `learning_rate`.'
        ),
    ),
    "starved experts": FailureSign(
        frozenset(("expert_load_min",)),
        lambda seen, config: seen["expert_load_min"] < 0.05,
        lambda seen, config: (
            f"A router gives one of its experts {seen['expert_load_min']:.0%} of a fair share. Raise `aux_loss_coef` (now "
            f"{config.aux_loss_coef:g}), or lower `n_routed_experts` (now {config.n_routed_experts})."
        ),
    ),
}


class Watchdog:
    """
    Warns once of each sign that shows in :data:`PATIENCE` measurements in a row.

    :param config: Of the stack.
    """

    def __init__(self, config: ElmurConfig) -> None:
        self._config = config
        self._in_a_row, self._told = dict.fromkeys(SIGNS, 0), set[str]()

    def look(self, measures: Measures) -> None:
        """
        Look at a measurement, or a part of one.

        :param measures: What was measured.
        """
        for name, sign in SIGNS.items():
            if name in self._told or not sign.needs <= measures.keys():
                continue
            self._in_a_row[name] = self._in_a_row[name] + 1 if sign.shows(measures, self._config) else 0
            if self._in_a_row[name] == PATIENCE:
                warnings.warn(f"Memory: {name}. {sign.message(measures, self._config)}", stacklevel=2)
                self._told.add(name)
