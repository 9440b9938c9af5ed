from pathlib import Path

import pytest

from amr_pipeline.assets.resources import deployment_from_environment, study_of
from amr_pipeline.studies.study import StudyError


def test_the_default_is_local_and_small():
    found = deployment_from_environment({})
    assert (found.study, found.max_engines, found.ray_address) == ("micro", 2, None)
    assert found.storage.endswith(".amr/tables")
    assert study_of(found).name == "micro"


def test_variables_are_read_and_bad_ones_refused():
    found = deployment_from_environment(
        {
            "AMR_HOME": "/x",
            "AMR_STORAGE": "s3://b/t",
            "AMR_S3_ENDPOINT": "http://h:1",
            "AMR_STUDY_PARAMETERS": "root=/d,set=math",
        }
    )
    assert found.home == Path("/x")
    assert found.storage_options == {"endpoint_url": "http://h:1"}
    assert found.study_parameters == {"root": "/d", "set": "math"}
    for bad in ({"AMR_STUDY_PARAMETERS": "root"}, {"AMR_MAX_ENGINES": "two"}, {"AMR_REGRADE_CRON": "hourly"}):
        with pytest.raises(ValueError, match="wanted"):
            deployment_from_environment(bad)
    with pytest.raises(StudyError):
        study_of(deployment_from_environment({"AMR_STUDY": "nowhere"}))
