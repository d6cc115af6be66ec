"""``python -m sb3_elmur.recording``."""

from sb3_elmur.recording.recorder import main

if __name__ == "__main__":
    main()
