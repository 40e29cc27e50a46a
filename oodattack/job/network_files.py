"""The files of a trained network: its weights, and beside them its record, its curve and digests of its images."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile

from oodattack.job.ask import Training
from oodattack.job.seen import Seen, write_seen
from oodattack.train import Trained, curve_png, write_network
from oodattack.train.files import weights_of
from oodattack.whole_file import replace_file


def check_out(out: Path) -> Path:
    """Raise ValueError unless a .safetensors file can be written there; better now than after hours.

    Returns:
        The folder above that there is already.
    """
    if out.suffix != ".safetensors":
        raise ValueError(f"`--out` must end in .safetensors, got {str(out)!r}. Rename it.")
    folder = next(place for place in out.absolute().parents if place.exists())  # others are made with it
    try:
        if out.is_dir():
            raise IsADirectoryError(0, "Is a directory")
        TemporaryFile(dir=folder).close()
    except OSError as error:
        raise not_writable(out, error) from None
    return folder


def write(asked: Training, done: Trained, shared: Sequence[tuple[str, str, int]], seen: Seen) -> list[str]:
    """Weights, record and curve into files beside one another; returns what to say about them."""
    origin = {"id": asked.id, "aux": asked.aux, "protocol": asked.protocol}
    record = {**origin, "weights": asked.weights and str(asked.weights), "overlaps": shared, **done.record}
    beside, picture = asked.out.with_suffix(".json"), asked.out.with_suffix(".png")
    try:
        write_network(asked.out, weights_of(done.network), record | {"seen": write_seen(asked.out, seen)})
        try:
            replace_file(picture, curve_png(done.record["curve"]))
            notes = [f"{beside}: what it is, and its training curve. {picture}: the curve as a picture"]
        except ModuleNotFoundError:
            notes = [f"{beside}: what it is, and its training curve. The extra `plots` (matplotlib) would draw it"]
    except OSError as error:
        raise not_writable(asked.out, error) from None
    return notes + ([f"Its score: {record['outlier_class']}"] if record["outlier_class"] else [])


def not_writable(out: Path, error: OSError) -> ValueError:
    """The error for an output that cannot be written."""
    return ValueError(f"`--out` must be writable, got {str(out)!r}: {error.strerror}. Choose another.")
