"""``make_photo_scene.py``: photographs as people take them, with the truth kept aside for scoring."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from idr.cli.shared.common import make_parser, parse, run, say

_EXAMPLES = """  python preprocess/make_photo_scene.py --out /tmp/teapot
  python preprocess/make_photo_scene.py --out /tmp/teapot --views 24 --img_res 360 480"""


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = make_parser(
        "Writes photographs of the built-in teapot on a table, as a phone would take them: JPEG with EXIF, "
        "lens distortion, some held sideways, without masks or cameras (photos/). These and the surface go "
        "to truth/.",
        _EXAMPLES,
    )
    parser.add_argument("--out", type=Path, required=True, help="new folder, for photos/ and truth/")
    parser.add_argument("--seed", type=int, default=0, help="decides prints, cameras and noise")
    parser.add_argument("--views", type=int, default=32, help="photographs")
    parser.add_argument(
        "--img_res", type=int, nargs=2, default=[480, 640], metavar=("HEIGHT", "WIDTH"), help="their size"
    )
    parser.add_argument("--supersampling", type=int, default=2, help="samples along each side of a pixel")
    parser.add_argument(
        "--mesh_resolution", type=int, default=192, help="samples along each side for the exact surface"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command with `argv`, by default the process's own, and returns the exit status."""
    arguments = parse(build_parser(), argv)
    return run(lambda: _make(arguments))


def _make(arguments: argparse.Namespace) -> None:
    from idr.cli.demo.make_scene import extract_exact
    from idr.demo.photo_scene import PHOTOS, TRUTH, PhotoSettings, write_photos

    settings = PhotoSettings(
        seed=arguments.seed,
        num_views=arguments.views,
        img_res=(arguments.img_res[0], arguments.img_res[1]),
        supersampling=arguments.supersampling,
        mesh_resolution=arguments.mesh_resolution,
    )
    out = arguments.out.expanduser()
    began = time.monotonic()
    write_photos(out, settings, extract_exact, say)
    say(f"wrote {settings.num_views} photographs to {out / PHOTOS} in {time.monotonic() - began:.0f} s")
    say(f"the truth for scoring: {out / TRUTH}")


if __name__ == "__main__":
    raise SystemExit(main())
