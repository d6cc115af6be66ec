"""
Speed of the ELMUR stack, as it is and compiled.

Beside it run a straightforward implementation, a plain transformer and the machine's matrix product.

    python benchmarks/network_speed.py

writes ``benchmarks/results/network_speed.json`` and prints it as tables. All contestants run in one process, in turn in
every repeat, so that ratios are of one run. The settings are the paper's, with dropout 0. Before anything is measured,
outputs, new memory and gradients of the package and of ``yardstick.py`` are compared. Run it on one core:
``OMP_NUM_THREADS=1 taskset -c 0 ...``.

``x possible`` is the ratio of the floating point operations that the straightforward implementation does and that are
needed: what a faster implementation can gain where both run at the same share of the machine's peak. It counts no overhead of
launching operations, from which everything suffers at batch 1.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch as th
from common import RESULTS, provenance, write_json
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from yardstick import StraightforwardElmur

from sb3_elmur.core.config import ElmurConfig
from sb3_elmur.core.elmur import Elmur

SEGMENTS = 3  # consecutive segments of one training run
OURS, COMPILED, YARDSTICK, PLAIN = "ours", "ours, compiled", "straightforward", "plain transformer"
APART = "ours, phases apart"


@dataclass(frozen=True)
class Case:
    """
    One setting of the paper.

    :param config: Its stack.
    :param train_batches: Batch sizes of training; the first is the paper's.
    :param step_batches: Numbers of environments stepped together.
    """

    config: ElmurConfig
    train_batches: tuple[int, ...]
    step_batches: tuple[int, ...] = (1, 100)


CASES = {
    "T-Maze": Case(
        ElmurConfig(
            n_layers=2, n_heads=2, d_model=128, memory_size=2, segment_length=10, lru_blend=0.79, memory_init_std=0.001,
            ffn="moe", n_routed_experts=2, routed_d_ff=32, n_shared_experts=2, shared_d_ff=512, top_k=3,
        ),
        train_batches=(128, 512),
    ),
    "RememberColor": Case(
        ElmurConfig(
            n_layers=4, n_heads=16, d_model=128, memory_size=256, segment_length=20, lru_blend=0.41, memory_init_std=0.1,
            ffn="moe", n_routed_experts=16, routed_d_ff=128, n_shared_experts=1, shared_d_ff=128, top_k=2,
        ),
        train_batches=(64,),
    ),
    "AutoencodeEasy": Case(
        ElmurConfig(
            n_layers=12, n_heads=4, d_model=64, memory_size=8, segment_length=35, lru_blend=0.79, memory_init_std=0.0,
            ffn="moe", n_routed_experts=1, routed_d_ff=128, n_shared_experts=2, shared_d_ff=256, top_k=1, norm="rms",
        ),
        train_batches=(128,),
    ),
}  # fmt: skip


class PlainTransformer(nn.Module):
    """
    ``torch.nn.TransformerEncoder`` with a causal mask, and as many parameters as an ELMUR stack.

    :param config: Gives layers, heads and width.
    :param n_parameters: ``dim_feedforward`` is chosen to come as close to it as possible.
    """

    mask: Tensor

    def __init__(self, config: ElmurConfig, n_parameters: int) -> None:
        super().__init__()

        def build(d_ff: int) -> nn.TransformerEncoder:
            layer = nn.TransformerEncoderLayer(config.d_model, config.n_heads, d_ff, dropout=0.0, batch_first=True)
            return nn.TransformerEncoder(layer, config.n_layers, enable_nested_tensor=False)

        base, with_one_more = count_parameters(build(1)), count_parameters(build(2))
        self.d_ff = 1 + max(0, round((n_parameters - base) / (with_one_more - base)))
        self.encoder = build(self.d_ff)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(config.segment_length))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, D) to (B, T, D)."""
        n = x.shape[1]
        return self.encoder(x, mask=self.mask[:n, :n], is_causal=True)


