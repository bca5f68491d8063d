"""``python -m amct_tensorflow_cli``."""

import sys

if __name__ == "__main__":
    try:
        from amct_tensorflow_cli.main import main

        sys.exit(main())
    except KeyboardInterrupt:  # so early that main could not answer to it
        print("amct_tensorflow: interrupted", file=sys.stderr)
        sys.exit(130)
