"""``python -m sb3_elmur.bc``."""

from sb3_elmur.bc.command import main

if __name__ == "__main__":
    main()
