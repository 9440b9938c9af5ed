"""Whether tables can be kept where the deployment says: a small file is written, written again, and removed.

Belongs here: what storage must be able to do, tried out. Does not belong here: tables (`tables_on_disk`).
"""

import time
import uuid
from collections.abc import Callable, Mapping

import fsspec
from botocore.exceptions import BotoCoreError, ClientError

from amr_pipeline.engines.storage import Storage, open_storage
from amr_pipeline.report.findings import Finding, broken, ok, warning

CHECK, CLOCK = "storage", "clock"
SKEW_WARNED, SKEW_REFUSED = 60.0, 15 * 60.0
"""Seconds between this clock and the store's: S3 refuses requests from 15 minutes on."""

_PATIENCE = {"config_kwargs": {"retries": {"max_attempts": 1}, "connect_timeout": 3, "read_timeout": 5}}
_CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
_SYNCHRONIZE = "synchronize this machine's clock and the store's: timedatectl set-ntp true"


def check_storage(
    root: str,
    options: Mapping[str, object],
    *,
    now: Callable[[], float] = time.time,
    opened: Callable[[str, Mapping[str, object]], Storage] = open_storage,
) -> list[Finding]:
    """Reach the store, find its bucket, write, write conditionally, read, list, delete, and compare clocks.

    Args:
        root: folder or address of the tables.
        options: as the table store passes them to fsspec.
        now: this machine's clock.
        opened: what opens the storage.
    """
    is_s3 = root.startswith("s3://")
    try:
        if is_s3 and (missing := _missing_bucket(root, options)):
            return [missing]
        return _tried(root, opened(root, {**options, **_PATIENCE} if is_s3 else options), now)
    except (OSError, BotoCoreError, ClientError, ImportError, ValueError) as error:
        return [_failure(root, options, error)]


def _missing_bucket(root: str, options: Mapping[str, object]) -> Finding | None:
    """Some stores make a bucket by themselves at the first write, by whatever name; so it is asked for."""
    files = fsspec.filesystem("s3", **{**options, **_PATIENCE})
    bucket = root.removeprefix("s3://").split("/")[0]
    try:
        files.call_s3("head_bucket", Bucket=bucket)
    except FileNotFoundError:
        endpoint = options.get("endpoint_url")
        address = f" --endpoint-url {endpoint}" if endpoint else ""
        return broken(
            CHECK,
            f"the store has no bucket {bucket!r}",
            wanted=f"a bucket for {root}",
            fix=f"aws s3api create-bucket --bucket {bucket}{address}, or name another in AMR_STORAGE",
        )
    return None


def _tried(root: str, files: Storage, now: Callable[[], float]) -> list[Finding]:
    name = f".doctor-{uuid.uuid4().hex}"
    try:
        won = [files.create(name, b"first"), files.create(name, b"second")]
        kept, begun = files.read(name), now()
        written_at = files.names("").get(name)
    finally:
        files.remove(name)
    if won != [True, False] or kept != b"first":
        return [
            broken(
                CHECK,
                f"{root}: a file that existed was written again by a conditional write",
                wanted="a store that honours If-None-Match: *, as AWS S3, MinIO and SeaweedFS do",
                fix="upgrade the store, or point AMR_STORAGE at another; here two runs could overwrite each other",
            )
        ]
    return [ok(CHECK, f"{root}: written, refused a second time, read, listed, deleted"), _clock(begun, written_at)]


def _clock(begun: float, written_at: float | None) -> Finding:
    skew = 0.0 if not written_at else begun - written_at
    if abs(skew) < SKEW_WARNED:
        return ok(CLOCK, "this machine and the store agree within a minute")
    said = f"this machine is {abs(skew):,.0f} s {'ahead of' if skew > 0 else 'behind'} the store"
    wanted = "less than a minute: files are deleted by their age, and S3 refuses requests at 15 minutes"
    severity = broken if abs(skew) >= SKEW_REFUSED else warning
    return severity(CLOCK, said, wanted=wanted, fix=_SYNCHRONIZE)


def _failure(root: str, options: Mapping[str, object], error: Exception) -> Finding:
    said, endpoint = str(error) or type(error).__name__, options.get("endpoint_url") or "the provider's endpoint"
    names = {kind.__name__ for kind in type(error).__mro__}
    if "RequestTimeTooSkewed" in said or "difference between the request time" in said:
        return broken(CLOCK, f"the store refuses this machine's time: {said}", wanted="equal clocks", fix=_SYNCHRONIZE)
    if names & {"NoCredentialsError", "PartialCredentialsError"}:
        return broken(CHECK, f"{root}: {said}", wanted="credentials of the store", fix=_CREDENTIALS)
    if names & {"EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "HTTPClientError"}:
        return broken(
            CHECK,
            f"nothing answers at {endpoint}",
            wanted=f"an S3 store that holds {root}",
            fix="start the store, or set AMR_S3_ENDPOINT to where it is",
        )
    if isinstance(error, PermissionError) and root.startswith("s3://"):
        return broken(
            CHECK,
            f"{endpoint} refuses: {said}",
            wanted="credentials that may read, write, list and delete there",
            fix=f"{_CREDENTIALS} of such a user",
        )
    return broken(
        CHECK,
        f"{root}: {said}",
        wanted="a place where files can be made that must not exist yet (hard links on a folder)",
        fix="make the folder writable, or set AMR_STORAGE to another place",
    )
