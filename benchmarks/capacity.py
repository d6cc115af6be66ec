"""
What memory holds, replaces and combines: cues, corridors in a row and runes in the T-Maze, by behaviour cloning and online.

    python benchmarks/capacity.py                                    # every run that has no result yet
    python benchmarks/capacity.py --only law                         # those of one question
    python benchmarks/capacity.py --run cues gated_recurrent 1 8 0   # one run: task, memory, slots M, k, seed
    python benchmarks/capacity.py --report                           # tables and figure of what is there

Every run is a process of its own on one core, and writes ``benchmarks/results/capacity/<task>_<memory>_<M>_<k>_<seed>.json``.
Runs whose file is there are not repeated, so that the command continues where it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch as th
from common import RESULTS, launch_all, markdown_table, mean_and_worst, provenance, write_file, write_json

from sb3_elmur import RecurrentPPO
from sb3_elmur.bc.config import BCConfig
from sb3_elmur.bc.shrinking import shrink_memory
from sb3_elmur.bc.trainer import BC
from sb3_elmur.comparison.statistics import interquartile_means
from sb3_elmur.datasets.episodes import NpzEpisodes
from sb3_elmur.envs.batch import make_batch
from sb3_elmur.envs.tmaze.base import MazeVecEnv
from sb3_elmur.evaluation import cross_episodes
from sb3_elmur.policies import ElmurPolicy
from sb3_elmur.recording import record

FOLDER = RESULTS / "capacity"
FIGURE = RESULTS.parents[1] / "docs" / "capacity.png"
N_EVALUATED, EVALUATION_SEED = 100, 1_000_000
LONGEST_CHAIN = 120  # steps that gradients cross at most
SOLVED = 0.9  # share of right turns below which nothing longer is evaluated
PATIENCE = 10  # CPU seconds of an evaluation, after which none of ten times the length follows
LENGTHS = (1_000, 10_000, 100_000, 1_000_000)  # beside that of training
AUTOMATIC = "automatic"  # gated; the number of slots is found by halving
KS = (1, 2, 4, 8, 16)  # cues, where their order is told
LAW_KS, LAW_SLOTS = (4, 8), (1, 2, 4, 8)
BY_LENGTH = (("gated", 4), ("fixed=0", 4), ("fixed", 4), ("learned", 4), ("lstm", 0), ("gru", 0))  # with eight cues
GATES = ("gated", "gated_recurrent", AUTOMATIC)
CELLS = {"lstm": 120, "gru": 136}  # widths with which they have as many parameters as ELMUR within 7 %
ONLINE = {"n_steps": 128, "batch_size": 2_048, "gamma": 0.5}  # of RecurrentPPO: a turn is rewarded at once
N_ENVS = 64
Results = dict[tuple[str, str, int, int], list[dict[str, Any]]]  # by task, memory, slots and k; a report for each seed


class Task(NamedTuple):
    """
    What is learned, and how.

    :param env_id: Of the maze.
    :param n_episodes: That are recorded, and cloned.
    :param n_layers: Where something is combined, it must be found first.
    :param segment_length: L.
    :param gate_bias: -2 keeps what comes first; 1 is for memory that is rewritten often.
    :param n_epochs: By k: few turns teach little.
    :param learning_rate: Largest.
    :param batch_size: Episodes.
    :param lengths: Of its evaluation, beside that of training; runes bring something new all the time.
    :param online_steps: By k, of training by PPO, in place of cloning.
    :param online_kwargs: Of the mazes of that training, beside those of the others.
    """

    env_id: str
    n_episodes: int
    n_layers: int
    segment_length: int
    gate_bias: float
    n_epochs: Callable[[int], int]
    learning_rate: float
    batch_size: int
    lengths: tuple[int, ...]
    online_steps: Callable[[int], int] | None = None
    online_kwargs: dict[str, Any] = {}  # noqa: RUF012  # replaced, never changed


TASKS = {
    "cues": Task(
        "TMazeCues-v0", n_episodes=2_000, n_layers=2, segment_length=4, gate_bias=1.0,
        n_epochs=lambda k: 20 if k <= 4 else 60, learning_rate=2e-3, batch_size=64, lengths=LENGTHS,
    ),
    "told": Task(
        "TMazeCues-v0", n_episodes=2_000, n_layers=1, segment_length=2, gate_bias=-2.0,
        n_epochs=lambda k: 20 if k <= 2 else 10, learning_rate=3e-3, batch_size=64, lengths=LENGTHS,
    ),
    "runes": Task(
        "TMazeRunes-v0", n_episodes=2_000, n_layers=2, segment_length=3, gate_bias=1.0,
        n_epochs=lambda k: 30, learning_rate=2e-3, batch_size=32, lengths=LENGTHS[:2],
    ),
    "endless": Task(
        "TMazeEndless-v0", n_episodes=500, n_layers=1, segment_length=5, gate_bias=1.0,
        n_epochs=lambda k: 40, learning_rate=2e-3, batch_size=32, lengths=LENGTHS[:1],
    ),
}  # fmt: skip
TASKS |= {
    "told-online": TASKS["told"]._replace(
        n_layers=2,
        segment_length=1,  # two cues in one slot are told apart too late
        online_steps=lambda k: 30_000 * k,
        online_kwargs={"reward": "eased", "wrong_turn_ends": False},
    ),
}


class Run(NamedTuple):
    """
    One agent that is trained and evaluated.

    :param task: "cues" (in the order shown), "told" (in an order told at the junctions), "endless" or "runes"; "told-online"
        for learning by reward.
    :param memory: A blend of ELMUR (of fixed ones with its lambda, such as "fixed=0.2"), "automatic", "lstm" or "gru".
    :param slots: Slots M, with which "automatic" begins; 0 for a cell.
    :param k: Cues, runes, or corridors in a row.
    :param seed: Of everything.
    """

    task: str
    memory: str
    slots: int
    k: int
    seed: int

    @property
    def path(self) -> Path:
        """Where its result goes."""
        return FOLDER / ("_".join(map(str, self)) + ".json")

    @property
    def maze(self) -> str:
        """What is learned, whether by cloning or by reward."""
        return self.task.partition("-")[0]

    @property
    def env_kwargs(self) -> dict[str, Any]:
        """Of the maze in which it is trained, by reward with the ``online_kwargs`` of its task beside them."""
        if self.maze == "endless":
            return {"n_corridors": self.k, "length": 30, "corridor_length": (1, 28)}
        length = 100 if self.k > 8 else 30 if self.k <= 4 and self.maze != "cues" else 60
        if self.maze == "runes":
            return {"n_runes": self.k, "length": length, "corridor_length": (self.k + 1, length - 2)}
        order = "told" if self.maze == "told" else "shown"
        return {"n_cues": self.k, "length": length, "corridor_length": (1, (length - 2 * self.k) // self.k), "order": order}

    @property
    def policy_kwargs(self) -> dict[str, Any]:
        """Of the policy."""
        task = TASKS[self.task]
        shared: dict[str, Any] = {"n_layers": task.n_layers, "segment_length": task.segment_length}
        if not task.online_steps:
            shared["ortho_init"] = False
        if self.memory in CELLS:
            return shared | {"core": self.memory, "d_model": CELLS[self.memory]}
        name, _, weight = self.memory.partition("=")
        blend: dict[str, Any] = {"blend": "gated" if name == AUTOMATIC else name, "gate_bias": task.gate_bias}
        if weight:
            blend["lru_blend"] = float(weight)
        return shared | {"d_model": 64, "memory_size": self.slots} | blend

    @property
    def bptt_segments(self) -> int:
        """Segments that gradients cross: those of the whole episode, or of the last corridors."""
        steps = self.env_kwargs["length"] * self.env_kwargs.get("n_corridors", 1)
        return -(-min(max(60, steps), LONGEST_CHAIN) // TASKS[self.task].segment_length)

    @property
    def training(self) -> BCConfig:
        """Of behaviour cloning."""
        task, n_segments = TASKS[self.task], self.bptt_segments
        if self.memory == AUTOMATIC:  # many slots are harder to learn with
            return BCConfig(20 if self.k <= 4 else 30, 32, n_segments, task.learning_rate, validation=0.1)
        return BCConfig(task.n_epochs(self.k), task.batch_size, n_segments, task.learning_rate)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Of its evaluation; what nothing keeps bit for bit cannot be skipped."""
        lengths = TASKS[self.task].lengths
        return lengths if self.memory in (*GATES, "fixed=0") else lengths[:2]


