"""A score behind an address: what it answers is all that is known of it, so attacks on it are black-box by nature.

Request: POST, content type `application/x-npy`, body an .npy file, float32, shape (B, C, H, W), values in [0, 1].
Answer: JSON `{"scores": [s_1, ..., s_B]}`, finite numbers, higher means more OOD.
"""

import math
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.error import HTTPError
from urllib.parse import parse_qsl, urldefrag, urlsplit

import torch
from torch import Tensor

from oodattack.adapters.http_wire import ScorerError, npy, post, read_scores

SCHEMES = ("http", "https")
NUMBERS = {"budget": int, "retries": int, "timeout": float, "rows": int}  # what may follow the # of an address
A_SCORE, THE_REST = 64, 4096  # bytes of an answer
LONGEST = 30.0  # seconds between two tries


@dataclass(eq=False)
class HttpScorer:
    """Scores images by asking a server; without a gradient. Talks to the named host alone: no proxy, no redirect.

    Args:
        url: http or https address that takes the requests.
        budget: images that it may be sent, > 0; a request that is tried again counts once.
        retries: how often a request is tried again after a broken connection or a server's error (5xx).
        timeout: seconds to wait for the next byte of an answer.
        pause: seconds before the first of these tries, doubled before each one after it.
        rows: images in a request, at most.

    Raises:
        ValueError: an address of another kind, or numbers out of range.
    """

    url: str
    budget: int = field(kw_only=True)
    retries: int = field(default=5, kw_only=True)
    timeout: float = field(default=60.0, kw_only=True)
    pause: float = field(default=0.5, kw_only=True)
    rows: int = field(default=256, kw_only=True)
    spent: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        """Check what was given."""
        parts = urlsplit(self.url)
        if parts.scheme not in SCHEMES or not parts.hostname or parts.username is not None or parts.fragment:
            raise ValueError(f"`url` must read http://host:port/path, without a user, got {self.url!r}. Correct it.")
        for name in ("budget", "timeout", "rows"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"`{name}` must be > 0, got {getattr(self, name)}. Change it.")
        if self.retries < 0:
            raise ValueError(f"`retries` must be >= 0, got {self.retries}. Change it.")
        self.name = parts.hostname.replace(".", "-")

    def __call__(self, x: Tensor) -> Tensor:
        """Scores, shape (B,), float64 where the device has it.

        Raises:
            ScorerError: the budget is spent, or the answer is none.
            RuntimeError: a gradient is asked for.
        """
        if torch.is_grad_enabled() and x.requires_grad:
            raise RuntimeError(f"{self.url} has no gradient")  # at once: looking for one must not cost a request
        scores = [s for block in x.detach().split(self.rows) for s in self._block(block)]
        kind = torch.float32 if x.device.type == "mps" else torch.float64
        return torch.tensor(scores, dtype=kind, device=x.device)

    def _block(self, x: Tensor) -> list[float]:
        """Scores of one request."""
        if self.spent + len(x) > self.budget:
            raise ScorerError(
                f"`budget` of {self.budget} images is spent. A new start, such as --resume, has it again."
            )
        answer = self._answer(npy(x), most=THE_REST + A_SCORE * len(x))
        self.spent += len(x)
        return read_scores(answer, len(x), self.url)

    def _answer(self, body: bytes, *, most: int) -> bytes:
        """What the server answers, after as many tries as it takes and is allowed."""
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(min(self.pause * 2 ** (attempt - 1), LONGEST))
            try:
                return post(self.url, body, timeout=self.timeout, most=most)
            except HTTPError as error:
                why = f"{error.code} {error.reason}"
                error.close()
                if error.code < 500:
                    moved = f" to {error.headers['Location']}" if "Location" in error.headers else ""
                    raise ScorerError(
                        f"{self.url} must answer with scores, got {why}{moved}. Check the address."
                    ) from None
            except OSError as error:  # refused, reset, timed out
                why = str(getattr(error, "reason", error)) or type(error).__name__
        tries = f"{self.retries + 1} tries" if self.retries else "one try"
        raise ScorerError(f"{self.url} must answer, got {why} after {tries}. Start the server or check the address.")


def is_address(source: str) -> bool:
    """Whether a word of the command line is the address of a scorer."""
    return urlsplit(source).scheme in SCHEMES and "://" in source


def scorer_at(source: str) -> HttpScorer:
    """The scorer of "http://host:port/path#budget=200000", where &retries=, &timeout= and &rows= may follow.

    Raises:
        ValueError: no budget, or something else after the #.
    """
    url, after = urldefrag(source)
    options: dict[str, Any] = {}
    for key, value in parse_qsl(after, keep_blank_values=True):
        if key not in NUMBERS:
            raise ValueError(f"`--detector` {url} may have {', '.join(NUMBERS)} after a #, got {key!r}. Correct it.")
        try:
            options[key] = NUMBERS[key](value)
        except ValueError:
            raise ValueError(f"`--detector` {url}: {key} must be a number, got {value!r}. Correct it.") from None
    if "budget" not in options:
        raise ValueError(
            f"`--detector` {url} must say how many images it may be sent, got no budget. Add #budget=200000."
        )
    return HttpScorer(url, **options)
