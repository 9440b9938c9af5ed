from amr_pipeline.assets.evaluation import best_of_sweep


def row(name: str, rate: float, benchmark: str, mean: float, sweep: str | None = "rates") -> dict[str, object]:
    return {"training_recipe": name, "sweep": sweep, "learning_rate": rate, "benchmark": benchmark, "mean": mean}


def test_the_best_run_of_a_sweep_has_the_highest_mean_over_benchmarks():
    rows = [row("low", 1e-5, "a", 0.5), row("low", 1e-5, "b", 0.1), row("high", 1e-4, "a", 0.2)]
    rows += [row("high", 1e-4, "b", 0.6), row("elsewhere", 1e-4, "a", 0.9, "other"), row("alone", 1.0, "a", 1.0, None)]
    assert best_of_sweep(rows, "rates") == ("high", {"a": 0.2, "b": 0.6})


def test_of_equal_runs_the_lowest_rate_is_the_best():
    rows = [row("high", 1e-4, "a", 0.5), row("low", 1e-5, "a", 0.5), row("worse", 1e-6, "a", 0.4)]
    assert best_of_sweep(rows, "rates")[0] == "low"
