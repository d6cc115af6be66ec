"""
What MemoryCallback costs at its default interval: CPU time of its hooks beside that of the whole training.

    OMP_NUM_THREADS=1 python benchmarks/callback_overhead.py

writes ``benchmarks/results/callback_overhead.json``. CPU time of the process is counted, not wall time, and inside the run
itself, so that neither other processes nor the luck of two runs decide: every call of the callback is timed, and so is every
writing of logs with panels, which TensorBoard draws only then. Panels count as often as they come by default.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from typing import Any

from common import RECIPE, RESULTS, markdown_table, provenance, write_json
from stable_baselines3.common.logger import configure

from sb3_elmur import MemoryCallback, RecurrentPPO
from sb3_elmur.envs.batch import make_batch
from sb3_elmur.monitoring.tracing import SegmentTrace
from sb3_elmur.settings import read_settings, schedule

ALGORITHM_KEYS = ("n_steps", "batch_size", "n_epochs", "gamma", "gae_lambda", "ent_coef", "bptt_segments")
SETTINGS: dict[str, dict[str, Any]] = {  # environment id: what differs from zoo_configs/ppo_elmur.yml
    "TMazePassive30-v0": {},
    "POPGymPositionOnlyCartPoleEasy-v0": {"n_envs": 8, "n_steps": 32, "batch_size": 256},
}


class TimedCallback(MemoryCallback):
    """Adds up the CPU seconds that its hooks take, and apart from them those of drawing and writing its panels."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = self.panel_seconds = 0.0
        self.n_panels = 0

    def _on_training_start(self) -> None:
        super()._on_training_start()
        assert self._monitor is not None
        draw, dump = self._monitor._draw, self.logger.dump

        def draw_timed(trace: SegmentTrace) -> None:
            begin = time.process_time()
            draw(trace)
            self.n_panels += 1
            self.panel_seconds += time.process_time() - begin

        def dump_timed(step: int = 0) -> None:
            draws, begin = "memory/panel_attention" in self.logger.name_to_value, time.process_time()
            dump(step)
            self.panel_seconds += draws * (time.process_time() - begin)

        self._monitor._draw = draw_timed  # type: ignore[method-assign]
        self.logger.dump = dump_timed  # type: ignore[method-assign]

    def _timed(self, hook: Callable[[], Any]) -> Any:
        begin, panels = time.process_time(), self.panel_seconds
        result = hook()
        self.seconds += time.process_time() - begin - (self.panel_seconds - panels)
        return result

    def _on_rollout_start(self) -> None:
        self._timed(super()._on_rollout_start)

    def _on_step(self) -> bool:
        return self._timed(super()._on_step)

    def _on_rollout_end(self) -> None:
        self._timed(super()._on_rollout_end)


def measure(env_id: str, changes: dict[str, Any], measurements: int, seed: int) -> dict[str, Any]:
    """Train for some measurements, and tell CPU seconds per measurement, per panel, and of training between measurements."""
    settings = RECIPE | read_settings("ppo_elmur.yml", env_id) | changes
    env = make_batch(env_id, settings["n_envs"], settings.get("env_kwargs"))
    arguments = {key: settings[key] for key in ALGORITHM_KEYS if key in settings}
    rate = schedule(settings["learning_rate"])
    model = RecurrentPPO("ElmurPolicy", env, rate, policy_kwargs=settings["policy_kwargs"], seed=seed, **arguments)
    with tempfile.TemporaryDirectory() as folder:
        model.set_logger(configure(folder, ["tensorboard", "csv"]))
        model.learn(1, callback=MemoryCallback())  # imports and first calls
        callback = TimedCallback()
        steps = model.n_steps * model.n_envs
        rollouts = measurements * -(-callback.interval // steps)
        begin = time.process_time()
        model.learn(rollouts * steps, callback=callback)
        total = time.process_time() - begin
    assert callback._monitor is not None
    n_measurements = callback._monitor.n_measurements
    per_measurement, per_panel = callback.seconds / n_measurements, callback.panel_seconds / callback.n_panels
    training = (total - callback.seconds - callback.panel_seconds) / n_measurements
    return {
        "env": env_id,
        "n_envs": model.n_envs,
        "n_steps": model.n_steps,
        "rollouts": rollouts,
        "measurements": n_measurements,
        "seconds_per_measurement": round(per_measurement, 4),
        "seconds_per_panel": round(per_panel, 4),
        "training_seconds_per_measurement": round(training, 4),
        "overhead": round((per_measurement + per_panel / callback.panels_every) / training, 5),
    }


def main() -> None:
    """Measure all settings, and write the result after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measurements", type=int, default=5, help="of each setting, at least (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    runs: list[dict[str, Any]] = []
    for env_id, changes in SETTINGS.items():
        runs.append(measure(env_id, changes, options.measurements, options.seed))
        write_json(RESULTS / "callback_overhead.json", {"provenance": provenance(options.seed), "runs": runs})
    shown = [name for name in runs[0] if name not in ("n_envs", "n_steps", "rollouts")]
    print(markdown_table(shown, [[run[name] for name in shown] for run in runs]))


if __name__ == "__main__":
    main()
