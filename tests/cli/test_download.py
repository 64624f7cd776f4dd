"""data/download_data.sh with generated archives and a local server."""

from __future__ import annotations

import http.server
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "data" / "download_data.sh"
SCANS = (24, 37, 40, 55, 63, 65, 69, 83, 97, 105, 106, 110, 114, 118, 122)
BASH = shutil.which("bash")

pytestmark = pytest.mark.skipif(BASH is None, reason="there is no bash on this machine")
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl on this machine")


def make_archive(path, scans=SCANS, top="DTU/", skip=()):
    """Writes a small stand-in for the DTU archive without the members in `skip`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for scan in scans:
            names = [f"image/{k:06d}.png" for k in range(3)] + [f"mask/{k:03d}.png" for k in range(3)]
            for name in [*names, "cameras.npz", "cameras_linear_init.npz"]:
                if f"scan{scan}/{name}" not in skip:
                    content = b"PK" + os.urandom(300) if name.endswith("npz") else os.urandom(400)
                    archive.writestr(f"{top}scan{scan}/{name}", content)
    return path


def run(root, *arguments, url=None, path=None):
    """Runs the script with data/ replaced by `root`."""
    environment = dict(os.environ, IDR_DATA_ROOT=str(root))
    environment["IDR_DTU_URL"] = url or "file:///nothing/here.zip"
    if path is not None:
        environment["PATH"] = str(path)
    return subprocess.run(
        [BASH, str(SCRIPT), *map(str, arguments)], env=environment, capture_output=True, text=True
    )


def scans_in(root):
    return sorted(int(path.name[4:]) for path in (root / "DTU").glob("scan*"))


def tools(folder, names):
    """Returns a folder for PATH with these commands only."""
    folder.mkdir()
    for name in names:
        if name == "python3":  # the command may need tools that are left out
            (folder / name).write_text(f'#!{BASH}\nexec "{sys.executable}" "$@"\n')
            (folder / name).chmod(0o755)
        elif found := shutil.which(name):
            (folder / name).symlink_to(found)
    return folder


BASIC_TOOLS = ("dirname", "find", "wc", "head", "tr", "cat", "mkdir", "mv", "rm", "sed")


class Server:
    """Serves one file, with or without ranges; may break off the first answer."""

    def __init__(self, content, ranges=True, break_after=None, kind="application/zip"):
        self.requests = []
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):  # noqa: N802
                byte_range = self.headers.get("Range")
                owner.requests.append(byte_range)
                start = int(re.match(r"bytes=(\d+)-", byte_range)[1]) if byte_range and ranges else 0
                self.send_response(206 if start else 200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content) - start))
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
                self.end_headers()
                part = content[start:]
                if break_after is not None and len(owner.requests) == 1:
                    part = part[:break_after]
                self.wfile.write(part)

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/DTU.zip?dl=1"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception):
        self.server.shutdown()
        self.server.server_close()


def test_script_of_an_installed_package_writes_to_the_working_directory(tmp_path):
    archive = make_archive(tmp_path / "DTU.zip")
    installed, here = tmp_path / "site" / "shipped" / "data", tmp_path / "here"
    installed.mkdir(parents=True)
    here.mkdir()
    script = shutil.copy(SCRIPT, installed)
    environment = {name: value for name, value in os.environ.items() if name != "IDR_DATA_ROOT"}
    subprocess.run([BASH, script, archive], cwd=here, env=environment, check=True, capture_output=True)
    assert scans_in(here / "data") == sorted(SCANS)
    assert [path.name for path in installed.iterdir()] == ["download_data.sh"]


def test_local_archive(tmp_path):
    archive = make_archive(tmp_path / "my archive.zip")
    first = run(tmp_path / "data", archive)
    assert first.returncode == 0, first.stderr
    assert scans_in(tmp_path / "data") == list(SCANS)
    assert "all 15 scans are in" in first.stdout and "scan65: 3 views" in first.stdout
    assert archive.is_file()
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["DTU"]

    kept = tmp_path / "data" / "DTU" / "scan65" / "mine.txt"
    kept.write_text("mine")
    again = run(tmp_path / "data")
    assert again.returncode == 0 and "already" in again.stdout
    assert kept.read_text() == "mine"


def test_archive_without_a_top_folder(tmp_path):
    assert run(tmp_path / "data", make_archive(tmp_path / "a.zip", top="")).returncode == 0
    assert scans_in(tmp_path / "data") == list(SCANS)


def test_only_what_is_missing_is_replaced(tmp_path):
    """A complete scan is unchanged; an incomplete one is moved aside, not deleted."""
    root = tmp_path / "data"
    assert run(root, make_archive(tmp_path / "a.zip")).returncode == 0
    before = (root / "DTU" / "scan37" / "image" / "000000.png").read_bytes()
    (root / "DTU" / "scan40" / "mask" / "001.png").unlink()
    shutil.rmtree(root / "DTU" / "scan55")
    result = run(root, make_archive(tmp_path / "b.zip"))
    assert result.returncode == 0
    assert (root / "DTU" / "scan37" / "image" / "000000.png").read_bytes() == before
    assert (root / "DTU" / "scan40" / "mask" / "001.png").is_file()
    assert (root / "DTU" / "incomplete_scan40" / "mask" / "000.png").is_file()
    assert "incomplete_scan40" in result.stdout
    assert scans_in(root) == list(SCANS)


@needs_curl
class TestDownload:
    """Downloads, interrupted and failing ones."""

    def test_from_a_file_url(self, tmp_path):
        archive = make_archive(tmp_path / "source" / "DTU.zip")
        result = run(tmp_path / "data", url=archive.as_uri())
        assert result.returncode == 0, result.stderr
        assert scans_in(tmp_path / "data") == list(SCANS)
        assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["DTU"]  # the archive is gone

    def test_interrupted_download_continues(self, tmp_path):
        content = make_archive(tmp_path / "a.zip").read_bytes()
        with Server(content, break_after=5000) as server:
            broken = run(tmp_path / "data", url=server.url)
            assert broken.returncode == 1
            assert "run this again to go on" in broken.stderr and server.url in broken.stderr
            part = tmp_path / "data" / "DTU.zip.part"
            assert part.read_bytes() == content[:5000]
            assert scans_in(tmp_path / "data") == []
            finished = run(tmp_path / "data", url=server.url)
        assert finished.returncode == 0, finished.stderr
        assert server.requests == [None, "bytes=5000-"]
        assert scans_in(tmp_path / "data") == list(SCANS)

    def test_complete_download_is_not_repeated(self, tmp_path):
        make_archive(tmp_path / "data" / "DTU.zip.part")
        assert run(tmp_path / "data").returncode == 0

    def test_server_without_ranges(self, tmp_path):
        content = make_archive(tmp_path / "a.zip").read_bytes()
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "DTU.zip.part").write_bytes(content[:5000])
        with Server(content, ranges=False) as server:
            result = run(tmp_path / "data", url=server.url)
        assert result.returncode == 0, result.stderr
        assert server.requests == ["bytes=5000-", None]

    def test_part_of_another_file(self, tmp_path):
        """The checksum differs: nothing is unpacked, and the next run starts from the beginning."""
        content = make_archive(tmp_path / "a.zip").read_bytes()
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "DTU.zip.part").write_bytes(b"PK" + bytes(4998))
        with Server(content) as server:
            damaged = run(tmp_path / "data", url=server.url)
            assert damaged.returncode == 3 and "damaged and has been removed" in damaged.stderr
            assert scans_in(tmp_path / "data") == []
            assert run(tmp_path / "data", url=server.url).returncode == 0

    def test_web_page_instead(self, tmp_path):
        with Server(b"<html>This link is gone</html>", kind="text/html") as server:
            result = run(tmp_path / "data", url=server.url)
        assert result.returncode == 3
        assert "not give a zip archive" in result.stderr and "To do it by hand" in result.stderr
        assert not (tmp_path / "data" / "DTU.zip.part").exists()

    def test_no_network(self, tmp_path):
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{unused.getsockname()[1]}/DTU.zip"
            result = run(tmp_path / "data", url=url)
        assert result.returncode == 1
        assert "nothing was fetched" in result.stderr
        assert url in result.stderr and f"{tmp_path / 'data'}/DTU.zip" in result.stderr


@pytest.mark.skipif(shutil.which("wget") is None, reason="there is no wget on this machine")
def test_wget_continues_too(tmp_path):
    content = make_archive(tmp_path / "a.zip").read_bytes()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "DTU.zip.part").write_bytes(content[:5000])
    path = tools(tmp_path / "bin", (*BASIC_TOOLS, "wget", "unzip", "python3"))
    with Server(content) as server:
        result = run(tmp_path / "data", url=server.url, path=path)
    assert result.returncode == 0, result.stderr
    assert server.requests == ["bytes=5000-"]


def test_no_download_tool(tmp_path):
    result = run(tmp_path / "data", path=tools(tmp_path / "bin", (*BASIC_TOOLS, "python3")))
    assert result.returncode == 2
    assert "neither curl nor wget is installed" in result.stderr and "To do it by hand" in result.stderr


def test_python_unpacks_without_unzip(tmp_path):
    path = tools(tmp_path / "bin", (*BASIC_TOOLS, "python3"))
    assert run(tmp_path / "data", make_archive(tmp_path / "a.zip"), path=path).returncode == 0
    assert scans_in(tmp_path / "data") == list(SCANS)
    truncated = tmp_path / "b.zip"
    truncated.write_bytes((tmp_path / "a.zip").read_bytes()[:4000])
    assert run(tmp_path / "other", truncated, path=path).returncode == 3


def test_no_unpacking_tool(tmp_path):
    result = run(tmp_path / "data", path=tools(tmp_path / "bin", (*BASIC_TOOLS, "curl")))
    assert result.returncode == 2 and "neither unzip nor python3" in result.stderr


@pytest.mark.parametrize("keep", [0, 1, 4000, -30])
def test_truncated_archive(tmp_path, keep):
    archive = make_archive(tmp_path / "a.zip")
    archive.write_bytes(archive.read_bytes()[:keep])
    result = run(tmp_path / "data", archive)
    assert result.returncode == 3 and "damaged (cut short?)" in result.stderr
    assert scans_in(tmp_path / "data") == []


def test_flipped_byte_is_detected(tmp_path):
    archive = make_archive(tmp_path / "a.zip")
    content = bytearray(archive.read_bytes())
    content[200] ^= 1
    archive.write_bytes(bytes(content))
    assert run(tmp_path / "data", archive).returncode == 3


def test_archive_that_lacks_scans(tmp_path):
    archive = make_archive(
        tmp_path / "a.zip", SCANS[:-2], skip={"DTU/scan65/cameras.npz", "scan65/cameras.npz"}
    )
    result = run(tmp_path / "data", archive)
    assert result.returncode == 4
    assert "scan118: not in the archive" in result.stdout
    assert "scan65: incomplete in the archive (no usable cameras.npz)" in result.stdout
    assert "3 of the 15 scans are not (fully) in" in result.stderr
    assert scans_in(tmp_path / "data") == sorted(set(SCANS[:-2]) - {65})


def test_missing_noisy_cameras_are_reported(tmp_path):
    archive = make_archive(tmp_path / "a.zip", skip={"scan24/cameras_linear_init.npz"})
    result = run(tmp_path / "data", archive)
    assert result.returncode == 0 and "scan24: has no cameras_linear_init.npz" in result.stdout


def test_files_of_a_killed_run_do_no_harm(tmp_path):
    (tmp_path / "data" / ".DTU_unpacking" / "DTU" / "scan24").mkdir(parents=True)
    assert run(tmp_path / "data", make_archive(tmp_path / "a.zip")).returncode == 0
    assert not (tmp_path / "data" / ".DTU_unpacking").exists()


def test_data_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "data").write_text("a file")
    result = run(tmp_path / "data", make_archive(tmp_path / "a.zip"))
    assert result.returncode == 5 and "IDR_DATA_ROOT" in result.stderr


def test_usage(tmp_path):
    shown = run(tmp_path / "data", "--help")
    assert shown.returncode == 0 and "ARCHIVE.zip" in shown.stdout and "set -euo" not in shown.stdout
    assert run(tmp_path / "data", "a", "b").returncode == 2
    missing = run(tmp_path / "data", tmp_path / "none.zip")
    assert missing.returncode == 2 and "expected the DTU archive" in missing.stderr


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="there is no shellcheck on this machine")
def test_shellcheck():
    result = subprocess.run(["shellcheck", str(SCRIPT)], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
