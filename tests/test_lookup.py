"""What is said of a name that is not known."""

from oodattack.lookup import unknown


def test_what_was_meant_comes_before_a_long_list():
    names = [f"name-{i}" for i in range(60)]
    listed = ", ".join(names)
    said = f"`--detector` must be one of {listed}, got 'nam-7'."
    assert str(unknown("--detector", "nam-7", names)) == f"Did you mean 'name-7'? {said}"
    said = f"`--detector` must be one of {listed}, got 'other'."
    assert str(unknown("--detector", "other", names)) == f"{said} Pick one of them."


def test_a_dot_where_user_code_needs_a_colon(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pkg").mkdir()
    for file in ("mine.py", "pkg/mod.py"):
        (tmp_path / file).touch()
    names = ["oe-score", "pkg.mod:callable"]
    assert str(unknown("--detector", "mine.score", names)).startswith("Did you mean 'mine:score'?")
    assert str(unknown("--detector", "pkg.mod.score", names)).startswith("Did you mean 'pkg.mod:score'?")
    assert str(unknown("--detector", "mine.py", names)).startswith("Did you mean 'mine:NAME'?")
    assert "mine:" not in str(unknown("--detector", "others.score", names))
