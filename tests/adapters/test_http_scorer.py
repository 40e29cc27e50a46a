"""Scores behind an address: a real server on the loopback interface."""

import io
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import quick_threat
import torch

import oodattack as oa
from oodattack.adapters.http_scorer import HttpScorer, is_address, scorer_at
from oodattack.adapters.http_wire import ScorerError
from oodattack.cli import main

X = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(0))


def mean_of(images):
    return images.reshape(len(images), -1).mean(1)


def good(_request, images):
    return 200, json.dumps({"scores": [float(s) for s in mean_of(images)]})


@contextmanager
def server(answer=good):
    """A server and what it was asked; answer(number of the request, images) -> (status, body[, headers])."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            images = np.load(io.BytesIO(body), allow_pickle=False)
            asked.append((self.headers["Content-Type"], images))
            status, text, *more = answer(len(asked), images)
            raw = text.encode()
            self.send_response(status)
            for name, value in (more[0] if more else {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_):
            pass

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, *_):
            """Nothing: a client that hung up is what one test is about."""

    running = Quiet(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{running.server_port}/score", asked
    finally:
        running.shutdown()
        running.server_close()
        thread.join()


def scorer(url, **options):
    return HttpScorer(url, **({"budget": 1000, "pause": 0.001} | options))


def test_what_goes_over_the_wire():
    with server() as (url, asked):
        found = scorer(url, rows=2)(X.double())
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, X.double().flatten(1).mean(1), rtol=0, atol=1e-7)
    assert [kind for kind, _ in asked] == ["application/x-npy"] * 3
    assert [images.shape for _, images in asked] == [(2, 1, 4, 4), (2, 1, 4, 4), (1, 1, 4, 4)]
    assert all(images.dtype == np.float32 for _, images in asked)
    assert np.array_equal(np.concatenate([images for _, images in asked]), X.numpy())


def test_the_budget_counts_images():
    with server() as (url, asked):
        ask = scorer(url, budget=12)
        ask(X), ask(X)
        with pytest.raises(ScorerError, match="`budget` of 12 images is spent"):
            ask(X)
        assert (ask.spent, len(asked)) == (10, 2)
        ask(X[:2])  # what is left can still be used


def test_a_server_that_fails_twice_is_asked_again():
    def flaky(request, images):
        return good(request, images) if request > 2 else (503, "later")

    with server(flaky) as (url, asked):
        ask = scorer(url, budget=5, retries=2)
        assert len(ask(X)) == 5
        assert (len(asked), ask.spent) == (3, 5)  # the budget is for answers
    with server(flaky) as (url, asked):
        with pytest.raises(ScorerError, match=r"must answer, got 503 .* after 2 tries"):
            scorer(url, retries=1)(X)
        assert len(asked) == 2


def test_pauses_grow(monkeypatch):
    pauses = []
    monkeypatch.setattr("oodattack.adapters.http_scorer.time.sleep", pauses.append)
    with server(lambda *_: (500, "")) as (url, _), pytest.raises(ScorerError, match="after 4 tries"):
        scorer(url, retries=3, pause=0.25)(X)
    assert pauses == [0.25, 0.5, 1.0]


def test_nobody_there():
    with server() as (url, _):
        pass
    with pytest.raises(ScorerError, match=r"must answer, got .*refused.* after 3 tries"):
        scorer(url, retries=2)(X)


def test_a_server_that_hangs(monkeypatch):
    done = threading.Event()

    def slow(request, images):
        done.wait(5)
        return good(request, images)

    with server(slow) as (url, _):
        try:
            with pytest.raises(ScorerError, match=r"must answer, got timed out after one try"):
                scorer(url, retries=0, timeout=0.1)(X)
        finally:
            done.set()


def said(text, status=200, headers=None):
    return lambda *_: (status, text, headers or {})


WRONG = {
    "not JSON": (said("<html>busy</html>"), r"must answer in JSON, got '<html>busy</html>'"),
    "no JSON object": (said("[1, 2, 3, 4, 5]"), r'must answer \{"scores": \[...\]\}, got'),
    "no scores": (said('{"score": [1, 2, 3, 4, 5]}'), r'must answer \{"scores": \[...\]\}, got'),
    "too few": (said('{"scores": [1, 2, 3, 4]}'), "must answer with one score a row, 5, got 4"),
    "NaN": (said('{"scores": [1, 2, NaN, 4, 5]}'), "must answer with finite numbers, got 'nan'"),
    "infinite": (said('{"scores": [1, 2, 1e999, 4, 5]}'), "must answer with finite numbers, got 'inf'"),
    "a whole number past all floats": (
        said('{"scores": [1, 2, 1' + "0" * 400 + ", 4, 5]}"),
        "must answer with finite numbers, got 'inf'",
    ),
    "null": (said('{"scores": [1, 2, null, 4, 5]}'), "must answer with finite numbers, got 'None'"),
    "flags": (said('{"scores": [1, 2, true, 4, 5]}'), "must answer with finite numbers, got 'True'"),
    "too long": (said(" " * 100_000), r"must answer with one number a row, got more than \d+ bytes"),
    "refused": (said("who are you", 403), "must answer with scores, got 403 Forbidden"),
    "not found": (said("", 404), "must answer with scores, got 404 Not Found"),
    "slow down": (said("", 429), "must answer with scores, got 429 Too Many Requests"),
    "redirect": (
        said("", 307, {"Location": "http://127.0.0.1:9/other"}),
        r"must answer with scores, got 307 .* to http://127.0.0.1:9/other",
    ),
    "redirect to a file": (said("", 302, {"Location": "file:///etc/hostname"}), "got 302 .* to file:///etc/hostname"),
}


@pytest.mark.parametrize(("answer", "message"), WRONG.values(), ids=WRONG)
def test_wrong_answers_end_it_in_one_line_and_are_not_asked_for_again(answer, message):
    with server(answer) as (url, asked):
        with pytest.raises(ScorerError, match=message) as raised:
            scorer(url)(X)
    assert len(asked) == 1
    assert str(raised.value).startswith(url) and "\n" not in str(raised.value) and len(str(raised.value)) < 180


def test_no_proxy_is_used(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with server() as (url, _):
        assert len(scorer(url)(X)) == 5


@pytest.mark.parametrize(
    "url", ["ftp://host/x", "file:///etc/passwd", "http:///x", "http://user:secret@host/x", "host/x", "http://host/#a"]
)
def test_other_addresses_are_refused(url):
    with pytest.raises(ValueError, match="`url` must read http://host:port/path"):
        HttpScorer(url, budget=1)


@pytest.mark.parametrize(("name", "value"), [("budget", 0), ("timeout", -1.0), ("rows", 0), ("timeout", float("nan"))])
def test_numbers_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be > 0"):
        HttpScorer("http://host/x", **({"budget": 1} | {name: value}))


def test_what_follows_the_address():
    ask = scorer_at("https://host:8/a?b=c#budget=20&retries=1&timeout=2.5&rows=3")
    assert (ask.url, ask.budget, ask.retries, ask.timeout, ask.rows) == ("https://host:8/a?b=c", 20, 1, 2.5, 3)
    assert is_address("http://host/x") and not is_address("pkg.mod:name") and not is_address("http:name")
    for after, message in {
        "": "must say how many images it may be sent",
        "#budget=many": "budget must be a number, got 'many'",
        "#budget=1&speed=2": "may have budget, retries, timeout, rows after a #, got 'speed'",
    }.items():
        with pytest.raises(ValueError, match=message):
            scorer_at(f"http://host/x{after}")


def test_looking_for_a_gradient_costs_nothing():
    with server() as (url, asked):
        with pytest.raises(RuntimeError, match="no gradient"):
            scorer(url)(X.clone().requires_grad_())
        assert not asked


def test_it_comes_out_as_a_black_box():
    with server() as (url, _):
        sets = {"id": X * 0.5, "ood": {"bright": X * 0.5 + 0.02}}  # less apart than the radius
        report = oa.evaluate(scorer(url, budget=10**6), **sets, threats=["linf-8-255"], seed=0)
    result = report.results[0]
    assert (result.detector, result.surrogate) == ("127-0-0-1", None)
    assert not result.indicators["white_box"]
    assert result.attack.startswith("square")
    assert result.attacked.auroc < result.clean.auroc


THREAT = quick_threat.QUICK.replace('"apgd"', '"square"').replace("queries = 3", "queries = 40")


@pytest.fixture
def asked_for(tmp_path, monkeypatch):
    """Words of a small run, less the detector."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "few.toml").write_text(THREAT)
    return ["run", "--threat", "few.toml", "--ood", "far-mix", "--samples", "6", "--batch-size", "2", "--out", "run"]


