from amr_pipeline.engines.engine_work import EngineSettings, Work
from amr_pipeline.engines.model_folders import model_address
from amr_pipeline.engines.transformers_engine import TransformersEngine
from amr_pipeline.studies.micro import WEIGHTS

QUESTION = (("user", "What is 33-18?"),)


def test_it_writes_reads_and_judges_like_the_real_engine():
    settings = EngineSettings(
        model=model_address(WEIGHTS + "strong", None)[0], revision=None, max_model_len=256, dtype="auto"
    )
    engine = TransformersEngine(settings)
    write = Work(work_id="w", kind="write", messages=QUESTION, seed=5, temperature=0.7, max_tokens=64)
    read = Work(work_id="r", kind="read", messages=QUESTION, text="<think>")
    long = Work(work_id="l", kind="write", messages=(("user", "x" * 300),), max_tokens=9)
    judged = Work(work_id="j", kind="judge", messages=QUESTION, pattern="<", max_tokens=5)
    first, score, refused, reply = engine.exchange([write, read, long, judged], 4, 60.0).done
    assert first.text.startswith("<think>")
    assert (first.finish_reason, first.response_tokens > 5) == ("stop", True)
    assert engine.exchange([write], 1, 1.0).done[0] == first
    assert score.perplexity is not None
    assert score.perplexity > 1
    assert (refused.finish_reason, "256" in refused.text or "255" in refused.text) == ("error", True)
    assert reply.text == "<"
    assert engine.name().startswith("transformers ")
