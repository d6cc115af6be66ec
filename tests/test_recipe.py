"""One recipe: what a user gets who writes nothing, and no other in the settings of the zoo."""

import inspect

from stable_baselines3.common.utils import LinearSchedule

from sb3_elmur import RecurrentPPO
from sb3_elmur.bc.config import BCConfig
from sb3_elmur.comparison.recipe import RECIPE
from sb3_elmur.settings import read_file

OF_THE_TASK = {
    "env_kwargs", "n_envs", "n_timesteps", "policy", "policy_kwargs", "normalize", "batch_size", "gamma", "bptt_segments",
}  # fmt: skip
WHERE_REWARDS_ARE_RARE = {"gae_lambda", "normalize_advantage", "vf_coef", "ent_coef"}
MEMORY_OF_THE_TASK = {"segment_length", "memory_size"}
OTHER = ("Mikasa", "MountainCar", "PendulumNoVel", "TMazeRunes")  # the file says why


def test_settings_hold_what_the_task_dictates() -> None:
    for env_id, settings in read_file("ppo_elmur.yml").items():
        if not env_id.startswith(OTHER):
            allowed = OF_THE_TASK | (WHERE_REWARDS_ARE_RARE if env_id.startswith("POPGym") else set())
            assert set(settings) <= allowed, env_id
            assert set(settings.get("policy_kwargs", {})) <= MEMORY_OF_THE_TASK, env_id


def test_every_entry_says_its_minibatches() -> None:
    """Other algorithms that read the file have other defaults."""
    assert [env_id for env_id, settings in read_file("ppo_elmur.yml").items() if "batch_size" not in settings] == []


def test_ppo_without_memory_is_trained_by_the_same_recipe() -> None:
    defaults = {name: parameter.default for name, parameter in inspect.signature(RecurrentPPO).parameters.items()}
    rate = defaults["learning_rate"]
    assert isinstance(rate, LinearSchedule)
    assert (rate.start, rate.end, rate.end_fraction) == (1e-3, 0.0, 1.0)
    assert {name: defaults[name] for name in RECIPE} == RECIPE | {"learning_rate": rate}


def test_gradients_reach_as_far_in_cloning_as_in_training() -> None:
    """A gate learns nothing from a cue that lies before the chain."""
    assert BCConfig().bptt_segments == inspect.signature(RecurrentPPO).parameters["bptt_segments"].default
