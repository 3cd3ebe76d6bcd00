"""deploy/kubernetes: rendered by kustomize, validated against the schemas of Kubernetes and KEDA, each reference, port,
address and command compared with what it refers to, and the stages' scripts run on embedded stores and a practice API."""

import datetime
import json
import os
import re
import tomllib

import croniter
import jsonschema
import kubernetes_validate
import pytest
import yaml

from conftest import ROOT, RTP, clean_environment, closed_port, parse_command, run, tool

FOLDER = ROOT / "deploy/kubernetes"
OVERLAYS = ("dev", "production")
KEDA = json.loads((ROOT / "tests/ops/schemas/keda.json").read_text())
#: Secrets that the user of an overlay creates, according to the overlay's first lines.
MADE_BY_THE_USER = {"dev": {}, "production": {"rtp-passwords": {"kafka", "kafka-username", "cassandra", "postgres"}, "rtp-ca": {"kafka.crt", "cassandra.crt", "postgres.crt"}}}
#: The topic of the built-in dataset.
DATASET = tomllib.loads((ROOT / "schema/users.toml").read_text())


def render(name):
    text = run(os.environ["KUSTOMIZE"], "build", FOLDER / name).stdout
    return list(yaml.safe_load_all(text))


@pytest.fixture(scope="module", params=OVERLAYS)
def overlay(request):
    return request.param


@pytest.fixture(scope="module")
def documents(overlay):
    return render(f"overlays/{overlay}")


def named(documents, kind):
    return {document["metadata"]["name"]: document for document in documents if document["kind"] == kind}


def pods(documents):
    """(name, pod template) of everything that runs pods."""
    for document in documents:
        spec = document.get("spec", {})
        if document["kind"] == "CronJob":
            spec = spec["jobTemplate"]["spec"]
        if document["kind"] in ("Deployment", "Job", "CronJob"):
            yield document["metadata"]["name"], spec["template"]


def environment_of(container, documents):
    """The variables of a container, from its ConfigMaps and its own list."""
    maps = named(documents, "ConfigMap")
    values = {}
    for source in container.get("envFrom", []):
        values |= maps[source["configMapRef"]["name"]]["data"]
    return values | {entry["name"]: entry["value"] for entry in container.get("env", [])}


def validate(document):
    """Fails unless the document matches its apiVersion and kind, without unknown fields."""
    if document["apiVersion"].startswith("keda.sh/"):
        jsonschema.validate(document, KEDA[document["kind"]])
    else:
        kubernetes_validate.validate(document, "1.37", strict=True)


# ---- schemas ----


@pytest.mark.parametrize("name", ["base", *(f"overlays/{name}" for name in OVERLAYS)])
def test_rendered_manifests_are_valid(name):
    rendered = render(name)
    assert len(rendered) >= 15
    for document in rendered:
        validate(document)


def test_oldest_supported_kubernetes_takes_them_too(documents):
    # podFailurePolicy is the newest feature in use: stable since 1.31.
    for document in documents:
        if not document["apiVersion"].startswith("keda.sh/"):
            kubernetes_validate.validate(document, "1.31", strict=True)


@pytest.mark.parametrize("path, value", [
    (["Deployment", "stream", "spec", "replica"], 2),
    (["CronJob", "verify", "spec", "startingDeadlineSeconds"], "2h"),
    (["Job", "init", "spec", "template", "spec", "terminationGracePeriod"], 5),
    (["ScaledObject", "stream", "spec", "maxReplicas"], 5),
    (["ScaledObject", "stream", "spec", "maxReplicaCount"], "5"),
])
def test_a_wrong_field_is_noticed(path, value):
    kind, name, *keys, last = path
    document = named(render("overlays/production"), kind)[name]
    place = document
    for key in keys:
        place = place[key]
    place[last] = value
    with pytest.raises(Exception) as failure:
        validate(document)
    assert last in str(failure.value) or str(value) in str(failure.value)


# ---- references ----


