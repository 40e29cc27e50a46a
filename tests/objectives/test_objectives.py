from oodattack import objectives
from oodattack.objectives import OBJECTIVES, SAMPLERS


def test_table_of_objectives():
    names = ["ce", "gq", "energy", "greg", "greg+", "oe", "ibp-oe", "openmix", "dos", "poem", "confident", "jem"]
    assert list(OBJECTIVES) == names
    assert all(name == row.name and row.source and row.description for name, row in OBJECTIVES.items())
    with_aux = {"energy", "greg", "greg+", "oe", "ibp-oe", "openmix", "dos", "poem"}
    assert {name for name, row in OBJECTIVES.items() if row.needs_aux} == with_aux
    assert {name: row.extra_classes for name, row in OBJECTIVES.items() if row.extra_classes} == {
        "openmix": 1,
        "dos": 1,
    }


def test_samplers_of_objectives_are_in_their_table():
    chosen = {name: row.sampler for name, row in OBJECTIVES.items() if row.sampler is not None}
    assert set(chosen.values()) <= set(SAMPLERS)
    assert chosen["greg+"] == "greg+" and chosen["dos"] == "dos"
    assert set(chosen) | {"poem"} == {name for name, row in OBJECTIVES.items() if row.needs_aux}


def test_what_the_package_offers_is_there():
    assert objectives.__all__ == sorted(
        objectives.__all__, key=lambda name: (not name.isupper(), name[0].islower(), name)
    )
    assert all(getattr(objectives, name) is not None for name in objectives.__all__)
