"""The format of the images of a job: that of the ID images, or what a protocol makes."""

from typing import Any

from oodattack.data import DATASETS, Images
from oodattack.data.registry import kind_of


def look_of(name: str, beside: Images, protocol: str | None) -> dict[str, Any]:
    """What `data.load` is asked for, so that the set `name` goes with the images `beside`.

    Without a protocol their channels and size. With one its steps alone, from the pixels as stored, as for `beside`;
    but what is drawn afresh is drawn in their format.
    """
    if protocol is not None and not DATASETS[kind_of(name)].afresh:
        return {"protocol": protocol}
    return {"channels": beside.x.shape[1], "size": beside.x.shape[2]}
