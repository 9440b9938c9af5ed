import polars as pl

from amr_pipeline.audit import agreement, audit_rows, drawn
from amr_pipeline.report.audit_page import agreement_rows, audit_page
from amr_pipeline_tests.test_audit import judged, people, texts


def test_the_page_has_a_section_per_stratum_and_runs_nothing_a_response_says():
    said = texts(9).with_columns(text=pl.lit("<script>alert(1)</script>"))
    shown = audit_page("Audit", audit_rows(drawn([judged(7, 2)]), said))
    assert "math: passed by made_up/typed" in shown
    assert "5 of 7 responses of this kind" in shown
    assert "2 of 2 responses of this kind" in shown
    assert "<script>" not in shown
    assert "constraints" not in shown, "columns that hold nothing are left out"


def test_agreement_is_laid_out_with_its_interval():
    rows = agreement_rows(agreement(people({0: "passed", 1: "failed", 2: "passed"}), judged(2, 0, 1)))[1]
    assert rows[0] == ["math", "passed", "made_up/typed", 2, 1, "0.500 (0.095 to 0.905)"]
    assert rows[1] == ["math", "undecided", "made_up/typed", 1, 0, "-"]
    assert rows[-1][0] == "all"
