from amr_pipeline.report.findings import broken, findings_json, findings_text, is_broken, ok, warning, without_secrets

FINDINGS = [
    ok("home", "all is well"),
    warning("disk", "little", wanted="more", fix="make room"),
    broken("storage", "gone \x1b[31m\x07", wanted="there", fix="start it"),
]


def test_a_finding_is_a_line_with_what_was_wanted_and_what_to_do_below_it():
    assert findings_text(FINDINGS).splitlines() == [
        "ok       home     all is well",
        "warning  disk     little",
        "                  wanted: more",
        "                  do: make room",
        "broken   storage  gone",
        "                  wanted: there",
        "                  do: start it",
        "",
        "1 ok, 1 warning, 1 broken",
    ]
    assert [is_broken(FINDINGS), is_broken(FINDINGS[:2])] == [True, False]
    assert findings_json(FINDINGS)[1] == {
        **{"check": "disk", "level": "warning", "found": "little"},
        **{"wanted": "more", "fix": "make room"},
    }


def test_no_secret_is_in_any_part_of_a_finding():
    environ = {
        "AMR_HTTP_KEY_FAR": "sk-canary-1",
        "AWS_SECRET_ACCESS_KEY": "aws-canary-2",
        "AMR_POSTGRES_PASSWORD": "pg-canary-3",
        "MLFLOW_TRACKING_URI": "postgresql://mlflow:p%40ss-canary-4@db/mlflow",
        "AMR_ALERT_URL": "https://chat.example/T0/canary-5",
        "AMR_BUDGET_TOKENS": "1000000",
        "SHORT_KEY": "abc",
    }
    told = "https://chat.example/T0/canary-5 sk-canary-1 aws-canary-2 pg-canary-3 p%40ss-canary-4 p@ss-canary-4 postgresql://mlflow:p%40ss-canary-4@db/m"
    (found,) = without_secrets([broken("x", told, wanted=told, fix=f"{told} abc 1000000")], environ)
    for text in (found.found, found.wanted, found.fix):
        assert "canary" not in text
        assert text.endswith("postgresql://db/m") or "postgresql://db/m abc 1000000" in text
    assert "abc 1000000" in found.fix, "budgets are no tokens, and short words are no secrets"
