import os

import pytest

from amr_pipeline.engines.machine_load import crowd


@pytest.mark.parametrize(("load", "cores", "times"), [(0.0, 2, 1.0), (6.0, 2, 4.0), (6.0, None, 7.0), (900.0, 4, 10.0)])
def test_a_machine_takes_longer_the_busier_it_is(
    load: float, cores: int | None, times: float, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert crowd() == times
