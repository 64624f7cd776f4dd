"""What the documents say is so: commands parse, links lead somewhere, examples run, pages are current."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from dataclasses import fields
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from tests.cli import bad_input

import idr
from idr.cli.demo import make_scene
from idr.cli.shared.commands import COMMANDS as CLI_COMMANDS
from idr.conf.blocks import read_block
from idr.conf.files import load_conf, save_conf
from idr.datasets.camera_files import read_cameras
from idr.training.config import TrainConfig
from idr.training.rays.config import SamplerConfig
from idr.training.schedule.config import ScheduleConfig

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {path.name: path.read_text(encoding="utf-8") for path in PAGES}
MODULES = {
    "training/exp_runner.py": "train",
    "training/run_scenes.py": "run_scenes",
    "evaluation/eval.py": "evaluate",
    "evaluation/eval_mesh.py": "eval_mesh",
    "evaluation/report.py": "report",
    "evaluation/summary.py": "summary",
    "evaluation/eval_disentanglement.py": "disentanglement",
    "evaluation/export_cameras.py": "export_cameras",
    "evaluation/export_mesh.py": "export_mesh",
    "evaluation/render_path.py": "render_path",
    "preprocess/preprocess_cameras.py": "preprocess_cameras",
    "preprocess/check_scene.py": "check_scene",
    "preprocess/triangulate_points.py": "triangulate_points",
    "preprocess/doctor.py": "doctor",
    "preprocess/masks.py": "masks.command",
    "preprocess/board.py": "photos.board",
    "preprocess/import_scene.py": "import_scene",
    "preprocess/make_demo_scene.py": "demo.make_scene",
    "viewer/serve.py": "view",
    "preprocess/photos.py": "photos.command",
    "preprocess/make_photo_scene.py": "demo.make_photo_scene",
}
"""The module below `idr.cli` that each script calls."""
MAX_README_LINES, MAX_README_BYTES, MAX_METHOD_LINES = 200, 14_000, 6000


def blocks(text: str, language: str = "") -> list[str]:
    """Returns the fenced blocks of one language."""
    fences = re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.M | re.S)
    return [body for kind, body in fences if kind == language]


NOT_RUN = "<!-- not run by a test -->"
"""The line before a block of commands that no test runs; invisible where the page is rendered."""
COMMAND = re.compile(r"(?:idr|python|make|git|pip|torchrun|ssh|cd|source|\.venv/bin/\S+) ")
SCENE_COMMAND = re.compile(
    r"python preprocess/(preprocess_cameras|check_scene|doctor)\.py ((?:--source_dir )?\.\./data/mine/scan0)"
)


def runnable_blocks(text: str) -> list[tuple[bool, str]]:
    """Returns the blocks of commands or Python, each with a flag: whether it is marked as not run."""
    fences = re.findall(r"^([^\n]*)\n```(\w*)\n(.*?)^```", text, flags=re.M | re.S)
    return [
        (before == NOT_RUN, body)
        for before, kind, body in fences
        if kind == "python" or not kind and any(map(COMMAND.match, body.splitlines()))
    ]


BLOCKS = [(page, marked, body) for page, text in TEXTS.items() for marked, body in runnable_blocks(text)]
SCENE_BLOCKS = [
    (page, body) for page, _, body in BLOCKS if all(map(SCENE_COMMAND.fullmatch, body.splitlines()))
]


def command_lines(text: str) -> list[str]:
    """Returns the calls of our scripts, one a line."""
    joined = "\n".join(blocks(text)).replace("\\\n", " ")
    joined = re.sub(r"^torchrun --nproc_per_node=\d+ ", "python ", joined, flags=re.M)
    lines = [line.split("  #")[0].strip() for line in joined.splitlines()]
    ours = r"idr |python (?!-m |\.\./benchmarks|docs/|benchmarks/)"
    return [line for line in lines if re.match(ours, line)]


COMMANDS = [(page, line) for page, text in TEXTS.items() for line in command_lines(text)]


def anchors(text: str) -> set[str]:
    """Returns the anchors of a page's headings, as GitHub makes them."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    titles = re.findall(r"^#+ (.*)$|^(.+)\n(?:=+|-+)$", prose, flags=re.M)
    words = [re.sub(r"[^\w\- ]", "", (one or two).lower().replace("`", "")) for one, two in titles]
    return {word.strip().replace(" ", "-") for word in words}


