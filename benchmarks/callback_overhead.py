"""What MemoryCallback costs at its default interval: CPU time of its hooks beside that of the whole training.

    OMP_NUM_THREADS=1 python benchmarks/callback_overhead.py

writes ``benchmarks/results/callback_overhead.json``. CPU time of the process is counted, not wall time, and inside the run
itself, so that neither other processes nor the luck of two runs decide: every call of the callback is timed, and so is every
writing of logs that contain figures, which TensorBoard draws only then.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import yaml
from common import RESULTS, markdown_table, provenance, write_json
from stable_baselines3.common.logger import configure

from sb3_elmur import MemoryCallback, RecurrentPPO
from sb3_elmur.envs.batch import make_batch

ALGORITHM_KEYS = ("n_steps", "batch_size", "n_epochs", "gamma", "gae_lambda", "ent_coef", "bptt_segments")
SETTINGS = {  # environment id: what differs from zoo_configs/ppo_elmur.yml
    "TMazePassive30-v0": {},
    "POPGymRepeatPreviousEasy-v0": {},
    "POPGymPositionOnlyCartPoleEasy-v0": {"n_envs": 8, "n_steps": 32, "batch_size": 256},
}


class TimedCallback(MemoryCallback):
    """Adds up the CPU seconds that its hooks take, and the writing of its figures."""

    seconds = 0.0

    def _on_training_start(self) -> None:
        super()._on_training_start()
        dump = self.logger.dump

        def dump_timed(step: int = 0) -> None:
            draws = "memory/panel_attention" in self.logger.name_to_value
            self._timed(lambda: dump(step)) if draws else dump(step)

        self.logger.dump = dump_timed  # type: ignore[method-assign]

    def _timed(self, hook: Callable[[], Any]) -> Any:
        begin = time.process_time()
        result = hook()
        self.seconds += time.process_time() - begin
        return result

    def _on_rollout_start(self) -> None:
        self._timed(super()._on_rollout_start)

    def _on_step(self) -> bool:
        return self._timed(super()._on_step)

    def _on_rollout_end(self) -> None:
        self._timed(super()._on_rollout_end)


def measure(env_id: str, changes: dict[str, Any], n_steps: int, seed: int) -> dict[str, Any]:
    """Train for some steps, and return CPU seconds of the callback, of writing logs, and of everything."""
    settings = yaml.safe_load(files("sb3_elmur.zoo_configs").joinpath("ppo_elmur.yml").read_text())[env_id] | changes
    env = make_batch(env_id, settings["n_envs"], settings.get("env_kwargs"))
    arguments = {key: settings[key] for key in ALGORITHM_KEYS if key in settings}
    rate = float(settings["learning_rate"].removeprefix("lin_"))
    model = RecurrentPPO("ElmurPolicy", env, rate, policy_kwargs=settings["policy_kwargs"], seed=seed, **arguments)
    callback = TimedCallback()
    with tempfile.TemporaryDirectory() as folder:
        model.set_logger(configure(folder, ["tensorboard", "csv"]))
        model.learn(1)  # imports and first calls
        begin = time.process_time()
        model.learn(n_steps, callback=callback, reset_num_timesteps=False)
        total = time.process_time() - begin
    assert callback._monitor is not None
    return {
        "env": env_id,
        "n_envs": settings["n_envs"],
        "n_steps": settings["n_steps"],
        "environment_steps": n_steps,
        "measurements": callback._monitor.n_measurements,
        "callback_seconds": round(callback.seconds, 3),
        "training_seconds": round(total - callback.seconds, 3),
        "overhead": round(callback.seconds / (total - callback.seconds), 5),
    }


def main() -> None:
    """Measure all settings, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100_000, help="environment steps (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    runs = [measure(env_id, changes, options.steps, options.seed) for env_id, changes in SETTINGS.items()]
    write_json(RESULTS / "callback_overhead.json", {"provenance": provenance(options.seed), "runs": runs})
    shown = ("env", "measurements", "callback_seconds", "training_seconds", "overhead")
    print(markdown_table(shown, [[run[name] for name in shown] for run in runs]))


if __name__ == "__main__":
    main()
