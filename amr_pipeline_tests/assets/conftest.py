from pathlib import Path

import pytest

from amr_pipeline_tests.assets.imported_world import ImportedWorld


@pytest.fixture
def world(tmp_path: Path) -> ImportedWorld:
    """Three questions with two responses each, by two distillers; nothing is materialized."""
    made = ImportedWorld(tmp_path)
    made.ask("Who first?", "Who second?", "Who third?")
    made.answer("one", {"Who first?": ["a", "a, b"], "Who second?": ["c", "d"], "Who third?": ["e, f", "g"]})
    made.answer("two", {"Who first?": ["h", "i"], "Who second?": ["j, k", "l, m"], "Who third?": ["n", "o, p"]})
    return made
