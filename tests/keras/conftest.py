"""SavedModels that several test files ask."""

import pytest
from served_flows import Served


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    made = {}

    def get(name):
        if name not in made:
            made[name] = Served(name, tmp_path_factory.mktemp("served") / "1")
        return made[name]

    return get
