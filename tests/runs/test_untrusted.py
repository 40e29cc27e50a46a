"""Files from strangers: read or refused in one line, at once, and nothing in them is executed."""

import time
import zlib
from pathlib import Path

import pytest
import torch
from small_run import LIMITS, RUN

from benchmarks.fuzz import ENDINGS, fuzz
from oodattack.cli import main
from oodattack.report import read_report
from oodattack.threat import read_threat


class Evil:
    """Writes a file when it is unpickled."""

    def __reduce__(self):
        return open, ("owned", "w")


def test_weights_that_would_run_code_are_refused(place, capsys):
    torch.save({"weight": Evil()}, place / "evil.pt")
    assert main([*RUN, "--weights", "evil.pt"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (place / "owned").exists()


def bomb() -> bytes:
    """A PNG of 50000 x 50000 black pixels in less than 400 kB of promises."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return len(data).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")

    size = (50_000).to_bytes(4, "big") * 2
    head = chunk(b"IHDR", size + bytes([8, 0, 0, 0, 0]))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(300_000))) + chunk(b"IEND", b"")


def test_a_picture_that_would_fill_the_memory_is_refused(place, capsys):
    (place / "bomb.png").write_bytes(bomb())
    threat = (place / "quick-hide.toml").read_text().replace('start = "ood"', 'start = "picture:bomb.png"')
    (place / "picture.toml").write_text(threat)
    words = ["run", "--detector", "mine:bright", "--id", "npz:id.npz", "--threat", "picture.toml", "--out", "out"]
    assert main(words) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "pixels" in err


DEEP = {
    "arrays": "a = " + "[" * 100_000,
    "closed arrays": "a = " + "[" * 20_000 + "]" * 20_000,
    "tables": "a = " + "{b = " * 50_000,
    "keys": ".".join("a" * 400_000) + " = 1",
    "headers": "[" + ".".join("a" * 400_000) + "]",
    "long": LIMITS + "# " + "x" * 20_000_000,
    "many": "\n".join(f"key{i} = {i}" for i in range(100_000)),
    "members": "members = [" + '"linf-8-255", ' * 3000 + ']\nsource = "test"',
    "number": "eps = " + "9" * 100_000,
    "fraction": 'eps = "' + "9" * 100_000 + '/7"',
    "power": LIMITS.replace('"8/255"', '"1e999999999"'),
}


@pytest.mark.parametrize("what", DEEP)
def test_threat_files_of_any_size_and_depth_are_refused_at_once(place, capsys, what):
    (place / "deep.toml").write_text(DEEP[what])
    begin = time.perf_counter()
    assert main([*RUN[:-2], "--threat", "deep.toml", "--out", "out"]) == 2
    assert time.perf_counter() - begin < 20
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and len(err) < 2000


@pytest.mark.parametrize("text", ["[" * 1_000_000, '{"a":' * 1_000_000, "9" * 1_000_000, '"' + "x" * 10_000_000, "\0"])
def test_reports_of_any_size_and_depth_are_refused_at_once(tmp_path, text):
    (tmp_path / "report.json").write_text(text)
    begin = time.perf_counter()
    with pytest.raises(ValueError, match=r"report\.json") as caught:
        read_report(tmp_path / "report.json")
    assert time.perf_counter() - begin < 5 and len(str(caught.value)) < 1000


@pytest.mark.parametrize("reader", ENDINGS)
def test_random_files_are_read_or_refused(tmp_path, reader):
    counts = fuzz(reader, 150, tmp_path)
    assert counts["refused"] > 50


def test_a_threat_file_may_have_a_long_comment(tmp_path):
    good = (Path(__file__).parents[2] / "threat_models" / "linf-8-255.toml").read_text()
    (tmp_path / "long.toml").write_text(good + "# " + "x" * 900_000)
    assert read_threat(tmp_path / "long.toml").eps == pytest.approx(8 / 255)
