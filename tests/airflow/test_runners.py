"""Containers and pods: same arguments, no visible secrets, same results. With stand-ins for Docker and Kubernetes."""

import importlib
import json
import sys
from unittest import mock

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.exceptions import AirflowException
from conftest import DAG_IDS, DAGS
from kubernetes.client import ApiException
from kubernetes.client import models as k8s
from test_status import FAIL, RETRY, SKIP, Task, summary

SECRET = "hunter2"


@pytest.fixture(params=["docker", "kubernetes"])
def runner(request, monkeypatch):
    monkeypatch.setenv("RTP_RUNNER", request.param)
    monkeypatch.setenv("RTP_IMAGE", "registry.example/rtp:0.1.0")
    monkeypatch.setenv("RTP_EVENT_LOG", "kafka://broker:9092")
    monkeypatch.setenv("RTP_KAFKA_PASSWORD", SECRET)
    monkeypatch.setenv("API_TOKEN", SECRET)
    monkeypatch.setenv("RTP_DOCKER_ENV", "API_TOKEN")
    monkeypatch.setenv("RTP_DOCKER_MOUNTS", "landing:/landing,/etc/rtp:/etc/rtp:ro")
    monkeypatch.setenv("RTP_K8S_SECRETS", "rtp-passwords")
    monkeypatch.setenv("RTP_K8S_CONFIGMAPS", "rtp-addresses")
    return request.param


def ours():
    """The modules that read settings when they are imported."""
    return [name for name in sys.modules if name == "rtp_tasks" or name.startswith("rtp_tasks.") and name != "rtp_tasks.status"]


def forget():
    for name in ours():
        del sys.modules[name]


@pytest.fixture(autouse=True)
def modules_of_the_other_tests():
    kept = {name: sys.modules[name] for name in ours()}
    yield
    forget()
    sys.modules.update(kept)


def loaded():
    forget()
    bag = DagBag(str(DAGS))
    assert bag.import_errors == {}
    assert sorted(bag.dags) == sorted(DAG_IDS)
    return bag.dags


def test_the_words_are_those_of_the_local_tasks(runner):
    words = {
        f"{dag.dag_id}.{task.task_id}": getattr(task, "arguments", None) or task.command for dag in loaded().values() for task in dag.tasks
    }
    day = "/landing/{{ rtp_day(dag_run) }}"
    fetch = ["fetch", "--count", "1000", "--trailer", "--out", f"{day}.ndjson", "--unless-complete"]
    assert words == {
        **{f"{dag}.init": ["--quiet", "init"] for dag in DAG_IDS},
        "api_to_kafka.landing": fetch,
        "batch_to_postgres.landing": fetch,
        "api_to_kafka.api_to_kafka": ["produce", "--require-complete", f"{day}.ndjson"],
        "spark_kafka_to_cassandra.spark_kafka_to_cassandra": ["stream", "--until-end"],
        "batch_to_postgres.batch_to_postgres": ["load-batch", "--require-complete", "--rejects", f"{day}.rejects.ndjson", f"{day}.ndjson"],
        "verify.verify": ["verify"],
        "nightly_aggregates.nightly_aggregates": ["aggregate", "--date", "{{ rtp_day(dag_run) }}"],
        "cassandra_monitor.cassandra_monitor": ["heartbeat", "--once"],
    }


def test_image_environment_and_volumes_are_those_of_the_settings_and_no_secret_is_rendered(runner):
    task = loaded()["api_to_kafka"].get_task("landing")
    assert task.image == "registry.example/rtp:0.1.0"
    rendered = repr({field: getattr(task, field) for field in task.template_fields})
    assert SECRET not in rendered and "kafka://broker:9092" in rendered and "day-{{ rtp_day(dag_run) }}" in rendered
    if runner == "docker":
        assert task._private_environment == {"RTP_KAFKA_PASSWORD": SECRET, "API_TOKEN": SECRET}
        mounts = [(m["Source"], m["Target"], m["Type"], m["ReadOnly"]) for m in task.mounts]
        assert mounts == [("landing", "/landing", "volume", False), ("/etc/rtp", "/etc/rtp", "bind", True)]
    else:
        task.__dict__["hook"] = mock.Mock(get_namespace=mock.Mock(return_value="n1"), is_in_cluster=False)
        pod = task.build_pod_request_obj()
        [container] = pod.spec.containers
        assert [one.config_map_ref.name for one in container.env_from if one.config_map_ref] == ["rtp-addresses"]
        assert [one.secret_ref.name for one in container.env_from if one.secret_ref] == ["rtp-passwords"]
        assert pod.spec.security_context.run_as_non_root and container.security_context.read_only_root_filesystem
        assert {mount.mount_path for mount in container.volume_mounts} == {"/landing", "/tmp"}
        assert pod.spec.volumes[0].persistent_volume_claim.claim_name == "rtp-landing"
        assert container.command in (None, []) and not pod.spec.automount_service_account_token
        assert SECRET not in repr(pod)


