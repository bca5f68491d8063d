"""``python -m amct_tensorflow``: the command line."""

import sys

from amct_tensorflow_cli.main import main

if __name__ == "__main__":
    sys.exit(main())
