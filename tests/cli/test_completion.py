"""Shell completion: what shells are told by the command that they call, and what happens in the shells themselves."""

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from oodattack.cli import cli, main
from oodattack.cli.names import known
from oodattack.cli.shells import glued

COMMAND = Path(sys.executable).with_name("oodattack")
WITH_COMMAND = {"PATH": f"{COMMAND.parent}:{os.environ['PATH']}"}
BARE = {"bash": ["bash", "--norc", "-i"], "zsh": ["zsh", "-f", "-i"]}
SET_UP = {"bash": "", "zsh": "autoload -Uz compinit; compinit -u -D; "}


def asked(words: list[str], at: int | None = None) -> dict[str, str]:
    """The variables with which bash asks for the last word, or for another one."""
    at = len(words) if at is None else at
    return {
        "_OODATTACK_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(["oodattack", *words]),
        "COMP_CWORD": str(at),
    }


@pytest.fixture
def complete(monkeypatch, capsys):
    """What bash is answered to words of which the last is incomplete."""

    def answer(*words: str) -> list[str]:
        for name, value in asked(list(words), len(words)).items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit) as stop:
            main([])
        assert stop.value.code == 0
        return [line.removeprefix("plain,") for line in capsys.readouterr().out.splitlines() if line]

    return answer


