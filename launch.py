"""Start SFT-Play: alone it opens the window, `python launch.py COMMAND ...` runs a command.

The first start makes `.venv` beside this file; nothing else on the machine is touched.
"""

import sys

# Read and run by whatever Python the person has, so nothing above or here is newer than Python 2.
if sys.version_info < (3, 10):
    sys.exit(
        "error: SFT-Play needs Python 3.10 or newer; this is Python %d.%d.\n"
        "fix: install Python 3.12 and run it as: python3.12 launch.py" % sys.version_info[:2]
    )

from sftplay_ui.launcher import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