def runs(question: str) -> list[Run]:
    """The runs that answer a question, one of :data:`QUESTIONS`, seed by seed."""
    if question == "headline":
        agents = [("told", "gated", 4, 8), ("told-online", "gated", 8, 8)]
        agents += [(task, cell, 0, 8) for task in ("told", "told-online") for cell in CELLS]
    elif question == "law":
        agents = [("told", memory, m, k) for k in LAW_KS for m in LAW_SLOTS if m <= k for memory in ("fixed", "gated")]
        agents += [("told", cell, 0, k) for cell in CELLS for k in LAW_KS]
    else:
        agents = [*(("told", AUTOMATIC, 16, k) for k in KS), ("endless", AUTOMATIC, 16, 10)]
    return [Run(*agent, seeds(agent[0])[number]) for number in range(QUESTIONS[question]) for agent in agents]


def seeds(task: str) -> tuple[int, ...]:
    """Of the runs of a task; the settings of learning by reward were chosen on seeds 3 and 100."""
    return (10, 11, 12, 13, 14) if TASKS[task].online_steps else (0, 1, 2, 3, 4)


QUESTIONS = {"headline": 5, "law": 5, AUTOMATIC: 3}  # and how many seeds answer them


def train_online(run: Run) -> tuple[RecurrentPPO, dict[str, Any]]:
    """Learn by reward. Returns the model, and how it was trained."""
    task = TASKS[run.task]
    assert task.online_steps is not None
    arguments = ONLINE | {"bptt_segments": run.bptt_segments}
    env = make_batch(task.env_id, N_ENVS, run.env_kwargs | task.online_kwargs)
    model = RecurrentPPO("ElmurPolicy", env, **arguments, policy_kwargs=run.policy_kwargs, seed=run.seed, device="cpu")
    model.learn(task.online_steps(run.k))
    return model, {"training": arguments | {"n_envs": N_ENVS, "steps": model.num_timesteps} | task.online_kwargs}