def test_what_pods_mount_and_read_exists(documents, overlay):
    maps, secrets, claims, accounts = (set(named(documents, kind)) for kind in ("ConfigMap", "Secret", "PersistentVolumeClaim", "ServiceAccount"))
    secrets |= set(MADE_BY_THE_USER[overlay])
    for name, template in pods(documents):
        spec = template["spec"]
        assert spec["serviceAccountName"] in accounts
        volumes = {}
        for volume in spec.get("volumes", []):
            volumes[volume["name"]] = volume
            if "configMap" in volume:
                assert volume["configMap"]["name"] in maps, f"{name}: {volume}"
            if "secret" in volume:
                assert volume["secret"]["secretName"] in secrets, f"{name}: {volume}"
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims, f"{name}: {volume}"
        for container in spec["containers"]:
            mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container.get("volumeMounts", [])}
            for variable, value in environment_of(container, documents).items():
                for path in re.findall(r"/(?:etc|var)/[\w/.-]+", value):
                    if path in mounts:
                        continue
                    assert os.path.dirname(path) in mounts, f"{name}: {variable}={value}: nothing is mounted there"
                    check_key(mounts[os.path.dirname(path)], os.path.basename(path), documents, overlay)


def check_key(volume, key, documents, overlay):
    """Fails unless the volume has a file with this name."""
    if "configMap" in volume:
        assert key in named(documents, "ConfigMap")[volume["configMap"]["name"]]["data"]
    if "secret" in volume:
        name = volume["secret"]["secretName"]
        keys = MADE_BY_THE_USER[overlay].get(name) or set(named(documents, "Secret")[name]["data"])
        assert key in keys, f"the secret {name} has no {key}"


def test_passwords_are_read_by_rtp_and_by_nobody_else(documents):
    for name, template in pods(documents):
        for volume in template["spec"].get("volumes", []):
            if volume["name"] == "passwords":
                assert volume["secret"]["defaultMode"] & 0o007 == 0, f"{name}: rtp refuses a secret that everybody may read"
                assert template["spec"]["securityContext"]["fsGroup"] == template["spec"]["securityContext"]["runAsGroup"]


def test_the_overlays_secrets_are_the_documented_ones():
    text = (FOLDER / "overlays/production/kustomization.yaml").read_text() + (ROOT / "docs/kubernetes.md").read_text()
    for name, keys in MADE_BY_THE_USER["production"].items():
        for word in (name, *keys):
            assert text.count(word) >= 2, f"{word} is not documented"


def test_the_dataset_is_the_built_in_one(documents):
    assert (FOLDER / "base/users.toml").read_bytes() == (ROOT / "schema/users.toml").read_bytes()
    [data] = [document["data"] for name, document in named(documents, "ConfigMap").items() if name.startswith("rtp-dataset")]
    assert data["users.toml"] == (ROOT / "schema/users.toml").read_text()


def test_selectors_find_pods(documents):
    labels = [(name, template["metadata"]["labels"]) for name, template in pods(documents)]

    def matches(selector):
        wanted, found = selector.get("matchLabels", {}), set()
        for name, of_pod in labels:
            fits = all(of_pod.get(k) == v for k, v in wanted.items())
            for rule in selector.get("matchExpressions", []):
                assert rule["operator"] == "In"
                fits = fits and of_pod.get(rule["key"]) in rule["values"]
            if fits:
                found.add(name)
        for rule in selector.get("matchExpressions", []):
            assert set(rule["values"]) == {of_pod.get(rule["key"]) for name, of_pod in labels if name in found}, f"{rule} names a component that is not there"
        return found

    for document in documents:
        kind, name, spec = document["kind"], document["metadata"]["name"], document.get("spec", {})
        if kind == "Deployment":
            assert matches(spec["selector"]) == {name}
        if kind == "PodDisruptionBudget":
            assert matches(spec["selector"]) == {"stream"}
        if kind == "Service":
            assert len(matches({"matchLabels": spec["selector"]})) == 1
        if kind == "NetworkPolicy" and spec["podSelector"]:
            assert matches(spec["podSelector"])


# ---- what runs ----


