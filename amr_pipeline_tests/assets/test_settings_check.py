"""Settings that say nothing usable are found all at once, and what the findings say to do makes them well."""

import re
from pathlib import Path

import pytest

from amr_pipeline.assets.deployment import deployment_from_environment, study_of
from amr_pipeline.assets.settings_check import (
    ELSEWHERE,
    check_home,
    check_names,
    check_variables,
    study_problem,
    variables_read,
)
from amr_pipeline.report.findings import Finding
from amr_pipeline.studies.study import StudyError
from amr_pipeline_tests.assets.imported_world import ImportedWorld

REPOSITORY = Path(__file__).parent.parent.parent


def looked(environ: dict[str, str]) -> list[Finding]:
    return check_variables(environ).findings


def test_the_known_variables_are_those_of_the_code_and_of_the_manifests():
    source = (REPOSITORY / "amr_pipeline" / "assets" / "deployment.py").read_text()
    assert variables_read() == set(re.findall(r"environ\.get\(\s*\"(\w+)\"", source))
    folders = [REPOSITORY / "docker", REPOSITORY / "k8s"]
    texts = [path.read_text() for folder in folders for kind in ("*.yaml", "*.env") for path in folder.rglob(kind)]
    named = set(re.findall(r"\bAMR_[A-Z0-9_]*[A-Z0-9]\b", "\n".join(texts)))
    assert named - variables_read() - set(ELSEWHERE) == set(), "amr doctor would call these misspelt"


@pytest.mark.parametrize(
    ("name", "value", "right"),
    [
        ("AMR_MAX_ENGINES", "two", "2"),
        ("AMR_STUDY_PARAMETERS", "root", "root=x"),
        ("AMR_REGRADE_CRON", "hourly", "0 * * * *"),
        ("AMR_PRICE_PER_GPU_HOUR", "-1", "2.5"),
        ("AMR_HTTP_ENGINES", "far=ftp://x", "far=http://x/v1"),
    ],
)
def test_a_value_that_cannot_be_used_is_broken_until_it_is_corrected(name: str, value: str, right: str):
    (found,) = looked({name: value})
    assert (found.level, found.fix) == ("broken", f"correct {name}, or unset it")
    assert found.wanted
    assert [one.level for one in looked({name: right})] == ["ok"]
    assert [one.level for one in looked({})] == ["ok"]


def test_every_bad_value_is_reported_and_the_good_ones_are_used():
    settings = check_variables({"AMR_MAX_ENGINES": "two", "AMR_ENGINES_PER_MODEL": "0", "AMR_STUDY": "deepdistill"})
    assert [re.findall(r"AMR_\w+", one.fix)[0] for one in settings.findings] == [
        "AMR_MAX_ENGINES",
        "AMR_ENGINES_PER_MODEL",
    ]
    assert (settings.deployment.study, settings.deployment.max_engines) == ("deepdistill", 2)


def test_two_variables_that_need_each_other_are_told_apart():
    (found,) = looked({"AMR_BUDGET_MONEY": "5"})
    assert "AMR_BUDGET_MONEY" in found.fix
    assert looked({"AMR_BUDGET_MONEY": "5", "AMR_PRICE_PER_GPU_HOUR": "2"})[0].level == "ok"


def test_a_distiller_that_the_study_lacks_is_named_with_the_one_that_was_meant():
    study = study_of(deployment_from_environment({}))
    for variable, text, fix in (
        ("AMR_GPU_KINDS", "L4,strnog=H100", "write strong in AMR_GPU_KINDS"),
        ("AMR_PRICE_PER_GPU_HOUR", "2,r1=4", "take it out of AMR_PRICE_PER_GPU_HOUR"),
        ("AMR_TOKENS_PER_GPU_SECOND", "wek=5", "write weak in AMR_TOKENS_PER_GPU_SECOND"),
    ):
        (found,) = check_names(deployment_from_environment({variable: text}), study)
        assert (found.level, found.fix) == ("warning", fix)
        assert "weak, middle, strong" in found.wanted
    well = {"AMR_GPU_KINDS": "L4,strong=H100", "AMR_PRICE_PER_GPU_HOUR": "2,weak=1"}
    assert check_names(deployment_from_environment(well), study) == []


def test_a_misspelt_variable_is_named_with_the_one_that_was_meant():
    for wrong, right in (
        ("AMR_STUDDY", "AMR_STUDY"),
        ("AMR_MAX_ENGINE", "AMR_MAX_ENGINES"),
        ("AMR_POSTGRES_PASWORD", "AMR_POSTGRES_PASSWORD"),
        ("AMR_HTTP_KEY_FARR", "AMR_HTTP_KEY_FAR"),
    ):
        environ = {"AMR_HTTP_ENGINES": "far=http://h/v1", wrong: "canary-0123"}
        (found,) = looked(environ)
        assert (found.level, found.fix) == ("warning", f"rename it to {right}")
        assert "canary" not in str(found)
        environ.pop(wrong)
        assert [one.level for one in looked({**environ, right: "1"})] == ["ok"]
    (found,) = looked({"AMR_ENTIRELY_UNKNOWN": "1"})
    assert found.fix == "unset it"
    (found,) = looked({"AMR_HTTP_KEY_NOBODY": "1"})
    assert "AMR_HTTP_ENGINES" in found.fix


def test_a_home_that_cannot_be_written_is_broken_until_another_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    (found,) = check_home(tmp_path / "file" / "home")
    assert (found.level, "cannot be written: Not a directory" in found.found) == ("broken", True)
    assert "set AMR_HOME" in found.fix
    assert [one.level for one in check_home(tmp_path / "other" / "home")] == ["ok"]
    assert list((tmp_path / "other" / "home").iterdir()) == []


# ------------------------------------------------------------------------------------------------------------- study


def problem(study: str, parameters: str = "") -> Finding:
    deployment = deployment_from_environment({"AMR_STUDY": study, "AMR_STUDY_PARAMETERS": parameters})
    with pytest.raises(Exception) as caught:  # noqa: PT011 (whatever the file raises)
        study_of(deployment)
    return study_problem(deployment, caught.value)


def test_an_unknown_study_is_named_with_the_one_that_was_meant():
    found = problem("micor")
    assert (found.level, found.fix) == ("broken", "AMR_STUDY=micro")
    assert "wanted one of micro, deepdistill, imported" in found.found
    assert "path of your file" in problem("zzz").fix
    assert "AMR_STUDY_PARAMETERS" in problem("imported").fix


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("NUM_PASSES = 2", "NUM_PASSES = two", "NameError: name 'two' is not defined (line 19)"),
        ("NUM_SHARDS = 1", "NUM_SHARDS = 3", "num_shards is 3; wanted a power of two"),
        ("NUM_PASSES = 2", "NUM_PASSES = = 2", "SyntaxError"),
        ("from pathlib import Path", "import no_such_package", "ModuleNotFoundError"),
    ],
)
def test_a_study_file_with_an_error_is_named_with_its_line(world: ImportedWorld, before: str, after: str, said: str):
    world.change(before, after)
    found = problem(str(world.file))
    assert (found.level, said in found.found) == ("broken", True), found.found
    assert found.fix == f"correct {world.file}"
    world.change(after, before)
    assert world.study.name == "files"


def test_a_study_file_that_is_not_there_is_told_from_one_that_is_wrong(tmp_path: Path):
    assert problem(str(tmp_path / "none.py")).fix == "set AMR_STUDY to a file that exists"
    assert isinstance(StudyError("x"), ValueError)
