"""A Python interpreter that starts in a tenth of a second: processes of tests without the time of imports.

A server imports the libraries, but nothing of `idr`, and forks a process for each call. The interpreter is a
small executable that passes its arguments, folder, environment and streams to the server, forwards SIGINT and
SIGTERM, and ends as that process ends. Calls with options of the interpreter start a real one instead.

Run as a script this file is the server: ``warm_python.py FOLDER``, with the folder of socket and interpreter.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import runpy
import select
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

LIBRARIES = (
    "torch", "torch._dynamo", "torch.utils.data", "torchvision", "numba", "numpy", "scipy.ndimage",
    "scipy.optimize", "scipy.spatial", "skimage.measure", "trimesh", "networkx", "cv2", "imageio.v3",
    "PIL.Image", "plotly.graph_objects", "pyhocon",
)  # fmt: skip
CLIENT = """#!{python} -SE
import json, os, signal, socket, sys
arguments = sys.argv[1:]
if arguments[:1] == ["-u"]:
    del arguments[0]  # these processes write without buffers
if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-c", "-m")):
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
call = json.dumps([arguments, os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(server, [len(call).to_bytes(8, "big")], [0, 1, 2])
server.sendall(call)
answers = server.makefile()
process = int(answers.readline())
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: os.kill(process, number))
status = int(answers.readline())
if status < 0:
    signal.signal(-status, signal.SIG_DFL) if -status != signal.SIGKILL else None
    os.kill(os.getpid(), -status)
os._exit(status)
"""


@contextmanager
def warm_python() -> Iterator[Path]:
    """Runs a server; yields the interpreter's path."""
    with tempfile.TemporaryDirectory(prefix="warm") as folder:  # a socket's path has at most 107 characters
        address, interpreter = Path(folder) / "socket", Path(folder) / "python"
        interpreter.write_text(CLIENT.format(python=sys.executable, address=str(address)))
        interpreter.chmod(0o755)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        environment.pop("PYTHONPATH", None)
        server = subprocess.Popen(
            [sys.executable, __file__, folder], env=environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        try:
            assert server.stdout is not None and server.stdout.readline() == b"ready\n"
            yield interpreter
        finally:
            server.communicate()  # closes its input


def serve(folder: Path) -> None:
    """Forks a process for each call, until the standard input ends."""
    for library in LIBRARIES:
        with suppress(ImportError):
            importlib.import_module(library)
    sys.dont_write_bytecode, sys.pycache_prefix = False, str(folder)  # each module is compiled once
    sys.executable = str(folder / "python")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "socket"))
    listener.listen()
    os.write(1, b"ready\n")
    while listener in select.select([listener, sys.stdin], [], [])[0]:
        connection, _ = listener.accept()
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if os.fork() == 0:
            listener.close()
            answer(connection)
        connection.close()
    with suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


def answer(connection: socket.socket) -> None:
    """Runs one call in a process of its own; sends its number and its exit status."""
    size, streams, _, _ = socket.recv_fds(connection, 8, 3)
    with connection.makefile("rb") as stream:
        call = json.loads(stream.read(int.from_bytes(size, "big")))
    process = os.fork()
    if process == 0:
        connection.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        run(*call)
    for stream in streams:
        os.close(stream)
    connection.sendall(f"{process}\n".encode())
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    with suppress(OSError):  # the interpreter was killed
        connection.sendall(f"{status}\n".encode())
    os._exit(0)


def run(arguments: list[str], folder: str, environment: dict[str, str]) -> None:
    """Does what ``python`` does with its arguments, then ends the process."""
    os.chdir(folder)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(write_through=True)  # type: ignore[union-attr]
    os.environ.clear()
    os.environ.update(environment)
    paths = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    first, rest = arguments[0], arguments[1:]
    of_script = str(Path(first).resolve().parent) if first not in ("-c", "-m") else ""
    sys.path[:] = [of_script, *paths, *sys.path[1:]]
    status: Any = 0
    try:
        if first == "-c":
            sys.argv = ["-c", *rest[1:]]
            exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
        elif first == "-m":
            sys.argv = rest
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        else:
            sys.argv = arguments
            runpy.run_path(first, run_name="__main__")
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
    except BaseException:
        traceback.print_exc()
        status = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