def links(text: str) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", text)


def table_rows() -> list[tuple[str, str]]:
    return re.findall(r"\| `(code/idr/[\w/]+\.py)`: `(\w+)` \|", TEXTS["README.md"])


def test_readme_is_short() -> None:
    assert len(TEXTS["README.md"].splitlines()) <= MAX_README_LINES
    assert len(README.read_bytes()) <= MAX_README_BYTES


def test_every_script_is_shown() -> None:
    assert {line.split()[1] for _, line in COMMANDS if line.startswith("python")} == set(MODULES)


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_command_parses(page: str, line: str) -> None:
    words = shlex.split(line)
    if words[0] == "idr":
        CLI_COMMANDS[words[1]].load().build_parser().parse_args(words[2:])
        return
    module = importlib.import_module(f"idr.cli.{MODULES[words[1]]}")
    module.build_parser().parse_args(words[2:])  # an unknown flag would end the process
    assert (ROOT / "code" / words[1]).is_file()
    for word in words:
        if re.fullmatch(r"\./confs/[\w/]+\.conf", word):
            assert (ROOT / word).is_file(), word


def test_a_block_is_run_by_a_test_or_marked() -> None:
    examples = [
        body for page in ("evaluation.md", "DATA_CONVENTION.md") for body in blocks(TEXTS[page], "python")
    ]
    run = [*(body for _, body in SCENE_BLOCKS), *examples]  # by the tests of examples below
    assert len(BLOCKS) > 30 and len(SCENE_BLOCKS) > 3
    for page, marked, body in BLOCKS:
        assert marked != (body in run), f"{page}: {body}"