def clone(run: Run) -> tuple[RecurrentPPO, dict[str, Any]]:
    """Clone the recorded oracle. Returns the model, how it was trained, and what "automatic" found."""
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "episodes"
        env_id, n_episodes = TASKS[run.task][:2]
        record(env_id, "oracle", data, n_episodes, seed=run.seed * n_episodes, env_kwargs=run.env_kwargs)
        env = make_batch(env_id, 1, run.env_kwargs)
        model = RecurrentPPO("ElmurPolicy", env, policy_kwargs=run.policy_kwargs, seed=run.seed, device="cpu")
        trainer = BC(model, NpzEpisodes(data, env.observation_space, env.action_space), run.training)
        trainer.train()
        training = {"training": run.training.__dict__}
        if run.memory != AUTOMATIC:
            return model, training
        with_all = time.process_time() - start
        trainer, losses = shrink_memory(trainer)
    slots = trainer.policy.config.memory_size
    halving = {"slots": slots, "held-out losses": losses, "of training with all slots": round(with_all, 1)}
    return trainer.model, training | {"halving": halving}


def evaluate(policy: ElmurPolicy, run: Run) -> dict[str, dict[str, float]]:
    """By length, the shares of right turns and of episodes with all right, up to the first that is too long or slow."""
    success: dict[str, dict[str, float]] = {}
    for length in (run.env_kwargs["length"], *run.lengths):
        kwargs = {name: value for name, value in run.env_kwargs.items() if name != "corridor_length"} | {"length": length}
        start = time.process_time()
        env = make_batch(TASKS[run.task].env_id, N_EVALUATED, kwargs)
        assert isinstance(env, MazeVecEnv)
        episodes = cross_episodes(policy, env, EVALUATION_SEED)
        names = ("turn_success", "is_success")
        success[str(length)] = {name: float(np.mean([episode[name] for episode in episodes])) for name in names}
        too_long = success[str(length)]["turn_success"] < SOLVED
        if length >= LENGTHS[0] and (too_long or time.process_time() - start > PATIENCE):
            break
    return success


def perform(run: Run) -> None:
    """Train and evaluate in this process, and write the result."""
    th.set_num_threads(1)
    start = time.process_time()
    model, how = (train_online if TASKS[run.task].online_steps else clone)(run)
    trained = time.process_time()
    report = {
        "run": run._asdict(),
        "env_kwargs": run.env_kwargs,
        "policy_kwargs": run.policy_kwargs,
        **how,
        "parameters": sum(parameter.numel() for parameter in model.policy.parameters()),
        "episodes": N_EVALUATED,
        "success": evaluate(model.policy, run),
        "training CPU seconds": round(trained - start, 1),
        "evaluation CPU seconds": round(time.process_time() - trained, 1),
        **provenance(run.seed),
    }
    write_json(run.path, report)