def last_line(capsys):
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines and all("Traceback" not in line for line in lines)
    return lines[-1]


def test_through_the_command_line(asked_for, capsys, tmp_path):
    with server() as (url, asked):
        assert main([*asked_for, "--detector", f"{url}#budget=2000", "--json"]) == 0
        result = json.loads(capsys.readouterr().out)["results"][0]
        assert result["attack"].startswith("square")
        assert not result["indicators"]["white_box"]
        assert result["detector"] == f"{url}#budget=2000"
        assert {images.shape[1:] for _, images in asked} == {(1, 32, 32)}
        assert sum(len(images) for _, images in asked) < 600
        assert main(["verify", "run"]) == 0


def test_a_spent_budget_loses_nothing(asked_for, capsys, tmp_path):
    with server() as (url, asked):
        whole = ["--detector", f"{url}#budget=2000"]
        assert main([*asked_for[:-1], "whole", *whole]) == 0
        spent = sum(len(images) for _, images in asked)
        short = f"{url}#budget={spent - 90}"
        assert main([*asked_for, "--detector", short]) == 2
        line = last_line(capsys)
        assert "images is spent" in line and "oodattack run --resume run" in line
        before = len(asked)
        assert main(["run", "--resume", "run"]) == 0
        assert sum(len(images) for _, images in asked[before:]) < spent  # blocks that were finished are not asked for
    results = [json.loads((tmp_path / run / "report.json").read_text())["results"][0] for run in ("run", "whole")]
    assert results[0]["attacked"] == results[1]["attacked"]


@pytest.mark.parametrize("answer", [said("<html>"), said("", 403)], ids=["not JSON", "refused"])
def test_a_wrong_answer_is_exit_code_2(asked_for, capsys, answer):
    with server(answer) as (url, _):
        assert main([*asked_for, "--detector", f"{url}#budget=2000"]) == 2
    assert re.search(rf"{url} must answer", last_line(capsys))
