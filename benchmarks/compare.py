"""
Compare agents: environments x agents x seeds from one YAML file, tables, figures and a results page.

    python benchmarks/compare.py benchmarks/matrices/tmaze_online.yml --workers 2
    python benchmarks/compare.py benchmarks/matrices/popgym_bc.yml --only-envs POPGymRepeatFirstEasy-v0 --seeds 0
    python benchmarks/compare.py benchmarks/matrices/popgym_bc.yml --report

Every cell is a process of its own, with one thread, and writes `benchmarks/results/<matrix>/<env>__<agent>__<seed>.json`.
Finished cells are not repeated, so that the command continues where it was interrupted; several machines may share the folder.
"""

import sys

from compare.command import main

if __name__ == "__main__":
    sys.exit(main(__file__, __doc__))
