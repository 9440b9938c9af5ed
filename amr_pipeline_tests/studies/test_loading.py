"""A study is found by name or by path, and every way to miss it says what to do."""

import pytest

from amr_pipeline.studies.loading import SHIPPED, load_study
from amr_pipeline.studies.study import Study, StudyError

SMALL = "from amr_pipeline_tests.studies.small import small_study\n"


def written(folder, text):
    path = folder / "mine.py"
    path.write_text(SMALL + text)
    return str(path)


def test_the_default_is_a_module_of_the_package():
    study = load_study("micro", {})
    assert isinstance(study, Study)
    assert study.name == "micro"


def test_a_users_file_with_a_study(tmp_path):
    assert load_study(written(tmp_path, "STUDY = small_study(title='Mine')"), {}).title == "Mine"


def test_a_users_file_that_takes_parameters(tmp_path):
    path = written(tmp_path, "def study(parameters): return small_study(title=parameters['title'])")
    assert load_study(path, {"title": "Given"}).title == "Given"


def test_a_relative_path(tmp_path, monkeypatch):
    written(tmp_path, "STUDY = small_study()")
    monkeypatch.chdir(tmp_path)
    assert load_study("mine.py", {}).name == "small"


def test_a_file_is_read_anew_each_time(tmp_path):
    load_study(written(tmp_path, "STUDY = small_study(title='One')"), {})
    assert load_study(written(tmp_path, "STUDY = small_study(title='Second')"), {}).title == "Second"


@pytest.mark.parametrize("name", ["absent", "micro/", "../micro", "micro.micro_weights", "", "a b", "os"])
def test_an_unknown_name_lists_what_there_is(name):
    with pytest.raises(StudyError, match=f"wanted one of {', '.join(SHIPPED)}, or the path of a file"):
        load_study(name, {})


def test_a_missing_file_says_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StudyError, match=r"study file absent\.py does not exist \(looked in "):
        load_study("absent.py", {})


def test_a_module_that_is_no_study_says_what_is_missing():
    with pytest.raises(StudyError, match="'contradictions' defines neither STUDY nor study"):
        load_study("contradictions", {})


def test_something_else_called_study_is_refused(tmp_path):
    with pytest.raises(StudyError, match="gives a dict; wanted a Study"):
        load_study(written(tmp_path, "STUDY = {}"), {})


def test_parameters_that_would_be_ignored_are_an_error(tmp_path):
    with pytest.raises(StudyError, match=r"takes no parameters, found \['title'\]"):
        load_study(written(tmp_path, "STUDY = small_study()"), {"title": "Given"})


def test_contradictions_and_mistakes_in_the_file_come_through(tmp_path):
    with pytest.raises(StudyError, match="num_shards is 3"):
        load_study(written(tmp_path, "STUDY = small_study(num_shards=3)"), {})
    with pytest.raises(NameError, match="misspelt"):
        load_study(written(tmp_path, "STUDY = misspelt()"), {})
