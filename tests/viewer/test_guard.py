"""Whom the viewer answers: requests as other sites would send them, against the running server."""

from __future__ import annotations

import html
import http.client
import re

import pytest
import torch
import viser
from tests.evaluation import ball
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from idr.conf.files import load_conf
from idr.errors import MissingInputError
from idr.viewer.checkpoints import CheckpointReader
from idr.viewer.guard import Guard, escape_markup, guarded
from idr.viewer.server import PageServer

NAME = "<b onclick=\"x\">`*_{y}_![z](a.png)&amp;\x1b"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    root = tmp_path_factory.mktemp("viewer")
    ball.write_scene(root)
    folder = ball.write_run(root / "exps", NAME)
    conf = load_conf(ball.conf_text() + f'\ndataset.scan_id = 3\ndataset.data_root = "{root / "data"}"\n')
    reader = CheckpointReader(folder, conf, None, torch.device("cpu"))
    page = PageServer(reader, "127.0.0.1", port=0, resolution=32, side=64)
    yield page
    page.close()


def answer(page: PageServer, **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=5)
    connection.putrequest("GET", "/", skip_host=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    return connection.getresponse()


def test_page_has_the_headers(page):
    for host in (f"127.0.0.1:{page.port}", f"localhost:{page.port}", "localhost:9", "[::1]:80"):
        response = answer(page, Host=host)
        assert response.status == 200 and b"<title>Viser</title>" in response.read()
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["X-Frame-Options"] == "DENY"
        assert response.headers["Referrer-Policy"] == "no-referrer"
        policy = response.headers["Content-Security-Policy"]
        assert f"connect-src 'self' ws://{host} wss://{host} data: blob:;" in policy
        assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "localhost@evil.example", "[", ""]
)
def test_a_name_of_another_site_is_refused(page, host):
    response = answer(page, Host=host)
    assert response.status == 403 and b"open the page by the address" in response.read()
    assert response.headers["X-Content-Type-Options"] == "nosniff"


def opened(page: PageServer, origin: str | None) -> bool:
    address, versions = f"ws://127.0.0.1:{page.port}", [f"viser-v{viser.__version__}"]
    try:
        with connect(address, origin=origin, subprotocols=versions, open_timeout=5):
            return True
    except InvalidStatus as refused:
        assert refused.response.status_code == 403
        return False


def test_websocket_of_the_page_only(page):
    here = f"127.0.0.1:{page.port}"
    assert opened(page, f"http://{here}") and opened(page, None)
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1", f"http://{here}.evil.example", "file://"):
        assert not opened(page, origin)


def test_forwarded_ports_are_admitted_and_other_names_are_not():
    class Headers(dict):
        def get_all(self, name):
            return self.get(name, [])

    guard = Guard("127.0.0.1")
    assert guard.refusal(Headers(Host=["localhost:9000"], Origin=["http://localhost:9000"])) == ""
    assert guard.refusal(Headers(Host=["192.168.1.5:8080"], Origin=["http://192.168.1.5:8080"])) == ""
    named = Headers(Host=["gpu7:8080"])
    assert guard.refusal(named) and not Guard("gpu7").refusal(named)
    assert guard.refusal(Headers()) and guard.refusal(Headers(Host=["localhost", "evil.example"]))


def test_names_are_shown_as_they_are(page):
    panel = page._session._panel
    panel.show_trouble(NAME)
    for text in (escape_markup(NAME), panel.trouble.content.strip("*")):
        assert not re.search(r"[<>`*_{}\[\]!\"&\\](?!#\d+;)", text)
        assert html.unescape(text) == NAME.replace("\x1b", "\\x1b")
    assert escape_markup("caf\u00e9 65, epoch 7: 3/4 (a.b)") == "caf\u00e9 65, epoch 7: 3/4 (a.b)"


def test_another_viser_is_refused():
    with pytest.raises(MissingInputError, match="needs another version of viser"), guarded("127.0.0.1"):
        pass
