"""Chapter 4: verdicts.

`verifier` says what a verdict is; one module per category judges; `judging` asks judge models; `ledger` is the
arithmetic of verdict rows; `registry` holds one line per row type and the verifiers' fingerprints.
"""