class Contestants:
    """
    The networks of one case, with common weights where they share them.

    :param config: The stack.
    :param device: Where to run.
    """

    def __init__(self, config: ElmurConfig, device: th.device) -> None:
        th.manual_seed(0)
        self.config, self.device = config, device
        self.ours = Elmur(config).to(device)
        with th.no_grad():  # so that the comparison sees what begins at zero
            for name, parameter in self.ours.named_parameters():
                if name.endswith("bias"):
                    parameter.normal_(std=0.1)
        self.compiled = Elmur(replace(config, compile=True)).to(device)
        self.compiled.load_state_dict(self.ours.state_dict())
        self.yardstick = StraightforwardElmur(config).to(device).load_from(self.ours)
        self.plain = PlainTransformer(config, count_parameters(self.ours)).to(device)

    def check_equal(self) -> None:
        """
        Compare package and yardstick: outputs, memory and gradients of whole segments, then stepping.

        One row begins with empty memory and one with full memory, so that both fill and blend are seen.
        """
        length, slots = self.config.segment_length, self.config.memory_size
        memory = self.ours.initial_memory(2)
        full = th.tensor([False, True], device=self.device)
        anchors = length * (1 + th.randperm(slots, device=self.device)) - 1
        content = th.where(full[:, None, None, None], th.randn_like(memory.slots), memory.slots)
        memory = memory._replace(
            slots=content, anchors=th.where(full[:, None], anchors, memory.anchors), position=full * length * slots
        )
        theirs = (memory.slots, memory.anchors)
        lengths = th.full((2,), length, device=self.device)
        losses = []
        tokens = [self.tokens(2).requires_grad_() for _ in range(SEGMENTS)]
        for i, x in enumerate(tokens):
            ours, memory = self.ours.segment(x, memory, lengths)
            y, *rest = self.yardstick.segment(x, *theirs, full * length * slots + i * length)
            theirs = (rest[0], rest[1])
            for a, b in ((y, ours), (theirs[0], memory.slots), (theirs[1], memory.anchors)):
                th.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
            losses.append((ours.square().mean(), y.square().mean()))
        ours_grad, theirs_grad = (th.autograd.grad(sum(pair), tokens) for pair in zip(*losses, strict=True))
        th.testing.assert_close(theirs_grad, ours_grad, rtol=1e-3, atol=1e-5)

        steppers = self.steppers(2, compiled=False)
        ours_step, theirs_step = steppers[OURS], steppers[YARDSTICK]
        self.eval()
        with th.no_grad():
            for x in self.tokens(SEGMENTS * 2, 2):
                for token in x.unbind(1):
                    th.testing.assert_close(theirs_step(token), ours_step(token), rtol=1e-4, atol=1e-4)

    def eval(self) -> None:
        """Switch all networks to evaluation mode."""
        for network in (self.ours, self.compiled, self.yardstick, self.plain):
            network.eval()

    def train(self) -> None:
        """Switch all networks to training mode."""
        for network in (self.ours, self.compiled, self.yardstick, self.plain):
            network.train()

    def tokens(self, *batch: int) -> Tensor:
        """Random tokens of one segment, (..., L, D)."""
        return th.randn(*batch, self.config.segment_length, self.config.d_model, device=self.device)

    def trainers(self, batch: int) -> dict[str, Callable[[Tensor], None]]:
        """Functions that train on consecutive segments (``SEGMENTS``, B, L, D), memory detached between them."""
        length = self.config.segment_length
        lengths = th.full((batch,), length, device=self.device)

        def finish(network: nn.Module, outputs: Tensor) -> None:
            network.zero_grad(set_to_none=True)
            outputs.square().mean().backward()

        def ours(tokens: Tensor) -> None:
            memory = self.ours.initial_memory(batch)
            for x in tokens:
                y, memory = self.ours.segment(x, memory, lengths)
                finish(self.ours, y)
                memory = memory._replace(slots=memory.slots.detach())

        def yardstick(tokens: Tensor) -> None:
            memory = self.ours.initial_memory(batch)
            slots, anchors = memory.slots, memory.anchors
            for i, x in enumerate(tokens):
                y, slots, anchors = self.yardstick.segment(x, slots, anchors, lengths * i)
                finish(self.yardstick, y)
                slots = slots.detach()

        def plain(tokens: Tensor) -> None:
            for x in tokens:
                finish(self.plain, self.plain(x))

        return {OURS: ours, YARDSTICK: yardstick, PLAIN: plain}

    def steppers(self, batch: int, compiled: bool) -> dict[str, Callable[[Tensor], Tensor]]:
        """Functions that map the next tokens (B, D) to outputs (B, D), from an episode's start."""
        length = self.config.segment_length
        never = th.zeros(batch, dtype=th.bool, device=self.device)
        memory = self.ours.initial_memory(batch)
        theirs = self.yardstick.initial_state(memory.slots, memory.anchors)
        window = memory.slots.new_zeros(batch, 0, self.config.d_model)

        def own(network: Elmur) -> Callable[[Tensor], Tensor]:
            state = network.initial_state(batch)

            def step(x: Tensor) -> Tensor:
                nonlocal state
                y, state = network.step(x, state, never, inplace=True)
                return y

            return step

        def yardstick(x: Tensor) -> Tensor:
            nonlocal theirs
            y, theirs = self.yardstick.step(x, theirs)
            return y

        def plain(x: Tensor) -> Tensor:
            nonlocal window
            window = th.cat((window[:, : window.shape[1] % length], x[:, None]), dim=1)
            return self.plain(window)[:, -1]

        steppers = {OURS: own(self.ours), YARDSTICK: yardstick, PLAIN: plain}
        return steppers | {COMPILED: own(self.compiled)} if compiled else steppers

    def apart_stepper(self, batch: int) -> Callable[[Tensor], Tensor]:
        """Ours with rows at all phases of their segments, as environments are; so some rows write at every step."""
        never = th.zeros(batch, dtype=th.bool, device=self.device)
        phases = th.arange(batch, device=self.device) % self.config.segment_length
        state = self.ours.initial_state(batch)
        for i, x in enumerate(self.tokens(batch).unbind(1)):
            _, state = self.ours.step(x, state, phases == i)

        def ours(x: Tensor) -> Tensor:
            nonlocal state
            y, state = self.ours.step(x, state, never, inplace=True)
            return y

        return ours


