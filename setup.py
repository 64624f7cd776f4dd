"""Puts into the wheel what the commands read and the checkout keeps outside the package.

pyproject.toml holds everything else. `idr.places.shipped_root` finds these files, installed or not.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
SHIPPED = (
    "confs/**/*.conf", "trained_models/demo_1/**/*.pth", "data/download_data.sh", "docs/*.md",
    "DATA_CONVENTION.md",
)  # fmt: skip
"""Patterns of the files; the wheel has them under ``idr/shipped/``."""


class BuildWithShippedFiles(build_py):
    """Also copies the shipped files; an editable install reads those of the checkout."""

    def run(self) -> None:
        """Builds into an empty folder: a module that was deleted since the last build must not return."""
        if not self.editable_mode:
            shutil.rmtree(Path(self.build_lib) / "idr", ignore_errors=True)
        super().run()
        for source, target in self._shipped().items():
            self.mkpath(str(target.parent))
            self.copy_file(str(ROOT / source), str(target))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """Returns what `run` writes."""
        return [*super().get_outputs(include_bytecode), *map(str, self._shipped().values())]

    def _shipped(self) -> dict[Path, Path]:
        """Returns the built file of each shipped file."""
        if self.editable_mode:
            return {}
        found = (path.relative_to(ROOT) for pattern in SHIPPED for path in sorted(ROOT.glob(pattern)))
        return {path: Path(self.build_lib, "idr", "shipped", path) for path in found}


setup(cmdclass={"build_py": BuildWithShippedFiles})
