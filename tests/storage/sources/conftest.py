"""One way to read a whole source."""

from typing import Any

import pytest

from storage.sources.parts import PART_BYTES, parts, read


@pytest.fixture(scope="session")
def survey():
    """Read what a path names, part by part, with the settings of `read`."""

    def read_parts(path: object, part_bytes: int = PART_BYTES, **settings: Any) -> list[Any]:
        return [item for part in parts([str(path)], part_bytes) for item in read(part, **settings)]

    return read_parts
