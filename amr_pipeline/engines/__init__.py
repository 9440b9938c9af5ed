"""Everything that knows Ray, vLLM, torch, DeepSpeed, MLflow or S3. Plain values in, plain values out.

Importing this package sets what Ray's native code reads only once, when it is first imported: a private cluster
has token authentication with a token of its own. A deployment that sets these variables itself is left alone.
"""

import os
import secrets

os.environ.setdefault("RAY_AUTH_MODE", "token")
if "RAY_AUTH_TOKEN_PATH" not in os.environ:
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Workers keep what the driver sees of accelerators; without it Ray warns that a future version will.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
# Ray would otherwise hide metrics setup errors behind retries at start-up; nothing here reads its metrics.
os.environ.setdefault("RAY_enable_metrics_collection", "0")
