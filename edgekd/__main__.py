"""`python -m edgekd`."""

import sys

if not sys.flags.safe_path:
    # `python -m` searches the current folder first: a user's random.py there must not pass for the library's
    sys.path.append(sys.path.pop(0))

from edgekd.cli import main

if __name__ == "__main__":
    main()
