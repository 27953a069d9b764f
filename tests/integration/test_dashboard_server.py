"""`dyna-eval dashboard` as a process: what it listens on, odd and many clients, and how it ends."""

from __future__ import annotations

import html
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from served import database, fill

from dyna_eval import cli

EVERYWHERE = "0.0.0.0"  # noqa: S104 - what this is about
COMMAND = Path(sys.executable).with_name("dyna-eval")
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("DYNA_EVAL_")}


@dataclass(slots=True)
class Running:
    """A dashboard, where it listens, and what it said on stderr since, once it has ended."""

    process: subprocess.Popen[str]
    address: str
    port: int
    said: str = ""

    def get(self, path: str, **headers: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        answer.read()
        connection.close()
        return answer

    def send(self, raw: bytes) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=120)
        connection.sendall(raw)
        return connection


@contextmanager
def running(url: str, *options: str, **variables: str) -> Iterator[Running]:
    """Run a dashboard for the time of a block, and end it by Ctrl-C."""
    process = subprocess.Popen(
        [COMMAND, "dashboard", "--port", "0", "--db", url, *options],
        env=ENVIRONMENT | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    line = process.stderr.readline()
    told = re.search(r"dashboard at (http://\S+:(\d+)/\S*)", line)
    assert told, line + process.communicate(timeout=120)[1]
    server = Running(process, told[1], int(told[2]))
    try:
        yield server
        process.send_signal(signal.SIGINT)
        stdout, server.said = process.communicate(timeout=120)
        assert (process.returncode, stdout) == (130, "")
    finally:
        process.kill()
        process.wait()


def only_line(status: int, stdout: str, stderr: str) -> str:
    """Return the one line with which a dashboard does not start."""
    assert (status, stdout) == (2, "")
    [line] = stderr.splitlines()
    return line.removeprefix("dyna-eval: ")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = database(tmp_path_factory.mktemp("served"))
    fill(url)
    return url


@pytest.fixture(scope="module")
def server(url: str) -> Iterator[Running]:
    """One dashboard for all who ask for something odd, which says nothing of it."""
    with running(url) as server:
        yield server
    assert server.said.split() == ["dyna-eval:", "interrupted"]


def received(connection: socket.socket) -> bytes:
    """Read until the other side has closed."""
    parts = []
    with connection:
        while part := connection.recv(65_536):
            parts.append(part)
    return b"".join(parts)


HOST = b"Host: 127.0.0.1\r\nConnection: close\r\n"


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        pytest.param(b"GET / HTTP/1.0\r\n\r\n", 403, id="no host"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", 400, id="no host where one is needed"),
        pytest.param(b"GET / HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n", 403, id="empty host"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nHost: 127.0.0.1\r\n\r\n", 400, id="two hosts"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: [\r\nConnection: close\r\n\r\n", 403, id="half a host"),
        pytest.param(b"GET / HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n", 200, id="old protocol"),
        pytest.param(b"GET / HTTP/1.1\r\nOrigin: http://[\r\n" + HOST + b"\r\n", 403, id="half an origin"),
        pytest.param(b"GET http://evil.example/ HTTP/1.1\r\n" + HOST + b"\r\n", 404, id="as to a proxy"),
        pytest.param(b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", 405, id="asterisk"),
        pytest.param(b"CONNECT evil.example:443 HTTP/1.1\r\n" + HOST + b"\r\n", 405, id="tunnel"),
        pytest.param(b"POST / HTTP/1.1\r\nContent-Length: 9\r\n" + HOST + b"\r\nabcdefghi", 405, id="body"),
        pytest.param(
            b"GET /sweeps/" + b"9" * 5000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 404, id="many digits"
        ),
        pytest.param(b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 404, id="long address"),
        pytest.param(b"GET /?" + b"a" * 15_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 200, id="long query"),
        pytest.param(b"GET /\xff\xfe HTTP/1.1\r\n" + HOST + b"\r\n", 400, id="bytes in the address"),
        pytest.param(b"GET /%ff%00%0d%0a HTTP/1.1\r\n" + HOST + b"\r\n", 404, id="escaped bytes"),
        pytest.param(b"GET / HTTP/1.1\r\nCookie: \xff=\xfe; =;;\r\n" + HOST + b"\r\n", 200, id="odd cookie"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, id="TLS"),
        pytest.param(
            b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
            200,
            id="web socket",
        ),
    ],
)
def test_an_odd_request_is_answered_and_nothing_is_said_of_it(
    server: Running, raw: bytes, status: int
) -> None:
    answer = received(server.send(raw))
    assert answer.split(b" ")[1:2] == [str(status).encode()], answer[:500]
    assert server.get("/").status == 200


def test_two_hundred_clients_at_once_are_all_answered(server: Running) -> None:
    asking = [server.send(b"GET /sweeps/1/jobs HTTP/1.1\r\n" + HOST + b"\r\n") for _ in range(200)]
    answers = [received(connection) for connection in asking]
    assert [answer.split(b" ", 2)[1] for answer in answers] == [b"200"] * 200


def test_clients_that_never_finish_keep_nobody_waiting_and_do_not_stop_the_end(url: str) -> None:
    with ExitStack() as stack, running(url) as server:
        for _ in range(100):
            stack.enter_context(server.send(b"GET / HTTP/1.1\r\nHost: 127"))
        large = b"GET /static/1/plotly.min.js HTTP/1.1\r\n" + HOST + b"\r\n"
        for _ in range(20):
            stack.enter_context(server.send(large))  # and never reads it
        for _ in range(20):
            server.send(large).close()
        assert server.get("/sweeps/1/jobs").status == 200
    assert "Traceback" not in server.said


def test_a_port_in_use_is_named(url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [COMMAND, "dashboard", "--db", url, "--port", str(port)]
        done = subprocess.run(
            command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False
        )
    said = only_line(done.returncode, done.stdout, done.stderr)
    assert said.startswith(f"cannot listen on 127.0.0.1 port {port}: Address already in use")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--host", EVERYWHERE], "--allow-host"),
        (["--host", ""], "--allow-host"),
        (["--host", "203.0.113.1"], "cannot listen on 203.0.113.1 port 8470"),
        (["--host", "no.such.name.invalid"], "cannot listen on no.such.name.invalid port 8470"),
        (["--host", "[::1]"], "cannot listen on [::1]"),
        (["--port", "65536"], "--port"),
        (["--token", "short"], "16 characters"),
        (["--allow-host", "http://gpu-box"], "--allow-host 'http://gpu-box' is no host name"),
    ],
)
def test_an_address_that_cannot_be_listened_on_is_told_in_one_line(
    url: str,
    options: list[str],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In this process: none of it gets so far as to listen."""
    monkeypatch.delenv("DYNA_EVAL_DASHBOARD_TOKEN", raising=False)
    status = cli.run(["dashboard", "--db", url, *options])
    assert says in only_line(status, *capsys.readouterr())


def test_everybody_else_needs_the_token_of_the_printed_address(url: str) -> None:
    with running(url, "--host", EVERYWHERE, "--allow-host", "localhost") as server:
        told = re.fullmatch(r"http://localhost:\d+/\?token=([\w-]{32,})", server.address)
        assert told, server.address
        host = f"localhost:{server.port}"
        assert server.get("/", Host=host).status == 401
        assert server.get("/?token=x", Host=host).status == 401
        assert server.get(f"/?token={told[1]}").status == 403  # 127.0.0.1 was not allowed
        moved = server.get(f"/sweeps/1?q=a&token={told[1]}", Host=host)
        assert (moved.status, moved.headers["location"]) == (303, "/sweeps/1?q=a")
        cookie = moved.headers["set-cookie"].split(";")[0]
        assert server.get("/", Host=host, Cookie=cookie).status == 200
        assert server.get("/", Host=host, Authorization=f"Bearer {told[1]}").status == 200
        assert told[1] not in server.get("/", Host=host, Cookie=cookie).headers.as_string()
    assert told[1] not in server.said


def test_the_token_is_on_no_command_line_where_a_browser_is_opened(url: str, tmp_path: Path) -> None:
    """It reaches the browser by a file that its owner alone can read, and that is gone at the end."""
    (tmp_path / "bin").mkdir()
    opener, opened = tmp_path / "bin/xdg-open", tmp_path / "opened"
    opener.write_text(
        f'#!/bin/sh\nstat -c %a "$@" > {opened}.new\ncat "$@" >> {opened}.new\n'
        f'echo "$@" >> {opened}.new\nmv {opened}.new {opened}\n'
    )
    opener.chmod(0o755)
    path = f"{opener.parent}:{ENVIRONMENT['PATH']}"
    with running(url, "--open", PATH=path, DYNA_EVAL_DASHBOARD_TOKEN="a-token-of-some-length") as server:  # noqa: S106
        while not opened.exists():
            time.sleep(0.05)
        mode, *page, arguments = opened.read_text().splitlines()
        assert mode == "600"
        assert html.escape(server.address) in "".join(page)
        assert Path(arguments).exists()
    assert "token" not in arguments
    assert not Path(arguments).exists()
    opener.write_text(f'#!/bin/sh\necho "$@" > {opened}.new\nmv {opened}.new {opened}\n')
    opened.unlink()
    with running(url, "--open", PATH=path) as server:
        while not opened.exists():
            time.sleep(0.05)
        assert opened.read_text().strip() == server.address
