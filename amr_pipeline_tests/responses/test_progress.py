from amr_pipeline.responses.progress import Progress


def test_lines_come_at_most_every_five_seconds_and_at_the_end():
    now, said = [0.0], []
    progress = Progress(total=4, what="responses", say=said.append, clock=lambda: now[0])
    progress.add(1, 100)
    assert said == []
    now[0] = 10.0
    progress.add(1, 100)
    assert said == ["responses: 2/4 (50 %), 0.1/s, 10 tokens/s, 20 s left"]
    progress.add(2)
    assert said[-1].startswith("responses: 4/4 (100 %)")


def test_the_start_of_an_engine_does_not_count_in_the_rate():
    now, said = [0.0], []
    progress = Progress(total=4, what="responses", say=said.append, clock=lambda: now[0])
    now[0] = 30.0
    progress.add(1, 100)
    now[0] = 40.0
    progress.add(1, 100)
    assert said == ["responses: 1/4 (25 %)", "responses: 2/4 (50 %), 0.1/s, 10 tokens/s, 20 s left"]


def test_a_line_ends_with_what_stands_beside_it_when_it_is_said():
    beside, said = ["1 engine"], []
    progress = Progress(total=2, what="responses", say=said.append, beside=lambda: beside[0], clock=lambda: 1.0)
    progress.add(2)
    beside[0] = ""
    progress.add(0)
    assert said[0].endswith(" (1 engine)")
    assert not said[1].endswith(")")


def test_what_comes_all_at_once_is_measured_from_the_start():
    now, said = [0.0], []
    progress = Progress(total=4, what="pieces", say=said.append, clock=lambda: now[0])
    now[0] = 2.0
    progress.add(4)
    assert said == ["pieces: 4/4 (100 %), 2.0/s"]
