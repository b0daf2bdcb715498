"""The server of ``tutorkd inspect``: to whom it answers, what it refuses, and how it ends."""

import json
import signal
import subprocess
import sys
import threading
import time
from http.client import HTTPConnection

import pytest
import uvicorn
from commands import environment

from tutorkd.errors import UserError
from tutorkd.inspection.server import HOST, MOST_BYTES, application, listen

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def port():
    """Of a server whose answers repeat the question, and refuse the text "no"."""

    def look(text: str, words: list[int]) -> dict:
        if text == "no":
            raise UserError("not this one")
        return {"text": text, "words": words}

    with listen(0) as listener:
        assert listener.getsockname()[0] == HOST == "127.0.0.1"
        config = uvicorn.Config(application("<!doctype html>page", look), lifespan="off", log_level="error")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join()


def ask(port: int, method: str, path: str, body: object = None, **headers: str) -> tuple[int, str]:
    connection = HTTPConnection(HOST, port, timeout=60)
    content = body if isinstance(body, bytes | None) else json.dumps(body)
    connection.request(method, path, content, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    said = answer.read().decode()
    connection.close()
    return answer.status, said


def test_the_page_and_answers_are_given_to_this_host_by_its_own_names_alone(port):
    assert ask(port, "GET", "/") == (200, "<!doctype html>page")
    assert ask(port, "GET", "/", Host=f"localhost:{port}")[0] == 200
    question = {"text": "ä", "words": [0, 2]}
    for host in (f"{HOST}:{port}", f"localhost:{port}"):
        status, said = ask(port, "POST", "/look", question, **JSON, Host=host, Origin=f"http://{host}")
        assert (status, json.loads(said)) == (200, question)
    for host in ("rebound.example", f"rebound.example:{port}", "127.0.0.1.rebound.example", ""):
        assert ask(port, "GET", "/", Host=host)[0] == 400
        status, said = ask(port, "POST", "/look", question, **JSON, Host=host)
        assert status == 400
        assert "ä" not in said


def test_what_pages_of_another_origin_send_is_refused(port):
    question = {"text": "a", "words": []}
    for origin in ("http://rebound.example", "null", f"https://{HOST}:{port}", f"http://{HOST}:{port + 1}"):
        status, said = ask(port, "POST", "/look", question, **JSON, Origin=origin)
        assert (status, json.loads(said)) == (400, {"error": "another page asked; open this one by its own address"})
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        status, said = ask(port, "POST", "/look", question, Content_Type=kind)
        assert (status, json.loads(said)) == (400, {"error": "a request must be application/json"})
    assert ask(port, "GET", "/look")[0] == 405


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"text": "no", "words": []}, "not this one"),
        (b"{", "a request must be an object of text and words"),
        (b"[" * 9999, "a request must be an object of text and words"),
        (b"\xff", "a request must be an object of text and words"),
        ([], "a request must be an object of text and words"),
        ({"text": "a"}, "a request must be an object of text and words"),
        ({"text": 1, "words": []}, "a request must be an object of text and words"),
        (b'{"text": "\\ud800", "words": []}', "a request must be an object of text and words"),
        ({"text": "a", "words": ["1"]}, "words must be a list of whole numbers"),
        ({"text": "a", "words": [True]}, "words must be a list of whole numbers"),
        ({"text": "a", "words": 1}, "words must be a list of whole numbers"),
        (b" " * (MOST_BYTES + 1), "the request is longer than 65,536 bytes: shorten the text"),
    ],
)
def test_a_bad_request_is_answered_in_one_line(port, body, told):
    status, said = ask(port, "POST", "/look", body, **JSON)
    assert (status, json.loads(said)) == (400, {"error": told})


def test_a_port_that_is_taken_is_told():
    with listen(0) as first:
        taken = first.getsockname()[1]
        with pytest.raises(UserError, match=f"port {taken} on 127.0.0.1 can't be used .*; choose another --port"):
            listen(taken)


# The command, but for what looks at a run.
COMMAND = """
import sys, types
from tutorkd.cli.main import main
stub = types.ModuleType("tutorkd.inspection.inspecting")
stub.inspect_run = lambda args: types.SimpleNamespace(page="page", look=None, told="5 sentences")
sys.modules[stub.__name__] = stub
sys.exit(main(["inspect", "--run", "x"]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_server_with_a_sentence(number):
    command = subprocess.Popen(
        [sys.executable, "-c", COMMAND], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    )
    assert command.stdout is not None
    assert command.stdout.readline() == "shows    5 sentences\n"
    line = command.stdout.readline()
    assert line.startswith(f"page     http://{HOST}:")
    assert ask(int(line.split(":")[2].split("/")[0]), "GET", "/") == (200, "page")
    command.send_signal(number)
    said, errors = command.communicate(timeout=120)
    assert said == "ended    the page is no longer served; --output FILE.html writes one to keep\n"
    assert (command.returncode, errors) == (0, "")
