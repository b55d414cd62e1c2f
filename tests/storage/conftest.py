"""An object store with weather."""

from collections.abc import Iterator

import pytest

from tests.storage.object_store import ObjectStore, serving


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    pytest.importorskip("moto.server", reason="needs moto[s3]")
    pytest.importorskip("s3fs", reason="needs the extra data")
    with serving(monkeypatch) as store:
        yield store
