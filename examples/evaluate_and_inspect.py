"""
Evaluate a saved model in long corridors, and look where its memory holds the cue.

    python examples/train_online.py --output elmur_tmaze.zip
    python examples/evaluate_and_inspect.py elmur_tmaze.zip

The second command writes a page of figures, `elmur_tmaze_inspection/report.html`, too. It needs the extra `inspect`.
"""

import argparse
from pathlib import Path

from sb3_elmur import RecurrentPPO
from sb3_elmur.evaluation import Corridors
from sb3_elmur.inspection.command import main as inspect

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", type=Path)
parser.add_argument("--lengths", type=int, nargs="+", default=[30, 300, 3000])
parser.add_argument("--episodes", type=int, default=100)
arguments = parser.parse_args()

policy = RecurrentPPO.load(arguments.model, device="cpu").policy
evaluation = Corridors(policy, arguments.lengths, arguments.episodes, seed=1000)
for length, success in evaluation.finish().items():
    print(f"{length:5} steps: success {success.mean():.2f} of {len(success)} corridors")

# The cue is component 1 of the first observation. Linear probes say which slots hold it, and since when.
length = str(max(arguments.lengths))
task = ["--env", "TMazePassive-v0", "--env-kwargs", f"length:{length}", "--label", "1"]
inspect([str(arguments.model), *task, "--episodes", str(arguments.episodes), "--device", "cpu"])