def test_commands_of_rtp_parse(documents):
    ran = set()
    for name, template in pods(documents):
        [container] = template["spec"]["containers"]
        if "command" not in container:
            parse_command(container["args"])
            ran.add(container["args"][0])
    assert {"init", "stream", "heartbeat", "dashboard", "verify", "aggregate"} <= ran


def test_variables_are_ones_that_something_reads(documents, variables):
    for name, template in pods(documents):
        [container] = template["spec"]["containers"]
        script = container["args"][0] if "command" in container else ""
        for variable in environment_of(container, documents):
            assert variable in variables or f"${variable}" in script, f"{name} sets {variable}, which nothing reads"


def test_addresses_are_good_for_rtp(documents):
    values = environment_of(dict(pods(documents))["init"]["spec"]["containers"][0], documents)
    values = {k: v for k, v in values.items() if "PASSWORD" not in k and k != "RTP_DATASET"}
    printed = run(RTP, "--log-format", "text", "init", "--dry-run", env=clean_environment(**values)).stdout
    for words in ("kafka-topics.sh --create", 'CREATE KEYSPACE IF NOT EXISTS "realtime"', "batch_users"):
        assert words in printed


def test_parameters_and_files_of_the_addresses_are_good_for_rtp(documents, tmp_path):
    """As nobody listens, only the connection may fail: TLS, certificates, SASL and passwords come before it."""
    values = environment_of(dict(pods(documents))["stream"]["spec"]["containers"][0], documents)
    run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", tmp_path / "key", "-out", tmp_path / "ca.crt", "-subj", "/CN=ca")
    (tmp_path / "password").write_text("secret")
    (tmp_path / "password").chmod(0o640)
    here = {}
    for name, value in values.items():
        if name == "RTP_DATASET" or name.startswith("RTP_METRICS"):
            continue
        value = re.sub(r"[\w-]+\.[\w-]+\.svc:\d+", f"127.0.0.1:{closed_port()}", value)
        here[name] = re.sub(r"/etc/rtp/ca/[\w.]+", str(tmp_path / "ca.crt"), re.sub(r"/etc/rtp/passwords/\w+", str(tmp_path / "password"), value))
    done = run(RTP, "heartbeat", "--once", "--timeout", "3s", "--format", "json", check=False, env=clean_environment(**here))
    assert done.returncode == 4, done.stderr
    for check in json.loads(done.stdout)["checks"]:
        assert "Connection refused" in check["detail"], check["detail"]


def test_whoever_needs_a_password_has_one(documents):
    values = environment_of(dict(pods(documents))["stream"]["spec"]["containers"][0], documents)
    for server, variable in (("KAFKA", "RTP_EVENT_LOG"), ("CASSANDRA", "RTP_REALTIME_STORE"), ("POSTGRES", "RTP_BATCH_STORE")):
        assert ("@" in values[variable]) == (f"RTP_{server}_PASSWORD_FILE" in values), f"{variable} and its password"
        assert not re.search(r"://[^/@]*:[^/@]*@", values[variable]), f"{variable} has a password inside"


def test_network_policies_let_out_what_the_addresses_need(documents):
    allowed = set()
    for policy in named(documents, "NetworkPolicy").values():
        for rule in policy["spec"].get("egress", []):
            for peer in rule.get("to", []):
                space = peer.get("namespaceSelector", {}).get("matchLabels", {}).get("kubernetes.io/metadata.name")
                allowed |= {(space, port["port"]) for port in rule["ports"]}
    assert ("kube-system", 53) in allowed
    needed = set()
    for _, template in pods(documents):
        for value in environment_of(template["spec"]["containers"][0], documents).values():
            needed |= {(space, int(port)) for space, port in re.findall(r"[\w-]+\.([\w-]+)\.svc:(\d+)", value)}
    assert len(needed) == 3 and needed <= allowed, f"no policy lets {needed - allowed} out"