def test_what_cannot_be_is_an_import_error(runner, monkeypatch):
    forget()
    monkeypatch.setenv("RTP_STREAM_ENGINE", "spark")
    errors = DagBag(str(DAGS)).import_errors
    assert len(errors) == 1 and "RTP_STREAM_ENGINE=spark needs RTP_RUNNER=local" in str(errors)
    monkeypatch.delenv("RTP_STREAM_ENGINE")
    monkeypatch.delenv("RTP_IMAGE")
    forget()
    errors = DagBag(str(DAGS)).import_errors
    assert len(errors) == len(DAG_IDS) and all("RTP_IMAGE is not set" in error for error in errors.values())


def ended_in_docker(operator, status, lines):
    operator.hook = mock.Mock()
    cli = operator.hook.api_client
    cli.images.return_value = ["it"]
    cli.create_container.return_value = {"Id": "c1"}
    cli.attach.return_value = iter([(line + "\n").encode() for line in lines])
    cli.wait.return_value = {"StatusCode": status}
    cli.inspect_container.return_value = {"State": {"ExitCode": status}}
    task = Task()
    try:
        operator.execute(task.context)
        ended = None
    except AirflowException as raised:
        ended = raised
    cli.remove_container.assert_called_once_with("c1", force=True)
    return task, ended


def ended_in_a_pod(operator, status, lines):
    terminated = k8s.V1ContainerState(terminated=k8s.V1ContainerStateTerminated(exit_code=status))
    base = k8s.V1ContainerStatus(name="base", image="i", image_id="i", ready=False, restart_count=0, state=terminated)
    phase = k8s.V1PodStatus(phase="Failed" if status else "Succeeded", container_statuses=[base])
    pod = k8s.V1Pod(metadata=k8s.V1ObjectMeta(name="p1", namespace="n1"), spec=k8s.V1PodSpec(containers=[]), status=phase)
    manager = mock.Mock()
    manager.await_pod_completion.return_value = pod
    client = mock.Mock()
    client.read_namespaced_pod_log.return_value = "\n".join(lines)
    if lines == ["unreadable"]:
        client.read_namespaced_pod_log.side_effect = ApiException(reason="gone")
    task = Task()
    deleted = mock.Mock()
    # Bypasses Airflow's way to set attributes: these would connect to a cluster.
    operator.__dict__.update(
        client=client,
        pod_manager=manager,
        get_or_create_pod=mock.Mock(return_value=pod),
        find_pod=mock.Mock(return_value=pod),
        build_pod_request_obj=mock.Mock(return_value=pod),
        await_pod_start=mock.Mock(),
        await_init_containers_completion=mock.Mock(),
        await_pod_completion=mock.Mock(),
        patch_already_checked=mock.Mock(),
        process_pod_deletion=deleted,
        is_istio_enabled=mock.Mock(return_value=False),
    )
    try:
        operator.execute(task.context)
        ended = None
    except AirflowException as raised:
        ended = raised
    assert deleted.called
    return task, ended


def stage(runner, **arguments):
    forget()
    tasks = importlib.import_module("rtp_tasks")
    operator = tasks.rtp("some_task", "produce", **arguments)
    assert type(operator).__module__ == f"rtp_tasks.{runner}"
    return operator, ended_in_docker if runner == "docker" else ended_in_a_pod


@pytest.mark.parametrize(
    ("status", "kind"), [(0, None), (1, None), (2, FAIL), (3, FAIL), (4, RETRY), (5, FAIL), (137, RETRY), (143, RETRY)]
)
def test_a_status_ends_a_task_as_it_does_on_the_worker(runner, status, kind, monkeypatch, webhook):
    monkeypatch.setenv("RTP_ALERT_URL", webhook.url)
    operator, run = stage(runner)
    error = {"level": "error", "message": "something is wrong"}
    task, ended = run(operator, status, [json.dumps(error), json.dumps(summary(exit=status))])
    assert type(ended) is (kind or type(None)), ended
    assert kind is None or str(ended).endswith("something is wrong")
    assert task.pushed.get("return_value") == summary(exit=status)
    assert len(webhook.alerts) == (status == 1)


def test_no_fails_and_nothing_to_read(runner):
    operator, run = stage(runner, no_fails=True)
    assert type(run(operator, 1, [json.dumps(summary(exit=1))])[1]) is FAIL
    operator, run = stage(runner)
    assert type(run(operator, 0, [json.dumps(summary(read=0))])[1]) is SKIP


def test_a_pod_whose_log_cannot_be_read_still_has_its_status(monkeypatch):
    monkeypatch.setenv("RTP_RUNNER", "kubernetes")
    monkeypatch.setenv("RTP_IMAGE", "i")
    operator, run = stage("kubernetes")
    _, ended = run(operator, 4, ["unreadable"])
    assert type(ended) is RETRY and "status 4" in str(ended)


def test_a_failure_before_the_start_stays_as_it_is(runner):
    operator, _ = stage(runner)
    if runner == "docker":
        operator.hook = mock.Mock()
        operator.hook.api_client.images.side_effect = ConnectionError("no daemon")
        expected = pytest.raises(ConnectionError, match="no daemon")
    else:
        operator.__dict__["build_pod_request_obj"] = mock.Mock(side_effect=ConnectionError("no cluster"))
        operator.__dict__["pod"] = operator.__dict__["pod_request_obj"] = None
        expected = pytest.raises(ConnectionError, match="no cluster")
    with expected:
        operator.execute(Task().context)