def test_the_command_itself_answers():
    done = subprocess.run(
        [sys.executable, "-m", "oodattack"], env=os.environ | asked(["run", "--detector", "ener"]),
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("plain,energy\n", "")


def test_it_needs_no_torch_and_is_quick():
    code = """
import sys, time
start = time.perf_counter()
from oodattack.cli import main
try:
    main([])
finally:
    print("torch" in sys.modules, time.perf_counter() - start)
"""
    runs = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", code], env=os.environ | asked(["run", "--detector", "odin@g"]),
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        *answers, last = done.stdout.splitlines()
        assert answers == ["plain,odin@gq", "plain,odin@greg", "plain,odin@greg+"]
        assert last.startswith("False ")
        runs.append(float(last.split()[1]))
    assert min(runs) < 0.5


NAMED = {
    "run": {
        "--detector": "detectors", "--threat": "threats", "--id": "datasets", "--ood": "datasets", "--model": "models",
        "--fit": "datasets", "--id-validation": "datasets", "--ood-validation": "datasets",
        "--protocol": "protocols",
    },
    "train": {
        "--objective": "objectives", "--recipe": "recipes", "--id": "datasets", "--aux": "datasets", "--model":
        "models", "--sampler": "samplers", "--protocol": "protocols",
    },
}  # fmt: skip


@pytest.mark.parametrize(("command", "option"), [(c, o) for c, options in NAMED.items() for o in options])
def test_every_name_of_an_option(complete, command, option):
    names = known()[NAMED[command][option]]
    assert len(names) >= 5
    assert complete(command, option, "") == list(names)
    last = list(names)[-1]
    assert last in complete(command, option, last[:-1])


def test_no_option_that_takes_a_name_is_left_out():
    takes = {
        (name, option.opts[0])
        for name, command in cli.commands.items()
        for option in command.params
        if getattr(option, "metavar", None) == "NAME"
    }
    takes.remove(("gallery", "--judge"))  # a detector of a run whose name click has not read at that point
    assert takes == {(c, o) for c, options in NAMED.items() for o in options}


@pytest.mark.parametrize(
    ("typed", "answers"),
    [
        (["odin@greg"], ["odin@greg", "odin@greg+"]),
        (["energy@x"], []),
        (["nothing@c"], []),
        (["glow@c"], []),  # looks at the images alone
        (["energy@ce,g"], []),  # stands on one network
        (["ensemble@ce,g"], ["ensemble@ce,gq", "ensemble@ce,greg", "ensemble@ce,greg+"]),
        (["ensemble@gq,g"], ["ensemble@gq,greg", "ensemble@gq,greg+"]),
        (["odin", "@", "gq"], ["@gq"]),  # as bash splits it: it replaces what begins at the @ alone
        (["ensemble", "@", "ce,gq"], ["@ce,gq"]),
    ],
)
def test_networks_behind_a_detector(complete, typed, answers):
    assert complete("run", "--threat", "linf-8-255", "--detector", *typed) == answers


def test_right_behind_the_at_sign(complete):
    assert complete("run", "--detector", "energy", "@") == [f"@{name}" for name in known()["networks"]]


def test_networks_of_the_default_are_not_offered_beside_a_model(complete):
    assert complete("run", "--model", "resnet18", "--detector", "energy@g") == []
    assert complete("run", "--model", "resnet18", "--detector", "energ") == ["energy"]


def test_files_where_a_file_will_do(complete):
    assert complete("run", "--threat", "my-lim") == ["file,my-lim"]
    assert complete("run", "--out", "x") == ["file,x"]


def test_commands_options_and_choices(complete):
    assert complete("ga") == ["gallery"]
    assert complete("run", "--ood") == ["--ood", "--ood-validation"]
    assert complete("list", "o") == ["objectives"]
    assert complete("run", "--precision", "b") == ["bfloat16"]
    assert complete("run", "--detector", "=", "msp") == ["msp"]  # bash takes = for a word


@pytest.mark.parametrize(
    ("words", "at", "found"),
    [
        (["run", "ener"], 1, (["run"], "ener", "")),
        (["run"], 1, (["run"], "", "")),
        (["a", "@", "b"], 2, ([], "a@b", "a")),
        (["a", "@"], 1, ([], "a@", "a")),
        (["a", "@", "b", "c"], 3, (["a@b"], "c", "")),
        (["a", ":", "b", "c"], 2, ([], "a:b", "a:")),
        (["m", ":", "f", "@", "n"], 4, ([], "m:f@n", "m:f")),
    ],
)
def test_words_are_put_together_again(words, at, found):
    assert glued(words, at) == found


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_code_for_a_shell(shell, capsys):
    assert main(["completion", shell]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "_OODATTACK_COMPLETE" in out and f"{shell}_complete" in out
    assert main(["completion", "csh"]) == 2


def words_after(shell: str, typed: str) -> list[str]:
    """The words that a command would get when these keys are followed by Enter, in an interactive shell."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(WITH_COMMAND, TERM="dumb", PS1="$ ", INPUTRC="/dev/null", HISTFILE="")
        os.execvp(BARE[shell][0], BARE[shell])

    def until(mark: str) -> str:
        shown, end = "", time.monotonic() + 20
        while mark not in shown and time.monotonic() < end:
            if select.select([terminal], [], [], 0.1)[0]:
                shown += os.read(terminal, 4096).decode(errors="replace")
        assert mark in shown, shown
        return shown

    try:
        said = 'oodattack() { printf "(%s)" "$@"; echo "d""one"; }'  # the completion asks the command, not this
        os.write(terminal, f'{SET_UP[shell]}eval "$(oodattack completion {shell})"; {said}; echo re""ady\n'.encode())
        until("ready")
        os.write(terminal, typed.encode() + b"\n")
        return re.findall(r"\(([^()\n]*)\)", until("done"))
    finally:
        os.write(terminal, b"\x15exit\n")
        os.close(terminal)
        os.waitpid(pid, 0)


@pytest.mark.skipif(not COMMAND.exists(), reason="needs the oodattack command beside the interpreter")
class TestInAShell:
    @pytest.mark.parametrize("shell", BARE)
    @pytest.mark.parametrize(
        ("typed", "words"),
        [
            ("run --threat sanity-r\t", ["run", "--threat", "sanity-random"]),
            ("ru\t--detector odin@gq\t--see\t", ["run", "--detector", "odin@gq", "--seed"]),
            ("run --detector energy@op\t", ["run", "--detector", "energy@openmix"]),
            ("run --detector ensemble@ce,op\t", ["run", "--detector", "ensemble@ce,openmix"]),
        ],
    )
    def test_tab(self, shell, typed, words):
        if shutil.which(shell) is None:
            pytest.skip(f"needs {shell}")
        assert words_after(shell, f"oodattack {typed}") == words

    @pytest.mark.skipif(shutil.which("fish") is None, reason="needs fish")
    @pytest.mark.parametrize(
        ("typed", "answers"),
        [
            ("run --threat sanity-r", ["sanity-random"]),
            ("run --detector ensemble@ce,gre", ["ensemble@ce,greg", "ensemble@ce,greg+"]),
        ],
    )
    def test_fish(self, typed, answers):
        done = subprocess.run(
            ["fish", "--no-config", "-c", f"oodattack completion fish | source; complete -C 'oodattack {typed}'"],
            env=os.environ | WITH_COMMAND,
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        assert [line.split("\t")[0] for line in done.stdout.splitlines()] == answers
