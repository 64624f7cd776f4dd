"""Runs ``idr.cli.masks.command``; ``-h`` lists the options."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from idr.cli.masks.command import main  # noqa: E402

if __name__ == "__main__":
    raise SystemExit(main())
