"""What is said of a name that is not known."""

from oodattack.lookup import unknown


def test_what_was_meant_comes_before_a_long_list():
    names = [f"name-{i}" for i in range(60)]
    listed = ", ".join(names)
    said = f"`--detector` must be one of {listed}, got 'nam-7'."
    assert str(unknown("--detector", "nam-7", names)) == f"Did you mean 'name-7'? {said}"
    said = f"`--detector` must be one of {listed}, got 'other'."
    assert str(unknown("--detector", "other", names)) == f"{said} Pick one of them."