def test_prometheus_may_come_in_where_the_metrics_are(documents):
    for name in ("stream", "heartbeat", "dashboard"):
        template = dict(pods(documents))[name]
        [container] = template["spec"]["containers"]
        port = int(environment_of(container, documents)["RTP_METRICS_LISTEN"].rpartition(":")[2])
        assert container["ports"] == [{"name": "metrics", "containerPort": port}]
        assert template["metadata"]["annotations"]["prometheus.io/port"] == str(port)
        for probe, path in (("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
            assert (container[probe]["httpGet"]["path"], container[probe]["httpGet"]["port"]) == (path, "metrics")
        [policy] = [p for p in named(documents, "NetworkPolicy").values() if p["spec"]["podSelector"] == {}]
        assert [port] == [p["port"] for p in policy["spec"]["ingress"][0]["ports"]]


def test_pods_pass_the_restricted_standard(documents):
    for name, template in pods(documents):
        spec = template["spec"]
        assert spec["automountServiceAccountToken"] is False
        context = spec["securityContext"]
        assert context["runAsNonRoot"] and context["runAsUser"] == 65532 and context["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in spec["containers"]:
            context = container["securityContext"]
            assert context == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}, name
            assert container["resources"]["limits"]["memory"] and container["resources"]["requests"]["cpu"]


def test_images_are_pinned(documents):
    version = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["version"]
    for name, template in pods(documents):
        for container in template["spec"]["containers"]:
            assert container["image"].endswith(f"rtp:{version}"), f"{name}: {container['image']}"


def test_a_stop_has_time_to_drain(documents):
    # SIGTERM drains within 10 s, as documented and as tested in tests/servers.
    for name in ("stream", "heartbeat", "dashboard"):
        assert dict(pods(documents))[name]["spec"]["terminationGracePeriodSeconds"] >= 30


def test_autoscaling_is_of_the_datasets_topic_and_of_streams_group():
    documents = render("overlays/production")
    [scaled] = named(documents, "ScaledObject").values()
    assert scaled["spec"]["scaleTargetRef"]["name"] in named(documents, "Deployment")
    assert "replicas" not in named(documents, "Deployment")["stream"]["spec"], "an apply would undo KEDA's count"
    assert scaled["spec"]["maxReplicaCount"] == DATASET["event"]["partitions"]
    [trigger] = scaled["spec"]["triggers"]
    assert trigger["metadata"]["topic"] == DATASET["event"]["topic"]
    group = re.search(r"--group <NAME>.*?\[default: (\w+)\]", run(RTP, "stream", "--help").stdout, re.DOTALL).group(1)
    assert trigger["metadata"]["consumerGroup"] == group
    address = environment_of(dict(pods(documents))["stream"]["spec"]["containers"][0], documents)["RTP_EVENT_LOG"]
    assert f"@{trigger['metadata']['bootstrapServers']}?" in address
    assert ("sasl=" + trigger["metadata"]["sasl"].replace("scram_sha", "scram-sha-")) in address
    assert trigger["authenticationRef"]["name"] in named(documents, "TriggerAuthentication")
    for reference in named(documents, "TriggerAuthentication")["kafka"]["spec"]["secretTargetRef"]:
        assert reference["key"] in MADE_BY_THE_USER["production"][reference["name"]]


def test_daily_jobs_try_again_what_a_later_try_can_mend(documents):
    daily = named(documents, "CronJob")
    assert set(daily) == {"api-to-kafka", "batch-to-postgres", "verify", "nightly-aggregates"}
    for name, job in daily.items():
        spec = job["spec"]
        assert croniter.croniter.is_valid(spec["schedule"]) and spec["timeZone"] == "Etc/UTC" and spec["concurrencyPolicy"] == "Forbid"
        runs = spec["jobTemplate"]["spec"]
        assert runs["template"]["spec"]["restartPolicy"] == "Never", "a podFailurePolicy takes no other"
        ignore, fail = runs["podFailurePolicy"]["rules"]
        assert ignore["action"] == "Ignore" and fail["action"] == "FailJob"
        assert fail["onExitCodes"]["values"] == [1, 2, 3, 5, 70] and fail["onExitCodes"]["containerName"] == runs["template"]["spec"]["containers"][0]["name"]
    # verify runs after both branches had enough time, on the same day.
    first = {name: croniter.croniter(job["spec"]["schedule"], datetime.datetime(2026, 11, 1)).get_next(datetime.datetime) for name, job in daily.items()}
    assert first["api-to-kafka"] < first["batch-to-postgres"] < first["verify"] < first["nightly-aggregates"]
    assert {time.date() for time in first.values()} == {datetime.date(2026, 11, 1)}


# ---- the stages' scripts, run ----


@pytest.fixture(scope="module")
def stage(tmp_path_factory, api):
    """Runs a component's container here: its own command and variables, embedded stores instead of the servers."""
    place = tmp_path_factory.mktemp("cluster")
    (place / "bin").mkdir()
    (place / "bin/rtp").symlink_to(RTP)
    (place / "landing").mkdir()
    documents = render("overlays/dev")

    def run_stage(name, **more):
        [container] = dict(pods(documents))[name]["spec"]["containers"]
        values = environment_of(container, documents)
        values |= {
            "RTP_EVENT_LOG": f"sqlite:{place}/log.db",
            "RTP_REALTIME_STORE": f"sqlite:{place}/realtime.db",
            "RTP_BATCH_STORE": f"sqlite:{place}/batch.db",
            "RTP_DATASET": str(FOLDER / "base/users.toml"),
            "RTP_LANDING": str(place / "landing"),
            "RTP_LOG_FORMAT": "text",
        }
        values.pop("RTP_POSTGRES_PASSWORD_FILE", None)
        if "RTP_API_URL" in values:
            values["RTP_API_URL"] = api
        values |= more
        # Only the image's own PATH: a script may use whatever Debian's base image has.
        values["PATH"] = f"{place}/bin:/usr/bin:/bin"
        values["HOME"] = str(place)
        command = [*container.get("command", ["rtp"]), *container["args"]]
        return run(*command, check=False, env=values, cwd=place)

    run_stage.place = place
    return run_stage


def test_the_daily_stages_run_and_verify_is_content(stage):
    assert stage("init").returncode == 0
    for name in ("api-to-kafka", "batch-to-postgres"):
        done = stage(name)
        assert done.returncode == 0, done.stderr
    [file] = [path for path in (stage.place / "landing").glob("*.ndjson") if ".rejects" not in path.name]
    assert file.stem == datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d")
    stores = {"RTP_EVENT_LOG": f"sqlite:{stage.place}/log.db", "RTP_REALTIME_STORE": f"sqlite:{stage.place}/realtime.db"}
    run(RTP, "stream", "--until-end", env=clean_environment(**stores))
    done = stage("verify")
    assert done.returncode == 0 and "1000" in done.stderr, done.stderr
    done = stage("nightly-aggregates")
    assert done.returncode == 0 and "1000 rows of batch_users" in done.stderr, done.stderr
    # Repeating the day fetches nothing and changes nothing: the API gets no request.
    done = stage("batch-to-postgres", RTP_API_URL="http://127.0.0.1:9/")
    assert done.returncode == 0, done.stderr
    # A difference fails the job, which is not retried.
    run("sqlite3", stage.place / "batch.db", "DELETE FROM batch_users_rows WHERE rowid = 7")
    assert stage("verify").returncode == 1


def test_an_api_that_refuses_is_a_status_that_is_tried_again(stage, api):
    for path in (stage.place / "landing").glob("*"):
        path.unlink()
    done = stage("api-to-kafka", RTP_API_URL=api.replace("/api/1.4/", "/nowhere"), RTP_COUNT="5")
    assert done.returncode == 4, done.stderr


def test_scripts_are_clean(documents, tmp_path):
    for name, template in pods(documents):
        [container] = template["spec"]["containers"]
        if "command" in container:
            assert container["command"] == ["sh", "-euc"]
            (tmp_path / name).write_text(container["args"][0])
            run(tool("shellcheck"), "-s", "sh", tmp_path / name)
