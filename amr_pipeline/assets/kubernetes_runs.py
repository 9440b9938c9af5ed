"""Runs as jobs of Kubernetes, none of which counts as lost while Kubernetes cannot be asked.

Dagster's own launcher says of a job that it could not look up what it says of one that is gone, and the monitoring
daemon fails both: a restart of the API server would fail every run, and start each again beside its living pod.

Does not belong here: what the job of a run is made of (`k8s/base/dagster_instance.yaml`), and runs that are no jobs
(`lost_runs`).
"""

import dagster as dg
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus
from dagster_k8s import K8sRunLauncher
from dagster_k8s.job import get_job_name_from_run_id


class AskingRunLauncher(K8sRunLauncher):
    """`dagster_k8s`'s launcher, able to tell a job that is gone from one that cannot be asked about."""

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """What the run's job says; UNKNOWN only where there is none.

        Raises:
            Exception: Kubernetes does not answer, or refuses to; the monitoring daemon shows it, leaves the run as it
                is, and asks again at its next poll.
        """
        found = super().check_run_worker_health(run)
        if found.status is not WorkerStatus.UNKNOWN:
            return found
        name = get_job_name_from_run_id(run.run_id, resume_attempt_number=self._get_resume_attempt_number(run))
        namespace = self.get_container_context_for_run(run).namespace or self.job_namespace
        # Without pauses: the question above has had its own, and other runs wait for this one's answer.
        job = self._api_client.get_job_status(job_name=name, namespace=namespace, wait_time_between_attempts=0)
        return found if job is None else CheckRunHealthResult(WorkerStatus.RUNNING)