def perform_all(runs: Iterable[Run], workers: int) -> None:
    """
    Perform what has no result yet, each in a process of its own.

    :param runs: In this order.
    :param workers: Processes at a time.
    """
    launch_all({run.path: [str(Path(__file__).resolve()), "--run", *map(str, run)] for run in runs}, workers)


def results() -> Results:
    """Reports of all seeds by task, memory, slots and k."""
    by_agent = defaultdict(list)
    for path in sorted(FOLDER.glob("*.json")):
        content = json.loads(path.read_text())
        by_agent[tuple(Run(**content["run"]))[:4]].append(content)
    return by_agent


def shares(reports: list[dict[str, Any]], length: int) -> list[float]:
    """Of all seeds the share of right turns at a length; none if not evaluated."""
    return [one["success"][str(length)]["turn_success"] for one in reports if str(length) in one["success"]]


def report() -> None:
    """Print a table for each question, and draw the figure."""
    by_agent = results()
    lengths = ["trained length", *(f"{length:,}" for length in LENGTHS)]
    rows = []
    for task, memory, slots, k in dict.fromkeys((run.task, run.memory, run.slots, run.k) for run in runs("headline")):
        if reports := by_agent.get((task, memory, slots, k), []):
            seconds = float(np.median([one["training CPU seconds"] for one in reports]))
            cells = by_length(reports)
            rows.append([task, k, memory, slots or "", len(reports), reports[0]["parameters"], *cells, round(seconds)])
    print(markdown_table(["task", "k", "memory", "M", "seeds", "parameters", *lengths, "training, CPU s"], rows))
    print()
    rows = [
        [memory, k, *(interval(shares(by_agent.get(("told", memory, m, k), []), LENGTHS[0])) for m in slots)]
        for memory, slots in (("gated", LAW_SLOTS), ("fixed", LAW_SLOTS), *((cell, (0,)) for cell in CELLS))
        for k in LAW_KS
    ]
    length = TASKS["told"].segment_length
    rows += [
        [f"if M slots hold {length} M cues", k, *(f"{turns_if_held(k, length * m):.2f}" for m in LAW_SLOTS)] for k in LAW_KS
    ]
    print(markdown_table(["memory", "k", *(f"M = {m}" for m in LAW_SLOTS)], [(*row, "", "", "")[:6] for row in rows]))
    print()
    agents = [(memory, m, by_agent.get(("told", memory, m, 8), [])) for memory, m in BY_LENGTH]
    rows = [[shown(memory), m or "", *by_length(reports)] for memory, m, reports in agents if reports]
    print(markdown_table(["memory, k = 8", "M", *lengths], rows))
    print()
    rows = []
    for agent in dict.fromkeys(tuple(run)[:4] for run in runs(AUTOMATIC)):
        if reports := by_agent.get(agent, []):
            halvings = [one["halving"] for one in reports]
            costs = [one["training CPU seconds"] / one["halving"]["of training with all slots"] for one in reports]
            tried = [" ".join(f"{m}: {loss:.4f}" for m, loss in one["held-out losses"].items()) for one in halvings]
            found = ", ".join(str(one["slots"]) for one in halvings)
            rows.append(
                [agent[0], agent[3], found, *by_length(reports), f"{np.mean(costs):.2f} ({max(costs):.2f})", "; ".join(tried)]
            )
    print(markdown_table(["task", "k", "M found", *lengths, "cost (largest)", "held-out loss by M"], rows))
    draw(by_agent, FIGURE)


def by_length(reports: list[dict[str, Any]]) -> list[str]:
    """The mean and the smallest share of right turns by length, and of how many seeds where some are missing."""
    cells = []
    for length in (reports[0]["env_kwargs"]["length"], *LENGTHS):
        values = shares(reports, length)
        some = f", {len(values)} of {len(reports)}" if len(values) < len(reports) else ""
        cells.append(mean_and_worst(values) + some if values else "")
    return cells


def turns_if_held(k: int, n_held: int) -> float:
    """The share of right turns if ``n_held`` of k cues are held and the others guessed. A wrong turn ends the episode."""
    n_guessed, asked = k - min(n_held, k), range(1, k + 1)
    all_right = [
        sum(math.comb(n_guessed, g) * math.comb(k - n_guessed, j - g) / 2**g for g in range(j + 1)) / math.comb(k, j)
        for j in asked
    ]
    return sum(all_right) / k


def interval(values: list[float]) -> str:
    """The interquartile mean of all seeds, and its 95 % interval."""
    if len(values) < 2:
        return ", ".join(f"{value:.2f}" for value in values)
    estimate = interquartile_means({"": np.array(values)[:, None]})[""]
    return "{:.2f} [{:.2f}, {:.2f}]".format(*estimate)


