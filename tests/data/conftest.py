import socket

import pytest


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Data sets come from the disk: whoever opens a connection fails the test."""

    def refuse(*_args, **_kwargs):
        pytest.fail("a data set reached for the network")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    from torchvision.datasets import utils

    monkeypatch.setattr(utils, "download_url", refuse)
    monkeypatch.setattr(utils, "_urlretrieve", refuse)
