from collections.abc import AsyncIterator

import pytest

from store.checkpoints import Saver, open_saver
from store.database import Database


@pytest.fixture
async def saver(db: Database) -> AsyncIterator[Saver]:
    async with open_saver(db) as opened:
        yield opened
