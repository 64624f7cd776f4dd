"""``idr photos``: refused input, and steps that are repeated."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from tests.cli import bad_input

import idr.conf.files
from idr.cli import export_mesh, import_scene
from idr.cli.photos.command import STEPS, Chain, build_parser, main, title_of
from idr.cli.photos.journal import Journal, files_state, fingerprint

CONF = Path(__file__).parents[3] / "confs" / "demo.conf"


def missing(root: Path) -> list[str]:
    return [str(root / "nowhere")]


def empty(root: Path) -> list[str]:
    (root / "photos").mkdir()
    return [str(root / "photos")]


def inside(root: Path) -> list[str]:
    (root / "photos").mkdir()
    return [str(root / "photos"), "--out", str(root / "photos" / "results")]


def with_flags(*flags: str) -> Callable[[Path], list[str]]:
    def make(root: Path) -> list[str]:
        (root / "photos").mkdir()
        return [str(root / "photos"), *flags]

    return make


WRONG = {
    "folder missing": (missing, r"no folder .*nowhere; expected photographs"),
    "no photographs": (empty, r"photos has no known format; .*photographs alone"),
    "results among photographs": (inside, r"lies in .*expected a folder outside"),
    "no time": (with_flags("--max_minutes", "0"), r"--max_minutes 0: expected a number of minutes above 0"),
    "no epochs": (with_flags("--nepoch", "0"), r"--nepoch 0: expected 1 or more"),
    "no conf": (with_flags("--conf", "./confs/phtos.conf"), r"no conf at .*did you mean photos.conf"),
    "no such key": (with_flags("--set", "train.num_pixel=9"), r"--set train.num_pixel.*mean num_pixels"),
    "no such value": (with_flags("--set", "model.rendering_network.mode=x"), r"rendering_network.mode.* x"),
    "no device": (with_flags("--device", "cuda:77"), r"--device cuda:77: this machine has"),
    "no mesh": (with_flags("--resolution", "1"), r"--resolution 1: expected 2 or more"),
    "no faces": (with_flags("--faces", "3"), r"--faces 3: expected 4 or more"),
    "no texture": (with_flags("--texture", "8"), r"--texture 8: expected 16 to 16384 texels"),
    "two makers of masks": (
        with_flags("--masks", "auto", "--mask_command", "cp {image} {mask}"), r"got both --masks and"
    ),
    "no maker of masks": (
        with_flags("--mask_command", "no-such-program {image} {mask}"), r"no-such-program cannot be started"
    ),
    "no place for masks": (with_flags("--mask_command", "cp {image}"), r"--mask_command .* lacks \{mask\}"),
    "no such finding": (with_flags("--despite", "x"), r"--despite x: expected one of .*wrong-axes"),
}


@pytest.mark.parametrize("what", WRONG)
def test_bad_input_is_refused_and_leaves_nothing(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, message = WRONG[what]
    arguments = make(tmp_path)
    if "--out" not in arguments:
        arguments += ["--out", str(tmp_path / "results")]
    assert main(arguments) == 2
    printed = capsys.readouterr().err
    assert re.search(message, printed) and printed.count("\n") == 1, printed
    assert not list(tmp_path.rglob("steps"))


def test_a_folder_that_cannot_be_written_is_refused_before_the_import(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "file").write_text("kept")
    assert main([str(tmp_path / "photos"), "--out", str(tmp_path / "file" / "out")]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and re.search(r"cannot write .*mesh.glb: .*a file stands where", printed.err)
    assert (tmp_path / "file").read_text() == "kept"


BAD_CONF = {
    "no such conf": (["--conf", "nowhere.conf"], r"nowhere\.conf"),
    "a value out of range": (["--set", "train.learning_rate=-1"], r"train\.learning_rate = -1.0: expected a"),
    "a duration": ([], r"pause.*duration|pause: a relativedelta .* cannot be written to a conf"),
    "a misspelled key": (["--set", "model.implicit_network.dimms=[8]"], r"dimms"),
}


@pytest.mark.parametrize("what", BAD_CONF)
def test_conf_and_set_are_checked_before_the_import(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags, message = BAD_CONF[what]
    monkeypatch.setattr(import_scene, "main", lambda argv: pytest.fail("imported first"))
    source = bad_input.write_scene(tmp_path / "mug")
    conf = tmp_path / "own.conf"
    conf.write_text(CONF.read_text() + "note { pause = 10 seconds }\n" * (what == "a duration"))
    assert main([str(source), "--out", str(tmp_path / "out"), "--conf", str(conf), *flags]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()



@pytest.fixture
def imports(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The command lines of the importer; the chain ends after it has recorded its source."""
    made: list[list[str]] = []

    def main(argv: list[str]) -> int:
        made.append(argv)
        scan = Path(argv[argv.index("--out") + 1])
        scan.mkdir(parents=True, exist_ok=True)
        (scan / "import.json").write_text(json.dumps({"source": argv[0]}))
        return 1

    monkeypatch.setattr(import_scene, "main", main)
    return made


