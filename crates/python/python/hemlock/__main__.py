"""``python -m hemlock`` is the command ``hemlock``."""

from ._command import main

if __name__ == "__main__":
    main()