def count_parameters(network: nn.Module) -> int:
    """Number of trained parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def training_flops(config: ElmurConfig, batch: int) -> float:
    """
    Floating point operations that training on one segment needs: those of its matrix products, a multiply-add being two.

    A product's forward pass counts once, and its backward pass once more for each factor that needs a gradient. So most
    count 3, but 2 where a weight meets something without gradient (the first layer's tokens, the detached slots, the
    sinusoids), and the write counts 1, since the loss of its segment does not depend on it. Of the experts only the chosen
    ones count, of the slots only the written one, and of causal self-attention only the pairs with j <= i. All slots are
    projected to keys and values for every row; distances once per segment. Per layer, with F the operations of the
    feed-forward network for one token (6 D times its active hidden width, and the router's 2 D E)::

        self-attention  2 T D 3D (queries, keys, values) + 3 T(T+1) D (two scores, values) + 2 T D D (output)
        read            4 T D D (queries, output) + 4 W D D (keys, values) + 4 T M D (scores, values)
        token FFN       T F
        write           4 T D D (keys, values) + 4 D D (query, output) + 4 T D (scores, values) + F
        distances       2 T D D per segment
        initial slots   4 (M - W) D D per segment

    :param config: The stack.
    :param batch: Rows B.
    """
    d, t, m = config.d_model, config.segment_length, config.memory_size
    d_ff = config.d_ff or 2 * d
    if config.ffn == "moe":
        chosen = max(1, config.top_k - config.n_shared_experts)
        width = config.n_shared_experts * (config.shared_d_ff or d_ff) + chosen * (config.routed_d_ff or d_ff)
        ffn = 6 * d * width + 2 * d * config.n_routed_experts
    else:
        ffn = (6 if config.ffn == "swiglu" else 4) * d * d_ff
    qkv = 6 * t * d * d
    attention = 3 * t * (t + 1) * d + 2 * t * d * d
    read = 4 * t * d * d + 4 * t * m * d
    write = 4 * t * d * d + 4 * d * d + 4 * t * d + ffn
    written = (SEGMENTS - 1) / 2
    per_layer = 3 * (qkv + attention + read + t * ffn) + 2 * 4 * written * d * d + write
    shared = 2 * (2 * t + 4 * (m - written)) * d * d
    return float(batch * (config.n_layers * per_layer - qkv) + config.n_layers * shared)


def matmul_flops(function: Callable[[], object]) -> int:
    """Floating point operations of all matrix products in one call."""
    with FlopCounterMode(display=False) as counter:
        function()
    return int(counter.get_total_flops())


def synchronise(device: th.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        th.cuda.synchronize(device)


def seconds(function: Callable[[], object], device: th.device) -> float:
    """Time of one call: CPU time where one thread does all, since others may use its core, else wall time."""
    clock = time.process_time if device.type == "cpu" and th.get_num_threads() == 1 else time.perf_counter
    synchronise(device)
    start = clock()
    function()
    synchronise(device)
    return clock() - start


def matmul_peak(device: th.device, repeats: int = 5) -> tuple[float, int]:
    """Best speed of square float32 matrix products in GFLOP/s, and their size."""
    best = (0.0, 0)
    for size in (512, 768, 1024, 1536, 2048):
        a, b = th.randn(2, size, size, device=device).unbind()
        out = th.empty_like(a)
        fastest = min(seconds(lambda: th.mm(a, b, out=out), device) for _ in range(repeats + 1))  # noqa: B023
        best = max(best, (2e-9 * size**3 / fastest, size))
    return best


def summarise(values: list[float]) -> dict[str, float]:
    """Median and extremes, to four digits."""
    named = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: float(f"{value:.4g}") for name, value in named.items()}


def race(contestants: dict[str, Callable[[], object]], count: int, repeats: int, device: th.device) -> dict[str, list[float]]:
    """
    Run the contestants in turn, after one round to warm up.

    :param contestants: Functions by name.
    :param count: Tokens or environment steps of one call.
    :param repeats: Rounds that count.
    :param device: Where they run.
    :return: Their speeds in every round.
    """
    speeds: dict[str, list[float]] = {name: [] for name in contestants}
    for repeat in range(repeats + 1):
        for name, function in contestants.items():
            speed = count / seconds(function, device)
            if repeat > 0:
                speeds[name].append(speed)
    return speeds


def report_speeds(speeds: dict[str, list[float]]) -> dict[str, Any]:
    """Speeds of all contestants, and ours relative to the others of the same repeat."""
    report: dict[str, Any] = {name: summarise(values) for name, values in speeds.items()}
    for own in (OURS, COMPILED):
        if own in speeds:
            report[f"{own} / other"] = {
                name: summarise([ours / other for ours, other in zip(speeds[own], values, strict=True)])
                for name, values in speeds.items()
                if name != own
            }
    return report


def measure_training(networks: Contestants, batch: int, repeats: int) -> dict[str, Any]:
    """Tokens per second of forward and backward passes, for one batch size."""
    networks.train()
    trainers = networks.trainers(batch)
    tokens = networks.tokens(SEGMENTS, batch)
    count = SEGMENTS * batch * networks.config.segment_length
    flops = SEGMENTS * training_flops(networks.config, batch)
    theirs = matmul_flops(lambda: trainers[YARDSTICK](tokens))
    speeds = race({name: partial(train, tokens) for name, train in trainers.items()}, count, repeats, networks.device)
    return report_speeds(speeds) | {
        "FLOP per token": {"needed": round(flops / count), YARDSTICK: round(theirs / count)},
        "x possible": float(f"{theirs / flops:.3g}"),
        "GFLOP/s": summarise([1e-9 * flops * speed / count for speed in speeds[OURS]]),
    }


@th.no_grad()
def measure_stepping(networks: Contestants, batch: int, repeats: int, compiled: bool) -> dict[str, Any]:
    """Environment steps per second of single steps, over whole segments, for one batch size."""
    networks.eval()
    steppers = networks.steppers(batch, compiled)
    n_segments = max(3, math.ceil(60 / networks.config.segment_length))
    tokens = [x for segment in networks.tokens(n_segments, batch) for x in segment.unbind(1)]

    def run(step: Callable[[Tensor], Tensor]) -> None:
        for x in tokens:
            step(x)

    count = len(tokens) * batch
    ours, theirs = (matmul_flops(partial(run, steppers[name])) / count for name in (OURS, YARDSTICK))
    report: dict[str, Any] = {
        "FLOP per step": {OURS: round(ours), YARDSTICK: round(theirs)},
        "x possible": float(f"{theirs / ours:.3g}"),
    }
    if compiled:
        start = time.perf_counter()
        steppers[COMPILED](tokens[0])
        report["compilation, s"] = round(time.perf_counter() - start, 1)
    if batch > 1:
        steppers[APART] = networks.apart_stepper(batch)
    speeds = race({name: partial(run, step) for name, step in steppers.items()}, count, repeats, networks.device)
    return report_speeds(speeds) | report


def measure(case: Case, device: th.device, repeats: int, compiled: bool) -> dict[str, Any]:
    """All measurements of one case, after the comparison of package and yardstick; compiled only steps of batch 1."""
    networks = Contestants(case.config, device)
    networks.check_equal()
    Contestants(replace(case.config, ffn="swiglu", norm_first=True), device).check_equal()
    return {
        "parameters": {OURS: count_parameters(networks.ours), PLAIN: count_parameters(networks.plain)},
        "plain d_ff": networks.plain.d_ff,
        "training": {str(batch): measure_training(networks, batch, repeats) for batch in case.train_batches},
        "stepping": {
            str(batch): measure_stepping(networks, batch, repeats, compiled and batch == 1) for batch in case.step_batches
        },
    }


def cell(values: dict[str, float] | None) -> str:
    """Median and extremes for a table."""
    return "" if values is None else f"{values['median']:,.4g} ({values['min']:,.4g} to {values['max']:,.4g})"


def print_tables(report: dict[str, Any]) -> None:
    """Print a report as Markdown."""
    print(
        f"\nMatrix product: {report['matmul peak']['GFLOP/s']} GFLOP/s. Medians (extremes) of {report['repeats']} repeats.\n"
    )
    columns = (OURS, COMPILED, YARDSTICK, PLAIN, APART)
    header = (*columns, "ours / straightforward", "compiled / straightforward", "x possible", "% of peak", "compilation, s")
    print(f"| steps/s | {' | '.join(header)} |")
    print("|---" * (len(header) + 1) + "|")
    for name, case in report["results"].items():
        for kind in ("training", "stepping"):
            for batch, row in case[kind].items():
                cells = [cell(row.get(column)) for column in columns]
                cells += [cell(row.get(f"{own} / other", {}).get(YARDSTICK)) for own in (OURS, COMPILED)]
                peak = str(row["% of peak"]["median"]) if "% of peak" in row else ""
                cells += [str(row["x possible"]), peak, str(row.get("compilation, s", ""))]
                print(f"| {name}, {kind}, batch {batch} | {' | '.join(cells)} |")


def main() -> None:
    """Measure every case, print the results and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cases", nargs="+", choices=tuple(CASES), default=tuple(CASES))
    parser.add_argument("--compile", nargs="*", choices=tuple(CASES), default=tuple(CASES), help="cases to compile too")
    parser.add_argument("--output", type=Path, default=RESULTS / "network_speed.json")
    args = parser.parse_args()

    th.set_num_threads(args.threads)
    th.manual_seed(0)
    device = th.device(args.device)
    peak = matmul_peak(device)
    results = {}
    for name in args.cases:
        results[name] = measure(CASES[name], device, args.repeats, name in args.compile)
        peak = max(peak, matmul_peak(device))
        print(f"{name} done", flush=True)
    for case in results.values():
        for row in case["training"].values():
            row["% of peak"] = {k: float(f"{100 * v / peak[0]:.3g}") for k, v in row["GFLOP/s"].items()}

    report = {
        "unit": "tokens per second (training), environment steps per second (stepping: calls per second times batch); of CPU "
        "time if one thread on a CPU ran them, else of wall time",
        **provenance(seed=0, device=args.device),
        "repeats": args.repeats,
        "matmul peak": {"GFLOP/s": round(peak[0], 1), "size": peak[1], "dtype": "float32"},
        "results": results,
    }
    write_json(args.output, report)
    print_tables(report)


if __name__ == "__main__":
    main()
