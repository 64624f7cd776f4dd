"""``idr masks``: labels in one view mend the masks of all, on the command line and on the page."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.importers.masks import two_balls
from tests.importers.masks.two_balls import STROKED, ious, spot_on_other_ball

from idr.cli.masks.command import main
from idr.cli.masks.server import MaskServer
from idr.datasets.images import load_mask
from idr.errors import OutputError
from idr.files import read_json
from idr.importers.masks import editing
from idr.importers.masks.editing import MaskEditor, Stroke, mask_edits
from idr.importers.masks.hints import BACKGROUND, OBJECT
from idr.places import title_of
from idr.preprocess.bounding_sphere import fit_sphere
from idr.preprocess.scene_views import load_views


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_balls.import_scene(tmp_path_factory.mktemp("balls"))


@pytest.fixture
def scan(imported: Path, tmp_path: Path) -> Path:
    """A scene whose automatic masks take both balls; the object is one."""
    return Path(shutil.copytree(imported, tmp_path / "data" / "scan0"))


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def spot() -> str:
    column, row = spot_on_other_ball()
    return f"{STROKED}:{column},{row}"


def test_a_label_mends_the_masks_of_all_views(scan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, files = ious(scan), content(scan)
    assert before.max() < 0.96 and mask_edits(scan) == []
    assert main([str(scan), "--background", spot()]) == 0
    assert ious(scan).min() > 0.98
    printed = capsys.readouterr().out
    assert "computing 8 masks from labels in 1 view; 0 are kept" in printed and "wrote 8 masks" in printed
    for name, first in files.items():
        if name.startswith("mask/"):
            assert (scan / name.replace("mask/", "mask_before/")).read_bytes() == first
    # The sphere of an import is that of its masks.
    fit = fit_sphere(load_views(scan))
    with np.load(scan / "cameras.npz") as cameras:
        assert np.allclose(cameras["scale_mat_3"][:3, 3], fit.center, atol=1e-6)
        assert cameras["scale_mat_3"][0, 0] == pytest.approx(fit.radius)
    record = read_json(scan / "import.json")
    assert record["sphere"]["radius"] == pytest.approx(fit.radius)
    assert len(mask_edits(scan)) == 1
    page = (scan / "scene_report.html").read_text(encoding="utf-8")
    assert f"<title>{title_of(Path(record['source']))}</title>" in page  # that of the import


def test_a_second_call_continues_from_the_labels_and_keeps_the_first_masks(scan: Path) -> None:
    first = content(scan / "mask")
    assert main([str(scan), "--background", spot()]) == 0
    assert main([str(scan), "--object", "0:2,2,4,4", "--keep", "1,0002,3,4,5,6,7"]) == 0
    assert ious(scan)[1:].min() > 0.98  # without the label of the first call, the other ball were back
    assert load_mask(scan / "mask" / "0000.png")[2:5, 2:5].all()
    assert content(scan / "mask_before") == first
    editor = MaskEditor(scan)
    assert editor.keeps == [False] + 7 * [True] and (editor.hints[0] == OBJECT).sum() == 9


def test_a_save_that_failed_is_repeated(scan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, write, written = content(scan / "mask"), editing.write_png, []

    def full(path: Path, image: np.ndarray) -> None:
        written.append(path)
        if path.parent.name == "mask" and len(written) > 4:
            raise OutputError("no space")
        write(path, image)

    monkeypatch.setattr(editing, "write_png", full)
    assert main([str(scan), "--background", spot()]) == 2
    assert 0 < sum(content(scan / "mask")[name] != old for name, old in first.items()) < 8
    edited = mask_edits(scan)
    monkeypatch.undo()
    assert main([str(scan), "--keep", "none"]) == 0
    assert ious(scan).min() > 0.98 and content(scan / "mask_before") == first
    assert len(edited) == 1 and (scan / "cameras_backup.npz").is_file()


def test_masks_that_were_given_are_kept_but_for_those_with_labels(tmp_path: Path) -> None:
    source = two_balls.write_source(tmp_path / "source")
    (source / "mask").mkdir()
    for k, mask in enumerate(two_balls.true_masks()):
        if k == STROKED:
            mask[:30] = True  # with the other ball
        Image.fromarray(mask).save(source / "mask" / f"{k}.png")
    assert two_balls.main([str(source), "--out", str(tmp_path / "scan0"), "--sphere", "hull"]) == 0
    files, before = content(tmp_path / "scan0" / "mask"), ious(tmp_path / "scan0")
    assert main([str(tmp_path / "scan0"), "--background", f"{STROKED}:0,0,50,20"]) == 0
    after = ious(tmp_path / "scan0")
    assert before[STROKED] < 0.75 and after[STROKED] > 0.95
    changed = {name for name, old in content(tmp_path / "scan0" / "mask").items() if files[name] != old}
    assert changed == {f"{STROKED:04d}.png"}


WRONG = {
    "no scene": ("nowhere", [], r"no scene folder"),
    "photographs": ("scan0/image", [], r"no folder .*mask"),
    "no such view": ("scan0", ["--object", "9:1,1"], r"no view 9 in .*expected a number from 0 to 7"),
    "no view": ("scan0", ["--object", "1,1"], r"--object 1,1: expected VIEW:x,y"),
    "three numbers": ("scan0", ["--background", "1:1,1,2"], r"--background 1:1,1,2: expected VIEW:x,y"),
    "no box": ("scan0", ["--within", "1:1,1"], r"--within 1:1,1: expected VIEW:x0,y0,x1,y1"),
    "no brush": ("scan0", ["--object", "1:1,1", "--brush", "0"], r"--brush 0: expected 1 to 2000 pixels"),
    "nothing is background": ("scan0", ["--object", "1:0,0,200,200"], r"0001\.png: its labels leave no b"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_mistakes_are_refused(what: str, scan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, flags, message = WRONG[what]
    before = content(scan)
    assert main([str(scan.parent / folder), *(flags or ["--keep", "all"])]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and error.count("\n") == 1, error
    assert content(scan) == before


def test_strokes_and_boxes_cover_their_pixels() -> None:
    empty = np.zeros((40, 60), np.uint8)
    line = Stroke("object", "line", ((10, 10), (50, 10)), 5).drawn(empty)
    assert (line[8:13, 10:51] == OBJECT).all() and (line[[6, 14]] == 0).all()
    within = Stroke("within", "box", ((50, 30), (20, 5))).drawn(line)
    assert (within[5:31, 20:51] == line[5:31, 20:51]).all() and (within[:5] == BACKGROUND).all()
    assert (Stroke("erase", "box", ((0, 0), (60, 40))).drawn(within) == 0).all()
    spot = Stroke("background", "line", ((30, 20),)).drawn(empty)
    assert spot[20, 30] == BACKGROUND and 1 <= spot.astype(bool).sum() <= 9


class Client:
    """Asks the server as the page does."""

    def __init__(self, server: MaskServer) -> None:
        self.server = server

    def ask(
        self, path: str, body: Any = None, method: str = "GET", root: str | None = None, **headers: str
    ) -> tuple[int, bytes, dict[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=30)
        root = f"/{self.server.token}/" if root is None else root
        text = None if method == "GET" else json.dumps(body)
        connection.request(method, root + path, text, headers)
        answer = connection.getresponse()
        return answer.status, answer.read(), dict(answer.getheaders())

    def post(self, path: str, body: Any = None) -> dict[str, Any]:
        status, content, _ = self.ask(path, body, "POST")
        assert status == 200, content
        return dict(json.loads(content))

    def work(self, path: str) -> dict[str, Any]:
        """Asks for long work and waits for its end."""
        state = self.post(path)
        for _ in range(600):
            if not state["working"]:
                return state
            time.sleep(0.1)
            state = json.loads(self.ask("state")[1])
        raise TimeoutError


@pytest.fixture
def client(scan: Path) -> Iterator[Client]:
    server = MaskServer(MaskEditor(scan), "127.0.0.1", 0)
    thread = threading.Thread(target=server.serve)
    thread.start()
    yield Client(server)
    server.end()
    thread.join()
    server.close()


def test_strokes_on_the_page_mend_the_masks_of_all_views(scan: Path, client: Client) -> None:
    before = ious(scan)
    column, row = spot_on_other_ball()
    stroke = {"label": "background", "shape": "line", "points": [[column - 1, row], [column + 1, row]]}
    assert client.post(f"draw/{STROKED}", stroke | {"width": 3})["views"][STROKED]["labels"]
    state = client.work("update")
    assert state["unsaved"] and "not saved yet" in state["message"]
    assert (ious(scan) == before).all()  # nothing is written before it is saved
    state = client.work("save")
    assert not state["unsaved"] and "wrote 8 masks" in state["message"]
    after = ious(scan)
    assert before.max() < 0.96 and after.min() > 0.98
    assert load_mask(scan / "mask_before" / "0001.png").sum() > load_mask(scan / "mask" / "0001.png").sum()
    levels = np.asarray(Image.open(scan / "mask_hints" / "0001.png"))
    assert levels[row, column] == 128 and set(np.unique(levels)) == {0, 128}


def test_strokes_are_undone_and_cleared(client: Client) -> None:
    stroke = {"label": "object", "shape": "line", "points": [[5, 5]], "width": 4}
    first = client.post("draw/2", stroke)
    assert first["views"][2]["strokes"] == 1 and client.server.editor.hints[2][5, 5] == OBJECT
    assert not client.post("clear/2")["views"][2]["labels"]
    assert client.post("undo/2")["views"][2]["labels"]
    assert not client.post("undo/2")["views"][2]["labels"]
    assert client.post("keep/2", True)["views"][2]["keep"]


def test_labels_without_an_object_are_a_message(client: Client) -> None:
    everything = {"label": "within", "shape": "box", "points": [[-9, -9], [-5, -5]], "width": 1}
    client.post("draw/0", everything)
    assert client.work("update")["message"].startswith("not done: 0000.png: its labels leave no object")


def test_pictures_and_page(client: Client) -> None:
    status, page, headers = client.ask("")
    assert status == 200 and b"Masks of scan0" in page and f'nonce="{client.server.token}"'.encode() in page
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    pictures = {"photo": ("JPEG", 3), "small": ("JPEG", 3), "mask": ("PNG", 4), "labels": ("PNG", 4)}
    for name, (kind, size) in pictures.items():
        status, picture, _ = client.ask(f"{name}/3?v=1")
        (client.server.editor.folder / "x").write_bytes(picture)
        with Image.open(client.server.editor.folder / "x") as image:
            assert image.format == kind and np.asarray(image).shape == (96, 128, size)


def test_only_the_page_itself_is_answered(client: Client) -> None:
    assert client.ask("state", root="/")[0] == 404
    assert client.ask("state", root="/guess/")[0] == 404
    for path in ("photo/8", "photo/99999999", "../state", "photo/1/2", "draw/1"):
        assert client.ask(path)[0] == 404
    assert client.ask("state", Host="evil.example")[0] == 403
    assert client.ask("save", None, "POST", Origin="http://evil.example")[0] == 403
    line = {"label": "object", "shape": "line", "points": [[1, 1]], "width": 1}
    wrong = ({"label": "x"}, {"points": [[1, None]]}, {"points": []}, {"shape": "box"}, {"width": "nan"})
    for body in (None, [], {"label": "object"}, *(line | part for part in wrong)):
        assert client.ask("draw/1", body, "POST")[0] == 400
    assert not client.server.editor.hints[1].any()
