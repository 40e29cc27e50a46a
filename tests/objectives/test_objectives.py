from oodattack.objectives import OBJECTIVES


def test_table_of_objectives():
    assert list(OBJECTIVES) == ["ce", "gq", "energy", "greg", "greg+", "oe"]
    assert all(name == row.name and row.source and row.description for name, row in OBJECTIVES.items())
    assert {name for name, row in OBJECTIVES.items() if row.needs_aux} == {"energy", "greg", "greg+", "oe"}
