import pytest

from oodattack.data import DATASETS, GROUPS, expand
from oodattack.data.groups import GROUP_SOURCES


def test_every_member_is_a_data_set_and_every_group_has_a_source():
    for id_name, groups in GROUPS.items():
        assert id_name in DATASETS or id_name == "imagenet-200"  # of which OpenOOD publishes a list of pictures
        for group, members in groups.items():
            assert GROUP_SOURCES[group]
            assert set(members) <= set(DATASETS)
            assert len(set(members)) == len(members)
            assert id_name not in members


def test_groups_go_with_the_id_set():
    assert expand(["near"], id_name="cifar-10") == ["cifar-100", "tiny-imagenet"]
    assert expand(["near"], id_name="cifar-100") == ["cifar-10", "tiny-imagenet"]
    assert expand(["far"], id_name="imagenet") == ["inaturalist-mos", "textures", "openimage-o"]
    assert expand(["near:cifar-10"], id_name="npz:a.npz") == ["cifar-100", "tiny-imagenet"]
    assert expand(["near"], id_name="digits") == ["digits-6-9"]


def test_names_keep_their_order_and_come_once():
    assert expand(["svhn", "near", "npz:a.npz", "gaia", "near"], id_name="cifar-10") == [
        "svhn", "cifar-100", "tiny-imagenet", "npz:a.npz", "lsun-crop", "tiny-imagenet-crop", "places-mos", "textures",
    ]  # fmt: skip


def test_what_is_no_group_stands_for_itself():
    names = ["noise", "mine:far", "folder:near", "odin:images", "gq"]
    assert expand(names, id_name="npz:a.npz") == names


def test_the_table_cannot_be_changed_through_what_comes_back():
    expand(["near"], id_name="cifar-10").append("noise")
    assert expand(["near"], id_name="cifar-10") == ["cifar-100", "tiny-imagenet"]


def test_errors():
    with pytest.raises(
        ValueError, match=r"`near` must go with one of the ID sets digits, .*got 'npz:a'\. Write near:digits\."
    ):
        expand(["near"], id_name="npz:a")
    with pytest.raises(ValueError, match=r"`far:svhn` must go with one of the ID sets .*got 'svhn'"):
        expand(["far:svhn"], id_name="digits")
    with pytest.raises(ValueError, match=r"`gq:imagenet` must be one of the groups near, far, gaia, greg of imagenet"):
        expand(["gq:imagenet"], id_name="digits")
