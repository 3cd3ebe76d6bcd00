"""Runs a stage in a pod of RTP_IMAGE; needs the provider `apache-airflow-providers-cncf-kubernetes`."""

from __future__ import annotations

import os

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from kubernetes.client import ApiException
from kubernetes.client import models as k8s

from rtp_tasks.settings import ADDRESSES, names, present, required, setting
from rtp_tasks.status import Stage

#: How many of the log's last lines are read for the summary and for alerts.
KEPT = 200


class Operator(Stage, KubernetesPodOperator):
    """A KubernetesPodOperator that keeps rtp's exit statuses apart.

    Passwords come from the Secrets of RTP_K8S_SECRETS, as variables of the pod; the landing folder is the volume of
    the claim RTP_K8S_LANDING_CLAIM, which all nodes that run stages must be able to mount.
    """

    def __init__(self, *, words, environment, folder=None, **arguments):
        maps, secrets = names("RTP_K8S_CONFIGMAPS"), names("RTP_K8S_SECRETS")
        claim = setting("RTP_K8S_LANDING_CLAIM", "rtp-landing")
        super().__init__(
            name=f"rtp-{arguments['task_id'].replace('_', '-')}",
            namespace=os.environ.get("RTP_K8S_NAMESPACE"),
            service_account_name=os.environ.get("RTP_K8S_SERVICE_ACCOUNT"),
            automount_service_account_token=False,
            image=required("RTP_IMAGE"),
            arguments=words,
            env_vars={**present(ADDRESSES), **environment},
            env_from=[
                *(k8s.V1EnvFromSource(config_map_ref=k8s.V1ConfigMapEnvSource(name=name)) for name in maps),
                *(k8s.V1EnvFromSource(secret_ref=k8s.V1SecretEnvSource(name=name)) for name in secrets),
            ],
            volumes=[
                k8s.V1Volume(name="landing", persistent_volume_claim=k8s.V1PersistentVolumeClaimVolumeSource(claim_name=claim)),
                k8s.V1Volume(name="tmp", empty_dir=k8s.V1EmptyDirVolumeSource()),
            ],
            volume_mounts=[
                k8s.V1VolumeMount(name="landing", mount_path="/landing"),
                k8s.V1VolumeMount(name="tmp", mount_path="/tmp"),
            ],
            security_context=k8s.V1PodSecurityContext(
                run_as_non_root=True,
                run_as_user=65532,
                fs_group=65532,
                seccomp_profile=k8s.V1SeccompProfile(type="RuntimeDefault"),
            ),
            container_security_context=k8s.V1SecurityContext(
                allow_privilege_escalation=False,
                read_only_root_filesystem=True,
                capabilities=k8s.V1Capabilities(drop=["ALL"]),
            ),
            deferrable=False,
            log_pod_spec_on_failure=False,
            do_xcom_push=False,  # that would add a sidecar; Stage pushes the summary itself
            **arguments,
        )
        self.ended = None

    def execute(self, context):
        self.ended = None
        try:
            super().execute(context)
        except Exception:
            # What is raised before rtp has ended, such as for a pod that cannot start, is passed on.
            if self.ended is None:
                raise
        if self.ended is None:
            raise RuntimeError("the pod ended, but rtp's exit status is unknown")
        self.conclude(context, *self.ended)

    def cleanup(self, pod, remote_pod, **arguments):
        """Saves the exit status and the last lines before the pod is deleted."""
        self.ended = self.ending(remote_pod)
        super().cleanup(pod, remote_pod, **arguments)

    def ending(self, pod):
        statuses = (pod.status.container_statuses if pod and pod.status else None) or []
        for one in statuses:
            if one.name == self.base_container_name and one.state and one.state.terminated:
                return one.state.terminated.exit_code, self.lines(pod)
        return None

    def lines(self, pod):
        where = {"name": pod.metadata.name, "namespace": pod.metadata.namespace, "container": self.base_container_name}
        try:
            return self.client.read_namespaced_pod_log(**where, tail_lines=KEPT).splitlines()
        except ApiException as error:
            # The exit status is enough to conclude the task.
            self.log.warning("cannot read the log of pod %s: %s", pod.metadata.name, error.reason)
            return []
