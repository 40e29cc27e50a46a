"""What a command says of its progress where nobody watches."""

from oodattack.cli import progress


def test_without_a_terminal_there_is_a_line_every_half_minute(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.bars_on_stderr() as told:
        for second in range(0, 95, 5):
            now[0] = 100.0 + second
            told("energy@greg, linf-8-255 on far-mix", second, 200)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "oodattack: 15 % after 0.5 min: energy@greg, linf-8-255 on far-mix",
        "oodattack: 30 % after 1.0 min: energy@greg, linf-8-255 on far-mix",
        "oodattack: 45 % after 1.5 min: energy@greg, linf-8-255 on far-mix",
    ]


def test_what_takes_less_says_nothing(capsys):
    with progress.bars_on_stderr() as told:
        told("energy@greg", 1, 1)
    assert capsys.readouterr().err == ""
