"""The code location: assembly only. Rows come from the study, the deployment from the environment."""

import warnings

import dagster as dg

# Dagster marks stable-in-practice parameters (backfill policies, pools) as beta on every decorated asset.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
warnings.filterwarnings("ignore", category=dg.PreviewWarning)

from amr_pipeline.assets.assembly import assemble  # noqa: E402 (after the filters above)
from amr_pipeline.assets.deployment import deployment_from_environment  # noqa: E402 (after the filters above)

defs = assemble(deployment_from_environment())
