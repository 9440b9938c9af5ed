"""Difficulty-graded reasoning data, as a pipeline told in order.

sources -> queries -> responses -> verdicts -> difficulty -> subsets -> training -> evaluation -> release

Each chapter is arithmetic on frames and strings and imports earlier chapters and the vocabulary (`categories`,
`tables`, `fingerprint`, `worklist`, `studies`) only. `engines/` alone knows Ray, vLLM, torch, DeepSpeed, MLflow and
S3; `assets/` and `definitions` alone know Dagster. import-linter holds both lines.
"""
