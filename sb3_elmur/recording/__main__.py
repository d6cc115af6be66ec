"""``python -m sb3_elmur.recording``."""

from sb3_elmur.recording.command import main

if __name__ == "__main__":
    main()
