"""When compiling pays: for the steps of long training, where a C++ compiler is at hand."""

import os
import shutil
from collections.abc import Callable

from sb3_elmur.core.elmur import Elmur
from sb3_elmur.policies import ElmurPolicy

LONG = 100_000  # steps of all environments at once, after which compiling has paid for itself


def compile_rollouts(policy: ElmurPolicy, n_envs: int, total_timesteps: int, say: Callable[[str], None]) -> None:
    """
    Compile the steps of rollouts, if the policy has ``compile="auto"``, runs on a CPU, and enough steps are ahead.

    PyTorch keeps the compiled code on disk, so that later runs begin soon. Without a compiler, steps stay as they are.

    :param policy: Whose rollouts they are.
    :param n_envs: Environments that step together in this process.
    :param total_timesteps: Steps ahead, in these environments together.
    :param say: Is told in one line what happens.
    """
    cores = [core for core in (backbone.core for backbone in policy.backbones) if isinstance(core, Elmur)]
    pays = policy.device.type == "cpu" and total_timesteps >= LONG * n_envs
    if not pays or not cores or cores[0].config.compile != "auto":
        return
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        say("Steps are not compiled: there is no C++ compiler (g++, or what the environment variable CXX names).")
        return
    say("Compiling the steps of rollouts, which takes up to a minute when it is done first ...")
    policy.set_training_mode(False)
    try:
        for core in cores:
            core.compile_rollout_step(n_envs)
    except RuntimeError as error:  # of PyTorch's compiler
        for core in cores:
            core.run_eagerly()
        say(f"Steps are not compiled: {str(error).splitlines()[0]}")
