"""`python -m sftplay_ui`: the same as `launch.py`, in the environment that is already there."""

import sys

from sftplay_ui.launcher import dispatch

if __name__ == "__main__":
    sys.exit(dispatch(sys.argv[1:]))
