"""``python -m deltavi.cli``: the command line."""

import sys

from deltavi.cli import main

if __name__ == "__main__":
    sys.exit(main())
