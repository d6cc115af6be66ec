"""``python -m sb3_elmur.evaluation``."""

from sb3_elmur.evaluation.command import main

if __name__ == "__main__":
    main()
