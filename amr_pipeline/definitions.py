"""The code location: assembly only. Rows come from the study, the deployment from the environment."""

import gc
import warnings

import dagster as dg

# Dagster marks stable-in-practice parameters (backfill policies, pools) as beta on every decorated asset.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
warnings.filterwarnings("ignore", category=dg.PreviewWarning)

# Each run is a process that loads this. Half a million objects come and nearly all stay; looking for garbage among
# them, now and whenever the run looks again, was a sixth of what a run costs that has nothing to do.
_looked_for_garbage = gc.isenabled()
gc.disable()
try:
    from amr_pipeline.assets.assembly import assemble
    from amr_pipeline.assets.deployment import deployment_from_environment

    defs = assemble(deployment_from_environment())
finally:
    gc.freeze()
    if _looked_for_garbage:
        gc.enable()
