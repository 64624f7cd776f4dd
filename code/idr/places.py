"""Where the commands write, and where the files lie that come with the package.

A checkout is both. An installed package writes to the working directory and reads from ``idr/shipped/``, to
which setup.py copies these files.
"""

from __future__ import annotations

from pathlib import Path

BESIDE_CODE = "beside code/ (installed without a checkout: in the working directory)"
"""`project_root` in the words of a help text."""
PLAIN_NAMES = (
    "photos", "images", "image", "input", "sparse", "0", "colmap", "dense", "undistorted", "transforms",
    "cameras",
)  # fmt: skip
"""Names of files and folders that do not say what is on the photographs."""
_PACKAGE = Path(__file__).resolve().parent


def checkout() -> Path | None:
    """Returns the checkout from which this package runs, or None for an installed package."""
    root = _PACKAGE.parents[1]
    return root if (root / "code" / "idr").is_dir() and (root / "confs").is_dir() else None


def project_root() -> Path:
    """Returns the folder of `data/`, `exps/` and `evals/`: the checkout, or else the working directory."""
    return checkout() or Path.cwd()


def shipped_root() -> Path:
    """Returns the folder of the `confs/`, `trained_models/` and `docs/` that come with the package."""
    return checkout() or _PACKAGE / "shipped"


def shipped_name(path: str) -> str:
    """Returns how a message names a shipped file: as in the checkout, or else by its whole path."""
    return path if checkout() else str(shipped_root() / path)


def title_of(source: Path) -> str:
    """Returns the name of the user's folder or film; of the folder around one that is just `photos`."""
    names = [source.stem if source.is_file() else source.name, *(folder.name for folder in source.parents)]
    return next((name for name in names if name and name.lower() not in PLAIN_NAMES), names[0])
