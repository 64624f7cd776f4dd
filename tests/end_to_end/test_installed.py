"""The wheel alone: built from the checkout and from the sdist, and its commands run from an empty folder."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import idr

ROOT = Path(__file__).parents[2]
BUILD = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"
GENERATED = {"PKG-INFO", "setup.cfg", "code/idr_surface.egg-info"}
"""What setuptools adds to an sdist."""
NO_CHECKOUT = """
import importlib, shlex, sys

site = sys.argv[1]
sys.modules["numba"] = None  # compiling its loops anew would take longer than the commands
sys.path.insert(0, site)  # before an installed idr, editable or not
for line in sys.argv[2:]:
    module, *arguments = shlex.split(line)
    status = importlib.import_module(f"idr.cli.{module}").main(arguments)
    assert status == 0, (line, status)
files = [str(module.__file__) for name, module in sys.modules.items() if name.split(".")[0] == "idr"]
assert files and all(file.startswith(site) for file in files), files
"""
"""Program that runs command lines with the package of one folder, whatever else is installed."""
SMALL_SCENE = "--img_res 24 30 --views 9 --holdout 1 --supersampling 2 --mesh_resolution 40"
CONF = "--conf ./confs/demo.conf --set dataset.img_res=[24,30] --set dataset.holdout=[5]"
PHOTOS_CONF = CONF + " --set 'train.schedule={alpha={begin=0.1,end=0.6,final=800}}'"
COMMANDS = (
    f"demo.make_scene {SMALL_SCENE}",
    "demo.command --peek --resolution 24 --device cpu",
    "demo.command --published --nepoch 1 --nepoch_cameras 1 --resolution 24 --device cpu",
    f"train {CONF} --expname _mine --nepoch 2 --device cpu",
    f"evaluate {CONF} --expname _mine --resolution 24 --eval_rendering --device cpu",
    f"export_mesh {CONF} --expname _mine --resolution 24 --out mesh.glb --device cpu",
    f"export_mesh {CONF} --exps_folder trained_models --resolution 24 --out shipped.ply --device cpu",
    f"export_cameras {CONF} --expname _mine --cameras given --out cameras --device cpu",
    f"photos.command data/demo/scan1 {PHOTOS_CONF} --nepoch 2 --resolution 24 --device cpu",
)
WRITTEN = (
    "data/demo/scan1/cameras.npz", "evals/peek/overview.html", "evals/demo_published_overview.html",
    "exps/demo_mine_1/*/runconf.conf", "exps/demo_trained_cameras_1/*/checkpoints/ModelParameters/latest.pth",
    "evals/demo_mine_1/surface_world_coordinates_2.ply", "evals/demo_mine_1/rendering/*.png", "mesh.glb",
    "shipped.ply", "cameras/*", "evals/photos/scan1/mesh.glb", "evals/photos/scan1/report.html",
)  # fmt: skip


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy: a build writes into its source."""
    folder = tmp_path_factory.mktemp("source") / "idr"
    for path in source_files(ROOT):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, folder / path)
    return folder


@pytest.fixture(scope="module")
def wheel(checkout: Path) -> Path:
    return build("build_wheel", checkout)


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The installed wheel, alone in a folder."""
    folder = tmp_path_factory.mktemp("installed") / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile"]
    subprocess.run([*command, "--target", folder, wheel], check=True)
    return folder


def source_files(root: Path) -> set[str]:
    """Returns what git keeps or would add; in an unpacked sdist, which has no git, all files."""
    if (root / ".git").exists():
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listing = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
        return {name for name in listing.split("\0") if (root / name).is_file()}
    found = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    unwanted = {"__pycache__", ".pytest_cache", ".hypothesis", ".venv", "build", "exps", "evals"}
    return {path.as_posix() for path in found if not unwanted & set(path.parts)}


def build(what: str, source: Path) -> Path:
    """Builds a wheel or an sdist next to its source; returns its path."""
    target = source.parent / what
    target.mkdir()
    subprocess.run([sys.executable, "-c", BUILD, what, target], cwd=source, check=True, capture_output=True)
    (built,) = target.iterdir()
    return built


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/RECORD")}


def installed_files(site: Path) -> set[Path]:
    """Returns the files of an installation but for compiled code, which Python and numba keep there."""
    return {path for path in site.rglob("*") if path.is_file() and "__pycache__" not in path.parts}


def run(site: Path, lines: tuple[str, ...], cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-c", NO_CHECKOUT, str(site), *lines]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def test_wheel_holds_what_commands_read(wheel: Path) -> None:
    files = contents(wheel)
    for folder, pattern in (("confs", "**/*.conf"), ("trained_models/demo_1", "**/*.pth"), ("docs", "*.md")):
        sources = sorted((ROOT / folder).glob(pattern))
        assert sources
        for path in sources:
            assert files[f"idr/shipped/{path.relative_to(ROOT).as_posix()}"] == path.read_bytes()
    assert "idr/py.typed" in files and "idr/shipped/data/download_data.sh" in files
    assert "idr/shipped/DATA_CONVENTION.md" in files
    assert {name.split("/")[0] for name in files} == {"idr", f"idr_surface-{idr.__version__}.dist-info"}


def test_sdist_is_the_checkout_and_builds_the_same_wheel(checkout: Path, wheel: Path, tmp_path: Path) -> None:
    shutil.unpack_archive(build("build_sdist", checkout), tmp_path)
    (unpacked,) = tmp_path.iterdir()
    files = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    extra = {path for path in files if path in GENERATED or os.path.dirname(path) in GENERATED}
    assert files - extra == source_files(ROOT) - extra
    assert contents(build("build_wheel", unpacked)) == contents(wheel)


def test_a_deleted_module_does_not_return(checkout: Path, wheel: Path) -> None:
    """setuptools keeps `build/lib` from one build to the next."""
    stale = checkout / "build" / "lib" / "idr" / "stale.py"
    stale.parent.mkdir(parents=True, exist_ok=True)
    stale.write_text("")
    shutil.rmtree(checkout.parent / "build_wheel")
    assert "idr/stale.py" not in contents(build("build_wheel", checkout))


def test_commands_run_from_an_empty_folder(site: Path, tmp_path: Path) -> None:
    before = installed_files(site)
    done = run(site, COMMANDS, tmp_path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    for pattern in WRITTEN:
        assert list(tmp_path.glob(pattern)), pattern
    assert f"run: {site / 'idr' / 'shipped' / 'trained_models' / 'demo_1'}" in done.stdout
    assert installed_files(site) == before

    viewer = [sys.executable, "-I", "-c", NO_CHECKOUT, str(site), "view --port 0 --device cpu"]
    with subprocess.Popen(viewer, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline(), process.stdout.readline()]
        process.terminate()  # SIGINT is ignored where a shell started the tests in the background
    assert lines[0].startswith(f"run: {tmp_path}") and lines[1].startswith("viewer: http://localhost:")


def test_messages_name_what_an_installation_has(site: Path, tmp_path: Path) -> None:
    shipped = site / "idr" / "shipped"
    done = run(site, ("train --conf ./confs/none.conf",), tmp_path)
    assert f"no conf at {tmp_path}/confs/none.conf or {shipped}/confs/none.conf" in done.stderr
    assert "confs/ablation/dtu_no_normal.conf" in done.stderr
    done = run(site, ("train --device cpu",), tmp_path)
    assert f"no data folder {tmp_path}/data/DTU" in done.stderr
    script = shlex.split(done.stderr.partition("put the data set there (")[2])[0]
    assert script == f"{shipped}/data/download_data.sh" and os.access(script, os.X_OK)
    assert not list(tmp_path.iterdir())