@pytest.mark.parametrize(("page", "block"), SCENE_BLOCKS)
def test_commands_on_a_scene_run(
    page: str, block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad_input.write_scene(tmp_path / "data" / "mine" / "scan0")
    (tmp_path / "code").mkdir()
    monkeypatch.chdir(tmp_path / "code")
    for line in block.splitlines():
        match = SCENE_COMMAND.fullmatch(line)
        assert match is not None
        module = importlib.import_module(f"idr.cli.{match[1]}")
        assert module.main(match[2].split()) == 0, line


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere(page: str) -> None:
    folder = next(path for path in PAGES if path.name == page).parent
    for link in links(TEXTS[page]):
        target, _, anchor = unquote(link).partition("#")
        if "://" in target:
            continue
        path = (folder / target).resolve() if target else folder / page
        assert path.exists(), link
        if anchor:
            assert anchor in anchors(path.read_text(encoding="utf-8")), link


def test_every_page_is_listed_in_the_readme() -> None:
    listed = {Path(link.partition("#")[0]).name for link in links(TEXTS["README.md"])}
    assert set(TEXTS) - {"README.md"} <= listed


def test_subcommands_named_in_the_documents_exist() -> None:
    prose = "\n".join(TEXTS.values()) + (ROOT / "confs" / "photos.conf").read_text()
    named = set(re.findall(r"`idr ([a-z][a-z-]*)", prose))
    assert {"train", "eval", "photos"} <= named <= set(CLI_COMMANDS)
    (listed,) = re.findall(r"from any folder: (.*?)\. `idr` alone", TEXTS["README.md"], re.DOTALL)
    assert set(re.findall(r"`(?:idr )?([a-z-]+)`", listed)) == set(CLI_COMMANDS)


def test_installed_commands_are_declared() -> None:
    declared = set(re.findall(r"^(idr-[a-z-]+) = ", (ROOT / "pyproject.toml").read_text(), flags=re.M))
    named = set(re.findall(r"`(idr-[a-z-]+)[ `]", "\n".join(TEXTS.values())))
    assert named - {"idr-surface"} <= declared  # the distribution


def test_table_covers_the_equations() -> None:
    rows = re.search(r"## From the paper to the code\n(.*?)\n## ", TEXTS["README.md"], flags=re.S)
    assert rows is not None
    lines = [
        line for line in rows[1].splitlines() if line.startswith("| ") and not line.startswith("| paper")
    ]
    assert len(lines) == len(table_rows())
    assert all(f"Eq. {number}" in rows[1] for number in (1, 2, 3))


@pytest.mark.parametrize(("path", "name"), table_rows())
def test_table_leads_to_code(path: str, name: str) -> None:
    tree = ast.parse((ROOT / path).read_text())
    defined = {n.name for n in ast.walk(tree) if isinstance(n, (ast.ClassDef, ast.FunctionDef))}
    assert name in defined


@pytest.mark.parametrize("page", TEXTS)
def test_confs_named_exist(page: str) -> None:
    for name in re.findall(r"`((?:dtu|demo|fast|photos)\w*\.conf)`", TEXTS[page]):
        assert (ROOT / "confs" / name).is_file(), name


def test_the_example_of_schedules_is_read_and_every_key_of_its_tables_is_one() -> None:
    (example,) = [body for body in blocks(TEXTS["training.md"]) if body.startswith("train {")]
    train = {**load_conf(ROOT / "confs" / "fast.conf")["train"], **load_conf(example)["train"]}
    config = read_block(TrainConfig, train, "train")
    assert config.sampler.type == "importance" and config.schedule.param_groups.encoding is not None
    for block, owner in ((ScheduleConfig, "schedule"), (SamplerConfig, "sampler")):
        table = re.search(rf"of `train\.{owner}` \|.*?\n\n", TEXTS["training.md"], flags=re.S)
        assert table is not None
        rows = re.findall(r"^\| (`[^|]+`) \|", table[0], flags=re.M)
        names = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
        assert names and names <= {field.name for field in fields(block)}, owner


@pytest.mark.parametrize(("generator", "page"), [("make_configuration", "configuration.md")])
def test_generated_page_is_current(generator: str, page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    assert importlib.import_module(generator).page() == TEXTS[page], f"run python docs/{generator}.py"


def test_architecture_is_current_and_the_method_reads_in_an_evening(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    generator = importlib.import_module("make_architecture")
    page = TEXTS["architecture.md"]
    assert generator.filled(page) == page, "run python docs/make_architecture.py"
    assert generator.drawing() == (ROOT / "docs" / "architecture.svg").read_text(encoding="utf-8")
    listed = [file for files in generator.READING_LIST.values() for file in files]
    assert sum(generator.lines_of(file) for file in listed) <= MAX_METHOD_LINES


def test_example_of_cameras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = blocks(TEXTS["DATA_CONVENTION.md"], "python")
    monkeypatch.chdir(tmp_path)
    intrinsics, rotation, shift = np.diag([50.0, 60.0, 1.0]), np.eye(3)[[1, 2, 0]], np.array([1.0, 2.0, 3.0])
    exec(example, {"K": [intrinsics] * 2, "R": [rotation] * 2, "t": [shift] * 2, "n": 2})
    written = read_cameras(tmp_path / "cameras.npz", 2)
    poses = written.decompose(False)[1]
    np.testing.assert_allclose(poses[:, :3, :3], [rotation.T] * 2, atol=1e-9)
    np.testing.assert_allclose(poses[:, :3, 3], [-rotation.T @ shift] * 2, atol=1e-9)


def test_library_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = blocks(TEXTS["evaluation.md"], "python")
    assert len(example.strip().splitlines()) <= 10
    scene = tmp_path / "data" / "demo" / "scan1"
    small = ["--img_res", "16", "20", "--views", "2", "--holdout", "0", "--mesh_resolution", "24"]
    assert make_scene.main(["--out", str(scene), *small]) == 0
    shipped = next((ROOT / "trained_models" / "demo_1").glob("*/checkpoints"))
    run = tmp_path / "exps" / "fast_1" / "2026"  # as `make demo` leaves it
    run.mkdir(parents=True)
    (run / "checkpoints").symlink_to(shipped)
    overrides = ("dataset.img_res=[16,20]", "dataset.holdout=[]", f"dataset.data_root={tmp_path / 'data'}")
    save_conf(load_conf("./confs/demo.conf", overrides), run / "runconf.conf")
    monkeypatch.chdir(tmp_path)

    values: dict = {}
    exec(example, values)
    assert np.abs(values["run"].sdf(values["points"])).max() < 0.01  # half a cell of the mesh's grid
    assert np.allclose(np.linalg.norm(values["normals"], axis=1), 1, atol=1e-4)
    assert ((values["colors"] >= 0) & (values["colors"] <= 1)).all()
    assert values["image"].rgb01.shape == (16, 20, 3) and values["image"].hit.any()
    assert values["idr"] is idr
