import sys

import pytest
from small_run import RUN, fill

from oodattack.cli import main
from oodattack.runs.journal import Journal


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with what a run needs, and the current one."""
    fill(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("OODATTACK_CACHE", str(tmp_path / "cache"))
    yield tmp_path
    sys.modules.pop("mine", None)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A folder where the run has been finished; to be copied, not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    fill(folder)
    written = []
    with pytest.MonkeyPatch.context() as patch:
        write = Journal.write
        patch.setattr(Journal, "write", lambda self, key, found: (written.append(key), write(self, key, found)))
        patch.chdir(folder)
        patch.setattr(sys, "path", [entry for entry in sys.path if entry])
        patch.setattr(sys, "dont_write_bytecode", True)
        patch.setattr(sys, "argv", ["oodattack", *RUN])
        assert main(RUN) == 0
    sys.modules.pop("mine", None)
    (folder / "blocks").write_text(str(len(written)))
    return folder
