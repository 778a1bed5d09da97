"""The server and its command. Oracle: the contract of exit statuses, a port that is taken, a signal that comes."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.explore.small import Small
from xlm.cli import xlm
from xlm.errors import InputError
from xlm.explore.server import address_of, is_loopback, listen


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(xlm, [str(argument) for argument in arguments])


def test_a_port_that_is_taken_is_told_with_a_remedy() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match="cannot be served") as error:
            listen("127.0.0.1", port)
        assert error.value.where == "--port"
        assert f"port {port}" in str(error.value.found)
        assert "--port 0" in (error.value.remedy or "")


def test_a_connection_on_which_nobody_asks_is_closed(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xlm.explore.server._SECONDS_TO_ASK", 0.5)
    with small.served() as address:
        port = int(address.rstrip("/").rpartition(":")[2])
        silent, halting, asking = (socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(3))
        with silent, halting, asking:
            halting.sendall(b"GET / HTTP/1.1\r\nHost:")
            request = f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
            asking.sendall(request)
            assert asking.recv(15) == b"HTTP/1.1 200 OK"
            assert silent.recv(1) == halting.recv(1) == b""
            asking.sendall(request)  # by now the others' time is over
            asking.shutdown(socket.SHUT_WR)
            answers = b"".join(iter(lambda: asking.recv(1 << 16), b""))
            assert answers.count(b"HTTP/1.1 200 OK") == 1


def test_a_host_that_is_not_ours_is_told() -> None:
    with pytest.raises(InputError) as error:
        listen("192.0.2.1", 0)
    assert error.value.where == "--host"


@pytest.mark.parametrize("host", ["a" * 64, "a" * 64 + ".example", "a..b", "no-such-machine.invalid", "\udcff", ""])
@pytest.mark.parametrize("options", [(), ("--allow-remote",)])
def test_what_is_no_host_is_one_message(host: str, options: tuple[str, ...]) -> None:
    result = invoke("explore", "MODEL", "--host", host, *options)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: The page cannot be served at this address\n  where: --host\n")
    assert "remedy: --host 127.0.0.1" in result.stderr
    assert max(map(len, result.stderr.splitlines())) < 160


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("::", False), ("192.0.2.1", False)],
)
def test_which_hosts_are_this_machine_alone(host: str, local: bool) -> None:
    assert is_loopback(host) is local


def test_the_address_is_one_that_a_browser_can_open() -> None:
    with listen("127.0.0.1", 0) as one, listen("0.0.0.0", 0) as other:
        assert address_of(one) == f"http://127.0.0.1:{one.getsockname()[1]}/"
        assert address_of(other) == f"http://127.0.0.1:{other.getsockname()[1]}/"
    if socket.has_ipv6:
        try:
            with listen("::1", 0) as third:
                assert address_of(third) == f"http://[::1]:{third.getsockname()[1]}/"
        except InputError:
            pytest.skip("this machine has no IPv6")


def test_two_clients_at_once_over_a_real_port(demo_files: Path) -> None:
    small = Small(demo_files)
    answers: dict[int, Any] = {}

    def ask(address: str, number: int) -> None:
        for _ in range(5):
            path, content = [
                ("api/score", {"text": "the dog " * 9, "lang": "en"}),
                ("api/generate", {"text": "the", "lang": "de", "max_new_tokens": 12, "do_sample": False}),
            ][number % 2]
            request = urllib.request.Request(
                address + path, json.dumps(content).encode(), {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=30) as response:
                answers.setdefault(number, set()).add(response.read())

    with small.served() as address:
        threads = [threading.Thread(target=ask, args=(address, number)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [len(answers[number]) for number in range(4)] == [1, 1, 1, 1]
    assert answers[0] == answers[2]
    assert answers[1] == answers[3]


def test_other_machines_only_where_that_is_said(demo_files: Path) -> None:
    result = invoke("explore", demo_files / "demo.pth", "--host", "0.0.0.0")
    assert result.exit_code == 2
    assert "--allow-remote" in result.stderr


def test_a_taken_port_ends_the_command_before_the_model_is_read() -> None:
    with listen("127.0.0.1", 0) as taken:
        result = invoke("explore", "no-such-model", "--port", str(taken.getsockname()[1]))
    assert result.exit_code == 1
    assert "--port 0 takes any" in result.stderr
    result = invoke("explore", "no-such-model", "--port", "0")
    assert result.exit_code == 1
    assert "no-such-model" in result.stderr


@pytest.mark.parametrize("library", ["starlette", "uvicorn"])
def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    for name in [name for name in sys.modules if name.startswith(("xlm.explore", f"{library}."))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    result = invoke("explore", "MODEL")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {library.capitalize()} is not installed\n")
    assert "remedy: pip install 'xlm[explore]'" in result.stderr


def test_from_start_to_ctrl_c_with_a_stream_running(demo_files: Path) -> None:
    command = [sys.executable, "-m", "xlm", "explore", str(demo_files / "demo.pth"), "--codes"]
    with subprocess.Popen(
        [*command, str(demo_files / "codes"), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        # What runs in the background of a script inherits that interrupts are ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.fullmatch(r"(http://127\.0\.0\.1:\d+/) shows demo\.pth; Ctrl-C ends it\n", line)
        assert found, line + process.stderr.read()
        with urllib.request.urlopen(found[1], timeout=30) as response:
            assert b"<title>xlm explore</title>" in response.read()
        content = {"text": "The", "lang": "en", "max_new_tokens": 60}
        request = urllib.request.Request(
            found[1] + "api/generate", json.dumps(content).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            assert b'"id"' in response.readline()
            process.send_signal(signal.SIGINT)
            errors = process.stderr.read()
            assert process.wait(30) == 0
        assert "Traceback" not in errors
        assert process.stdout.read() == ""
