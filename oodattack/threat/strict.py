"""Records that refuse wrong fields in one line, from Python as from a file."""

import difflib
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ConfigDict, ValidationError

ELSEWHERE = {  # what other libraries call a field
    "alpha": "step_size",
    "epsilon": "eps",
    "iterations": "queries",
    "loss": "objective",
    "n_queries": "queries",
    "steps": "queries",
}


class Misfit(ValueError):
    """Fields that do not fit: the first complaint, with field, rule, value and remedy."""


class Strict(BaseModel):
    """A frozen record of fields that are all known and of the right type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise Misfit(self._first_complaint(error)) from None

    @classmethod
    def _first_complaint(cls, error: ValidationError) -> str:
        errors = error.errors()
        first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])  # may be one that is missing
        field = ".".join(str(part) for part in first["loc"])
        if first["type"] == "missing":
            return f"`{field}` must be given, got nothing. Add it: no field of a threat model has a default."
        if first["type"] == "extra_forbidden":
            known = [n for n in cls.model_fields if n != "name"]
            same = ELSEWHERE.get(field)
            if close := [same] if same in known else difflib.get_close_matches(field, known, n=1):
                return f"`{field}` must be a known field, got an unknown one. Did you mean `{close[0]}`?"
            remedy = "Read NAME@EPS for another radius." if field == "eps" else "Correct or drop it."
            return f"`{field}` must be a known field ({', '.join(known)}), got an unknown one. {remedy}"
        message = str(first["msg"]).removeprefix("Value error, ")
        if not field:
            return message
        if message.startswith("`"):  # a record in this one has said what is wrong with it
            return f"{field}: {message}"
        _, should, rest = message.partition(" should ")  # pydantic: "Input should be greater than 0"
        rule = f"must {rest}" if should else message if message.startswith("must") else f"must be right: {message}"
        return f"`{field}` {rule}, got {first['input']!r}. Correct the field."


Kind = TypeVar("Kind", bound=Strict)


def validated(record: Kind) -> Kind:
    """A record whose fields, and those of records in it, have been looked at again: `model_copy` looks at none.

    Raises:
        Misfit: one does not fit.
    """
    return cast(Kind, _rebuilt(record))


def _rebuilt(value: object) -> object:
    if isinstance(value, Strict):
        return type(value)(**{field: _rebuilt(own) for field, own in vars(value).items()})
    return tuple(map(_rebuilt, value)) if isinstance(value, tuple) else value
