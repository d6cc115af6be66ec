"""The recurrent state: reset, choice of slot, and packing into sb3-contrib's pair."""

import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st

from sb3_elmur.core.memory import EMPTY, Memory, fresh_memory, least_recently_written, reset_memory, write_slot
from sb3_elmur.core.states import PackedLayout

LAYOUTS = st.builds(PackedLayout, st.integers(1, 3), st.integers(1, 4), st.sampled_from([2, 4]), st.integers(1, 5))


@settings(deadline=None)
@given(layout=LAYOUTS, batch=st.integers(1, 4), seed=st.integers(0, 999), horizon=st.sampled_from([1, 10**3, 10**7, 2**43]))
def test_packing_loses_nothing(layout: PackedLayout, batch: int, seed: int, horizon: int) -> None:
    rng = th.Generator().manual_seed(seed)
    memory = Memory(
        slots=th.randn(batch, layout.n_layers, layout.memory_size, layout.d_model, generator=rng),
        anchors=th.randint(EMPTY, horizon, (batch, layout.memory_size), generator=rng),
        position=th.randint(1, horizon + 1, (batch,), generator=rng),
    )
    tokens = th.randn(batch, layout.segment_length - 1, layout.d_model, generator=rng)
    pair = layout.pack(memory, tokens)
    assert [part.shape for part in pair] == [(1, batch, layout.hidden_size)] * 2
    assert all(part.dtype == th.float32 for part in pair)
    restored, restored_tokens = layout.unpack(pair, th.zeros(memory.slots.shape[1:]))
    assert all(map(th.equal, memory, restored))
    assert th.equal(tokens, restored_tokens)


@given(layout=LAYOUTS, batch=st.integers(1, 4))
def test_zeros_are_the_start_of_an_episode(layout: PackedLayout, batch: int) -> None:
    initial = th.randn(layout.n_layers, layout.memory_size, layout.d_model)
    zeros = th.zeros(1, batch, layout.hidden_size)
    memory, _ = layout.unpack((zeros, zeros), initial)
    assert all(map(th.equal, memory, fresh_memory(initial, batch)))


def test_the_pair_is_no_larger_than_it_must_be() -> None:
    layout = PackedLayout(n_layers=2, memory_size=8, d_model=128, segment_length=10)
    assert layout.hidden_size == (2 * 8 * 128 + 9 * 128 + 2 * 9) / 2


def test_first_empty_slot_comes_before_the_oldest() -> None:
    anchors = th.tensor([[EMPTY, EMPTY, EMPTY], [4, EMPTY, EMPTY], [9, 4, 14], [0, 4, EMPTY]])
    slot, empty = least_recently_written(anchors)
    assert slot.tolist() == [0, 1, 1, 2]
    assert empty.tolist() == [True, True, False, True]


def test_reset_touches_the_starting_rows_alone() -> None:
    initial = th.randn(2, 3, 4)
    memory = Memory(th.randn(3, 2, 3, 4), th.randint(0, 9, (3, 3)), th.tensor([5, 6, 7]))
    after = reset_memory(memory, initial, th.tensor([0.0, 1.0, 0.0]))
    for old, new, fresh in zip(memory, after, fresh_memory(initial, 3), strict=True):
        assert th.equal(new[1], fresh[1])
        assert th.equal(new[::2], old[::2])


def test_writing_a_slot_leaves_the_others_and_the_input_as_they_are() -> None:
    memory = fresh_memory(th.randn(2, 3, 4), batch=3)
    content = th.randn(2, 2, 4)
    after = write_slot(memory, th.tensor([0, 2]), th.tensor([1, 0]), content, th.tensor([9, 19]))
    assert th.equal(after.slots[0, :, 1], content[0])
    assert th.equal(after.slots[2, :, 0], content[1])
    assert after.anchors.tolist() == [[-1, 9, -1], [-1, -1, -1], [19, -1, -1]]
    changed = (after.slots != memory.slots).any(-1).any(1)
    assert changed.tolist() == [[False, True, False], [False] * 3, [True, False, False]]
    assert (memory.anchors == EMPTY).all()