def test_the_default_folder_is_never_that_of_another_source(
    tmp_path: Path, imports: list[list[str]], monkeypatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(idr.conf.files, "project_root", lambda: tmp_path)
    conf = ["--conf", str(CONF), "--device", "cpu"]
    for name in ("2026.11.28", "2026.11.29", "elsewhere/2026.11.28"):
        bad_input.write_scene(tmp_path / name)
    for name in ("2026.11.28", "2026.11.29"):
        assert main([str(tmp_path / name), *conf]) == 1
        assert (tmp_path / "evals" / "photos" / name / "data").is_dir()
    assert main([str(tmp_path / "elsewhere/2026.11.28"), *conf]) == 2
    error = capsys.readouterr().err
    assert "has the results of" in error and "choose another folder with --out" in error
    assert len(imports) == 2
    assert main([str(tmp_path / "2026.11.28"), *conf]) == 1 and len(imports) == 3


def test_files_of_the_user_are_not_replaced(tmp_path: Path, imports: list[list[str]], capsys) -> None:
    source, out = bad_input.write_scene(tmp_path / "mug"), tmp_path / "out"
    out.mkdir()
    (out / "mesh.glb").write_text("mine")
    assert main([str(source), "--out", str(out), "--conf", str(CONF)]) == 2
    assert "was not written by this command: choose another --out" in capsys.readouterr().err
    assert (out / "mesh.glb").read_text() == "mine" and not imports


def write_photographs(folder: Path, size: tuple[int, int] = (2600, 30)) -> None:
    folder.mkdir(parents=True)
    for k in range(3):
        Image.new("RGB", size, (k, 0, 0)).save(folder / f"IMG_{k}.jpg")


def flag(argv: list[str], name: str) -> str | None:
    return argv[argv.index(name) + 1] if name in argv else None


def test_photographs_are_found_and_measured_as_the_importer_does(
    tmp_path: Path, imports: list[list[str]]
) -> None:
    """Hidden files, as a Mac leaves them, come first in the folder."""
    write_photographs(tmp_path / "card" / "DCIM" / "100APPLE")
    (tmp_path / "card" / "DCIM" / "100APPLE" / "._IMG_0.jpg").write_bytes(b"\0\5\x16\7")
    assert main([str(tmp_path / "card"), "--out", str(tmp_path / "out"), "--conf", str(CONF)]) == 1
    assert flag(imports[0], "--downscale") == "3" and flag(imports[0], "--masks") is None


@pytest.mark.parametrize("content, found", [(b"", "is empty"), (b"no image", "no data of PNG, JPEG")])
def test_a_broken_first_photograph_is_named(tmp_path: Path, imports: list, capsys, content, found) -> None:
    write_photographs(tmp_path / "mug")
    (tmp_path / "mug" / "IMG_0.jpg").write_bytes(content)
    assert main([str(tmp_path / "mug"), "--out", str(tmp_path / "out"), "--conf", str(CONF)]) == 2
    error = capsys.readouterr().err
    assert "IMG_0.jpg cannot be read as an image" in error and found in error and error.count("\n") == 1


def test_options_of_the_importer_are_passed_on(tmp_path: Path, imports: list[list[str]]) -> None:
    source = bad_input.write_scene(tmp_path / "mug")
    shutil.move(source / "image", tmp_path / "elsewhere")
    options = ["--kind", "idr", "--images", str(tmp_path / "elsewhere")]
    options += ["--points", "p.ply", "--mask_command", "cp {image} {mask}", "--scale_by", "board:24.8"]
    options += ["--max_image_size", "900", "--mapper", "global", "--second_try", "off"]
    switches = ["--turntable", "--mask_features", "--guided_matching", "--relaxed"]
    command = [str(source), "--out", str(tmp_path / "out"), "--conf", str(CONF), *options, *switches]
    assert main(command) == 1
    for name, value in zip(options[::2], options[1::2], strict=True):
        assert flag(imports[0], name) == value
    assert set(switches) <= set(imports[0]) and not {"--no_turntable", "True"} & set(imports[0])


def test_masks_are_made_only_where_the_importer_finds_none(tmp_path: Path, imports: list[list[str]]) -> None:
    source = bad_input.write_scene(tmp_path / "mug")
    command = [str(source), "--out", str(tmp_path / "out"), "--conf", str(CONF)]
    assert main(command) == 1 and flag(imports[-1], "--masks") is None
    (source / "mask").rename(source / "silhouettes")
    assert main(command) == 1 and flag(imports[-1], "--masks") is None
    shutil.rmtree(source / "silhouettes")
    assert main(command) == 1 and flag(imports[-1], "--masks") == "auto"


def test_changed_masks_and_another_program_repeat_the_import(
    tmp_path: Path, imports: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, masks = bad_input.write_scene(tmp_path / "mug"), tmp_path / "masks"
    shutil.move(source / "mask", masks)
    monkeypatch.setattr(Chain, "_import", lambda chain: imports.append([]) or {})
    monkeypatch.setattr(Chain, "_doctor", lambda chain: pytest.fail("no scene"))

    def imported(*flags: str) -> bool:
        """Whether a call imports; it ends at the check."""
        (tmp_path / "out" / "data" / "photos" / "scan0").mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / "data" / "photos" / "scan0" / "cameras.npz").touch()
        before = len(imports)
        with pytest.raises(pytest.fail.Exception):
            main([str(source), "--out", str(tmp_path / "out"), "--conf", str(CONF), *flags])
        return len(imports) > before

    given, made = ["--masks", str(masks)], ["--mask_command", "cp {image} {mask}"]
    assert imported(*given) and not imported(*given)
    (masks / "more.txt").write_text("changed")
    assert imported(*given) and not imported(*given)
    assert imported(*given, "--make_missing_masks")
    assert imported(*made) and not imported(*made)
    assert imported("--mask_command", "ln {image} {mask}")


def test_a_result_counts_only_with_equal_inputs_and_existing_outputs(tmp_path: Path) -> None:
    journal, made = Journal(tmp_path, STEPS), tmp_path / "mesh.glb"
    made.write_bytes(b"1")
    journal.finish("mesh", fingerprint("a"), {"x": 1})
    assert journal.result("mesh", fingerprint("a"), [made]) == {"x": 1}
    assert journal.result("mesh", fingerprint("b"), [made]) is None
    made.unlink()
    assert journal.result("mesh", fingerprint("a"), [made]) is None


def test_a_step_is_forgotten_with_all_later_ones(tmp_path: Path) -> None:
    journal = Journal(tmp_path, STEPS)
    for step in STEPS:
        journal.finish(step, "i", {})
    journal.forget_from("train")
    assert [step for step in STEPS if journal.result(step, "i") is not None] == [
        "import",
        "doctor",
        "speed_trial",
    ]


def test_a_truncated_record_is_ignored(tmp_path: Path) -> None:
    journal = Journal(tmp_path, STEPS)
    journal.finish("train", "i", {})
    record = next(tmp_path.rglob("train.json"))
    record.write_text(record.read_text()[:10])
    assert journal.result("train", "i") is None


def test_a_changed_photograph_changes_the_state(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"1")
    before = files_state(tmp_path)
    (tmp_path / ".hidden").write_bytes(b"1")
    assert files_state(tmp_path) == before
    (tmp_path / "a.jpg").write_bytes(b"12")
    assert files_state(tmp_path) != before


@pytest.mark.parametrize(
    "flags, expected",
    [
        ([], ["--max_mb", "5"]),
        (["--faces", "900"], ["--faces", "900"]),
        (["--texture", "64"], ["--texture", "64", "--faces", "20000"]),
        (["--texture", "64", "--faces", "9"], ["--texture", "64", "--faces", "9"]),
    ],
)
def test_flags_of_the_mesh_are_passed_on_and_the_default_is_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, flags: list[str], expected: list[str]
) -> None:
    arguments = build_parser().parse_args([str(tmp_path), *flags])
    calls: list[list[str]] = []
    monkeypatch.setattr(export_mesh, "main", lambda argv: bool(calls.append(argv)))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    chain = Chain(arguments, tmp_path, tmp_path / "out")
    chain.run_flags = []
    chain._mesh()
    assert calls[-1][calls[-1].index("--resolution") + 2 :] == expected
    if not flags:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        chain._mesh()
        assert "--max_mb" not in calls[-1]
        assert "keeps all faces: a smaller file needs" in capsys.readouterr().out


def test_a_page_is_named_after_the_folder_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "mug").mkdir()
    (tmp_path / "mug.mp4").touch()
    assert title_of(tmp_path / "mug") == title_of(tmp_path / "mug.mp4") == "mug"
    assert title_of(Path("/data/tea pot/photos")) == "tea pot" and title_of(Path("/photos")) == "photos"
    assert title_of(Path("/data/tea pot/sparse/0")) == "tea pot"
