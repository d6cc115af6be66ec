"""Models and the statistics of their ``VecNormalize``, saved so that a killed run leaves no pair of different steps."""

from contextlib import ExitStack
from pathlib import Path

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from sb3_elmur.atomic_files import atomic_path, flush
from sb3_elmur.saved_statistics import STATISTICS_FILE


def save(model: BaseAlgorithm, path: Path) -> None:
    """
    Save a model, and the statistics of its environments, if they are normalised, as ``<model>/vecnormalize.pkl``.

    Whoever is killed, or finds the disk full, while they are written leaves the former pair. Between two names that the new
    files get, there is a model without statistics, but none with those of another step.

    :param model: What to save.
    :param path: The zip file.
    """
    statistics = path.with_suffix("") / STATISTICS_FILE
    normalizer = model.get_vec_normalize_env()
    with ExitStack() as stack:
        if normalizer is not None:
            statistics.parent.mkdir(exist_ok=True)
            new = stack.enter_context(atomic_path(statistics))
            normalizer.save(str(new))
            flush(new)
        new = stack.enter_context(atomic_path(path))
        model.save(new)
        flush(new)
        statistics.unlink(missing_ok=True)


class SaveModel(BaseCallback):
    """
    Saves the model whenever it is called.

    :param path: The zip file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def _on_step(self) -> bool:
        save(self.model, self.path)
        return True


class SaveCheckpoints(BaseCallback):
    """
    Saves the model as ``rl_model_<steps>_steps.zip``, as rl_zoo3 names checkpoints.

    :param folder: Where they go.
    :param interval: Calls, one for each step of all environments, between two of them.
    """

    def __init__(self, folder: Path, interval: int) -> None:
        super().__init__()
        self.folder, self.interval = folder, interval

    def _on_step(self) -> bool:
        if self.n_calls % self.interval == 0:
            save(self.model, self.folder / f"rl_model_{self.num_timesteps}_steps.zip")
        return True
