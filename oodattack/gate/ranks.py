"""Scores of rows, as compact as they can be without changing any ROC curve: their ranks, in base64."""

import base64
from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from oodattack.report.record import Record

Rows = NDArray[np.float64]
WIDTHS: dict[int, str] = {16: "<u2", 32: "<u4"}
LARGEST = {width: 2**width - 1 for width in WIDTHS}


class Ranked(Record):
    """Score vectors of one detector as ranks among all of them; equal scores share a rank.

    Attributes:
        bits: of a rank, little-endian.
        rows: name of the vector -> its ranks in base64.
    """

    bits: Literal[16, 32]
    rows: dict[str, Annotated[str, Field(min_length=1)]]

    def vector(self, name: str) -> Rows:
        """The ranks of one vector, shape (N,).

        Raises:
            ValueError: no such vector, or no base64 of whole ranks.
        """
        try:
            return np.frombuffer(base64.b64decode(self.rows[name], validate=True), WIDTHS[self.bits]).astype(float)
        except (KeyError, ValueError):
            raise ValueError(f"`scores` must hold ranks of {name!r}, got something else. Write it anew.") from None


def ranked(vectors: Mapping[str, Rows]) -> Ranked:
    """Rank all score vectors of a detector together.

    Args:
        vectors: name -> shape (N,), finite.
    """
    known, ranks = np.unique(np.concatenate(list(vectors.values())), return_inverse=True)
    bits: Literal[16, 32] = 16 if len(known) <= LARGEST[16] + 1 else 32
    ends = np.cumsum([len(v) for v in vectors.values()])[:-1]
    parts = np.split(ranks.astype(WIDTHS[bits]), ends)
    words = (base64.b64encode(part.tobytes()).decode() for part in parts)
    return Ranked(bits=bits, rows=dict(zip(vectors, words, strict=True)))
