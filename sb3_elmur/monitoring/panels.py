"""Heavier pictures for TensorBoard: attention heat maps. They need matplotlib."""

from typing import TYPE_CHECKING

import torch as th

from sb3_elmur.extras import require
from sb3_elmur.monitoring.tracing import SegmentTrace

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def require_drawing(*others: str) -> None:
    """
    Fail early where pictures could not be drawn.

    :param others: Modules that are needed beside matplotlib.
    :raises DependencyNotInstalled: Without one of them.
    """
    for module in ("matplotlib.figure", *others):
        require(module, "inspect")


def attention_figure(trace: SegmentTrace) -> "Figure":
    """
    Where tokens read and where slots are written from, layer by layer, the mean over rows and heads.

    :param trace: A segment of B rows.
    :return: The figure.
    """
    from matplotlib.figure import Figure

    real = trace.real.float()
    weight = real / real.sum(0).clamp(min=1)  # (B, T)
    read = th.einsum("bnhts,bt->nst", trace.read, weight).cpu().numpy() / trace.read.shape[2]  # (N, M, T)
    write = trace.write.mean(2).cpu().numpy()  # (b, N, L)
    n_layers, n_slots = read.shape[:2]
    figure = Figure(figsize=(9, 1 + n_layers * (1 + 0.15 * min(n_slots, 32))), layout="constrained")
    for n, (left, right) in enumerate(figure.subplots(n_layers, 2, squeeze=False)):
        image = left.imshow(read[n], aspect="auto", vmin=0, vmax=1, interpolation="nearest")
        left.set(title=f"layer {n}: read", xlabel="step of the segment", ylabel="slot")
        right.imshow(write[:, n], aspect="auto", vmin=0, vmax=1, interpolation="nearest")
        right.set(title=f"layer {n}: write", xlabel="step of the segment", ylabel="written segment")
        for axes in (left, right):
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.yaxis.get_major_locator().set_params(integer=True)
        figure.colorbar(image, ax=[left, right], label="attention")
    return figure
