"""From the words of a command line to an exit code."""

import errno
import io
import os
import sys
import traceback
from contextlib import suppress

import click

from oodattack.cli.commands import cli
from oodattack.cli.completion import VARIABLE
from oodattack.faults import out_of_memory

BUG = 70  # EX_SOFTWARE of sysexits.h; not 1, which Python takes for what nobody catches, and CI for a regression
GONE = 128 + 13  # of a tool that SIGPIPE ends, as the reader of its output has left
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # of a write, which knows no file name


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    Exit codes: 0 done, 1 a regression or failed verification, 2 wrong use, 70 a bug of this package, 130 interrupted,
    141 nobody reads on.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        # Threads that wait for one another by spinning make a run up to 50 times slower when something else shares
        # the cores; giving up after 1000 turns costs about a tenth on a quiet machine. Read when torch is imported.
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    if os.environ.get("COLUMNS") == "0":
        del os.environ["COLUMNS"]  # of a terminal that does not know its width: rich would print nothing
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a mark that an encoding lacks must not end a run that is done
            stream.reconfigure(errors="replace")
    if VARIABLE in os.environ:
        from oodattack.cli import shells  # noqa: F401  (takes the place of click's own)
    try:
        done = cli.main(argv, prog_name="oodattack", standalone_mode=False)
    except click.exceptions.Abort as stop:
        return _say(str(stop.__cause__ or "") or "interrupted", 130)
    except KeyboardInterrupt as stop:
        return _say(str(stop) or "interrupted", 130)
    except click.ClickException as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # click 8.1 has no such class: it prints the help itself
            click.echo(error.format_message())
            return 2
        command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "oodattack"
        said = error.format_message().rstrip(".")
        return _say(f"{said}{'' if said.endswith('?') else '.'} See `{command} --help`.", 2)
    except SystemExit as stop:
        if VARIABLE in os.environ:
            raise  # click's own: completion is done
        *_, (frame, _) = traceback.walk_tb(stop.__traceback__)
        if frame.f_globals["__name__"].partition(".")[0] in ("click", "rich"):  # whose only reason to leave it is
            return GONE
        return _say(f"user code must return, got SystemExit: {stop.code}. Correct detector, network or images.", 2)
    except (ValueError, FloatingPointError) as error:
        return _say(" ".join(str(error).split()), 2)
    except OSError as error:
        if error.filename is None and error.errno not in FULL:
            return _bug()  # no path that the user named
        where = "output" if error.filename is None else error.filename
        return _say(f"{where}: must be readable and writable, got {error.strerror}. Check path, rights and space.", 2)
    except Exception as error:  # what nobody foresaw
        if out_of_memory(error):
            return _say("memory must be enough, got too little. Use another --device, or fewer --samples.", 2)
        return _bug()
    return done if isinstance(done, int) else 0


def _bug() -> int:
    """The exception that is being handled, with all that a report of it needs."""
    traceback.print_exc()
    return _say("this is a bug of oodattack. Please report it with the lines above.", BUG)


def _say(message: str, code: int) -> int:
    """One line on standard error. What a stream does not take is let go: at exit it would change the code."""
    with suppress(OSError):
        click.echo(f"oodattack: {message}", err=True)
    for stream in filter(None, (sys.stdout, sys.stderr)):  # None where the descriptor was closed from the start
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return code
