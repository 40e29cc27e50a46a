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


def test_a_fit_that_takes_long_is_named_and_its_time_is_that_of_no_search(monkeypatch, capsys):
    now, timers = [100.0], []

    class Timer:
        """`threading.Timer` by the clock of this test."""

        def __init__(self, after, say):
            self.at, self.say = now[0] + after, say
            timers.append(self)

        def start(self):
            pass

        def cancel(self):
            timers.remove(self)

    def wait(seconds):
        now[0] += seconds
        for timer in [t for t in timers if t.at <= now[0]]:
            timer.say()

    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress, "Timer", Timer)
    with progress.bars_on_stderr() as told:
        for i, (name, seconds) in enumerate([("knn", 20), ("auto-encoder", 300), ("ccu", 10)]):
            told(f"fitting {name} ({i + 1} of 3)", i, 3)
            wait(seconds)
        told("fitting is done", 3, 3)
        wait(10)
        told("knn, linf-8-255 on far-mix", 50, 200)
        wait(60)
        told("knn, linf-8-255 on far-mix", 100, 200)
    assert timers == []
    assert capsys.readouterr().err.splitlines() == [
        "oodattack: fitting auto-encoder (2 of 3)",
        "oodattack: 25 % after 0.0 min: knn, linf-8-255 on far-mix",
        "oodattack: 50 % after 1.0 min: knn, linf-8-255 on far-mix",
    ]
