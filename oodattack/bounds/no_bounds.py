"""The error of a detector or network that has no bounds."""


class NoBounds(ValueError):
    """Nothing can be certified; the message says which detector or layer it is due to."""