def draw(by_agent: Results, path: Path) -> None:
    """
    Right turns after 1,000 steps against M, right turns against length, and the number of slots that was found.

    Every seed is a dot; dotted lines are what holding as many cues as go into M slots would give, dashed ones the mean of
    LSTMs, dash-dotted ones that of GRUs.
    """
    told = {agent[1:]: reports for agent, reports in by_agent.items() if agent[0] == "told"}
    figure, axes = plt.subplots(1, 4, figsize=(12, 3.2), layout="constrained")
    for axis, (blend, title) in zip(axes, (("gated", "gated"), ("fixed", "fixed, λ = 0.5")), strict=False):
        for color, k in enumerate(LAW_KS):
            chosen = [(m, reports) for (memory, m, n), reports in told.items() if (memory, n) == (blend, k)]
            points = [(m, shares(reports, LENGTHS[0])) for m, reports in chosen]
            plot_seeds(axis, points, f"C{color}", f"k = {k}")
            held = [turns_if_held(k, TASKS["told"].segment_length * m) for m in LAW_SLOTS]
            axis.plot(LAW_SLOTS, held, ":", color=f"C{color}")
            for cell, style in zip(CELLS, ("--", "-."), strict=True):
                success = shares(told.get((cell, 0, k), []), LENGTHS[0])
                axis.axhline(np.mean(success) if success else np.nan, ls=style, lw=0.8, color=f"C{color}")
        axis.set(title=f"ELMUR, {title}", xlabel="slots M", xlim=(0.8, 10))
    for color, (memory, m) in enumerate(BY_LENGTH):
        reports = told.get((memory, m, 8), [])
        points = [(length, shares(reports, length)) for length in (60, *LENGTHS)]
        plot_seeds(axes[2], [(x, seeds) for x, seeds in points if seeds], f"C{color}", shown(memory))
    axes[2].set(title="k = 8, M = 4", xlabel="steps", xlim=(40, 1.5e6))
    automatic = [(k, reports) for (memory, _, k), reports in told.items() if memory == AUTOMATIC]
    found = [(k, [one["halving"]["slots"] for one in reports]) for k, reports in automatic]
    plot_seeds(axes[3], found, "k", "found")
    axes[3].plot(KS, [-(-k // TASKS["told"].segment_length) for k in KS], ":", color="gray", label="segments that show cues")
    axes[3].set(title="M chosen by halving 16 slots", xlabel="cues k", ylabel="slots M", xlim=(0.8, 20), yscale="log")
    axes[3].set(ylim=(0.8, 20), yticks=KS, yticklabels=KS)
    axes[0].set_ylabel("right turns, 1,000 steps")
    for axis in axes:
        axis.set(xscale="log")
        if axis is not axes[2]:
            axis.set(xticks=KS, xticklabels=KS)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    for axis in axes[:3]:
        axis.set(ylim=(-0.03, 1.03))
    write_file(path, lambda temporary: figure.savefig(temporary, format="png", dpi=130))


def shown(memory: str) -> str:
    """The name of a memory in tables and figures."""
    name, _, weight = memory.partition("=")
    return f"λ = {weight or 0.5}" if name == "fixed" else name.upper() if name in CELLS else name


def plot_seeds(axis: Any, points: list[tuple[int, list[float]]], color: str, label: str) -> None:
    """A line through the means of all seeds at each x, and a dot for every seed."""
    if not points:
        return
    xs, values = zip(*sorted(points), strict=True)
    axis.plot(xs, [np.mean(seeds) for seeds in values], color=color, label=label)
    for x, seeds in zip(xs, values, strict=True):
        axis.plot([x] * len(seeds), seeds, "o", ms=3, color=color)


def main() -> None:
    """Run, or report, as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=QUESTIONS, default=list(QUESTIONS), metavar="QUESTION")
    parser.add_argument("--workers", type=int, default=1, help="processes at a time")
    parser.add_argument("--run", nargs=5, metavar=("TASK", "MEMORY", "M", "K", "SEED"), help="one run, in this process")
    parser.add_argument("--report", action="store_true", help="only show what is there")
    options = parser.parse_args()
    if options.run:
        task, memory, *numbers = options.run
        perform(Run(task, memory, *map(int, numbers)))
        return
    if not options.report:
        perform_all((run for question in options.only for run in runs(question)), options.workers)
    report()


if __name__ == "__main__":
    main()
