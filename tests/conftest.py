"""What the tests of several folders share."""

import pytest
from hub_server import HubServer


@pytest.fixture
def hub():
    """A Hub of its own on loopback, which takes large files by LFS."""
    with HubServer() as server:
        yield server


@pytest.fixture
def xet_hub(tmp_path):
    """The same with Xet storage."""
    with HubServer(tmp_path / "xet") as server:
        yield server
