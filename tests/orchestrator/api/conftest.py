"""What the tests of the Python API share."""

import pytest


@pytest.fixture(scope="session")
def quick():
    """Options under which a restoration takes a second: one level, two steps, tiles of 32 px."""
    return {"tile": 32, "stride": 16, "levels": 1, "steps": 2, "intent": "detail"}
