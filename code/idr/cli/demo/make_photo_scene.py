"""``make_photo_scene.py``: renders realistic photographs, with the ground truth apart for scoring."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from idr.cli.demo.make_scene import add_render_arguments, extract_exact, render_settings
from idr.cli.shared.common import make_parser, run_command, say

_EXAMPLES = """  %(prog)s --out /tmp/teapot
  %(prog)s --out /tmp/teapot --views 24 --img_res 360 480"""


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = make_parser(
        "Writes photographs of the built-in teapot on a table as a phone takes them (photos/): JPEG with "
        "EXIF, lens distortion, some in portrait orientation, without masks or cameras. Masks, cameras and "
        "surface go to truth/.",
        _EXAMPLES,
        "photo-scene",
    )
    parser.add_argument("--out", type=Path, required=True, help="new folder for photos/ and truth/")
    parser.add_argument("--seed", type=int, default=0, help="seed of textures, cameras and noise")
    parser.add_argument("--views", type=int, default=32, help="number of photographs")
    add_render_arguments(parser, img_res=(480, 640), supersampling=2)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command on `argv`, None for the process's arguments, and returns the exit status."""
    return run_command(build_parser(), argv, _make)


def _make(arguments: argparse.Namespace) -> None:
    from idr.demo.photo_scene import PHOTOS, TRUTH, PhotoSettings, write_photos

    settings = PhotoSettings(**render_settings(arguments))
    out = arguments.out.expanduser()
    began = time.monotonic()
    write_photos(out, settings, extract_exact, say)
    say(f"wrote {settings.num_views} photographs to {out / PHOTOS} in {time.monotonic() - began:.0f} s")
    say(f"the truth for scoring: {out / TRUTH}")


if __name__ == "__main__":
    raise SystemExit(main())
