"""One request to a server that scores images, and its answer. The standard library, and nothing to be executed."""

import io
import json
import math
from urllib.error import HTTPError
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPSHandler,
    OpenerDirector,
    Request,
)

import numpy as np
from torch import Tensor


class ScorerError(ValueError):
    """An address that does not answer with scores; the message says what it does instead, and what to do."""


def npy(x: Tensor) -> bytes:
    """Images as an .npy file, float32."""
    file = io.BytesIO()
    np.save(file, x.cpu().float().numpy(), allow_pickle=False)
    return file.getvalue()


def post(url: str, body: bytes, *, timeout: float, most: int) -> bytes:
    """The answer to one request, of `most` bytes.

    Raises:
        HTTPError: any status but 2xx, redirects among them.
        OSError: no answer.
        ScorerError: a longer answer.
    """
    opener = OpenerDirector()
    for handler in (HTTPHandler(), HTTPSHandler(), HTTPDefaultErrorHandler(), HTTPErrorProcessor()):
        opener.add_handler(handler)
    headers = {"Content-Type": "application/x-npy", "Accept": "application/json"}
    try:
        with opener.open(Request(url, data=body, headers=headers, method="POST"), timeout=timeout) as response:
            answer: bytes = response.read(most + 1)
    except HTTPError:
        raise
    except Exception as error:  # http.client has errors of its own for what no server should say
        raise error if isinstance(error, OSError) else ConnectionError(f"{type(error).__name__}: {error}") from error
    if len(answer) > most:
        raise ScorerError(f"{url} must answer with one number a row, got more than {most} bytes. Correct the server.")
    return answer


def read_scores(answer: bytes, n: int, url: str) -> list[float]:
    """The n scores of an answer.

    Raises:
        ScorerError: anything else.
    """
    try:
        found = json.loads(answer, parse_int=float)
    except (ValueError, RecursionError):
        raise ScorerError(f"{url} must answer in JSON, got {short(answer)}. Correct the server.") from None
    scores = found.get("scores") if isinstance(found, dict) else None
    if not isinstance(scores, list):
        raise ScorerError(f'{url} must answer {{"scores": [...]}}, got {short(answer)}. Correct the server.')
    if len(scores) != n:
        raise ScorerError(f"{url} must answer with one score a row, {n}, got {len(scores)}. Correct the server.")
    bad = [s for s in scores if isinstance(s, bool) or not isinstance(s, int | float) or not math.isfinite(s)]
    if bad:
        raise ScorerError(
            f"{url} must answer with finite numbers, got {short(repr(bad[0]).encode())}. Correct the server."
        )
    return [float(s) for s in scores]


def short(answer: bytes) -> str:
    """The beginning of an answer, in quotes."""
    return repr(answer[:40].decode(errors="replace"))
