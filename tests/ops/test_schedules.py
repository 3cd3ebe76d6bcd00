"""deploy/cron and deploy/systemd: each example runs with its own command line, on embedded stores and a practice API."""

import datetime
import fcntl
import http.server
import os
import re
import shlex
import signal
import subprocess
import threading
import time
import urllib.request

import croniter
import pytest

from conftest import DAY, ROOT, RTP, clean_environment, closed_port, parse_command, run, tool

CRONTAB = ROOT / "deploy/cron/rtp.crontab"
UNITS = ROOT / "deploy/systemd"


class Machine:
    """A folder that stands for a machine on which the examples are installed as documented."""

    def __init__(self, root, api):
        self.root = root
        for folder in ("usr/local/bin", "usr/local/lib/rtp", "etc/rtp", "var/lib/rtp"):
            (root / folder).mkdir(parents=True)
        (root / "usr/local/bin/rtp").symlink_to(RTP)
        text = self.here((ROOT / "deploy/cron/day.sh").read_text())
        (root / "usr/local/lib/rtp/day.sh").write_text(text)
        (root / "usr/local/lib/rtp/day.sh").chmod(0o755)
        stores = {"RTP_EVENT_LOG": "log", "RTP_REALTIME_STORE": "realtime", "RTP_BATCH_STORE": "batch"}
        text = (ROOT / "deploy/rtp.env").read_text()
        for variable, name in stores.items():
            text = re.sub(rf"^{variable}=.*$", f"{variable}='sqlite:{root}/var/lib/rtp/{name}.db'", text, flags=re.MULTILINE)
        text = re.sub(r"^RTP_API_URL=.*$", f"RTP_API_URL='{api}'", text, flags=re.MULTILINE)
        (root / "etc/rtp/rtp.env").write_text(text)

    def here(self, text):
        """The text with the machine's paths mapped into the folder."""
        return re.sub(r"(?<![\w.])/(etc/rtp|var/lib/rtp|usr/local)\b", rf"{self.root}/\1", text)

    def rows(self, database, table):
        return int(run("sqlite3", self.root / f"var/lib/rtp/{database}.db", f"SELECT count(*) FROM {table}").stdout)


@pytest.fixture
def machine(tmp_path, api):
    return Machine(tmp_path, api)


# ---- cron ----


def crontab():
    """(variables, entries) of the crontab; an entry is (schedule, user, command)."""
    variables, entries = {}, []
    for line in CRONTAB.read_text().splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        found = re.match(r"^(\w+)=(.*)$", line)
        if found:
            variables[found.group(1)] = found.group(2)
            continue
        *schedule, user, command = line.split(None, 6)
        # cron ends the command at the first % without a backslash before it.
        command = re.split(r"(?<!\\)%", command)[0].replace("\\%", "%")
        entries.append((" ".join(schedule), user, command))
    return variables, entries


def cron(machine, index, **more):
    """Runs an entry as cron does: with its shell, its variables and no other environment."""
    variables, entries = crontab()
    home = machine.root / "home"
    home.mkdir(exist_ok=True)
    environment = {name: machine.here(value) for name, value in variables.items()} | {"HOME": str(home), "LOGNAME": "rtp"} | more
    environment.pop("RTP_POSTGRES_PASSWORD_FILE")
    command = machine.here(entries[index][2])
    done = run(variables["SHELL"], "-c", command, check=False, timeout=60, env=environment, cwd=home)
    assert not list(home.iterdir()), "it has not used the addresses of rtp.env, but the embedded stores"
    return done


def test_schedules_are_cron_s():
    variables, entries = crontab()
    assert len(entries) == 3 and variables["SHELL"] == "/bin/sh"
    for schedule, user, _ in entries:
        assert croniter.croniter.is_valid(schedule) and user == "rtp"
    assert CRONTAB.read_text().endswith("\n"), "cron ignores a last line without an end"


def test_the_daily_line_does_the_days_work_once(machine):
    done = cron(machine, 0)
    assert done.returncode == 0, done.stderr
    assert machine.rows("realtime", "users") == machine.rows("batch", "batch_users") == 1000
    # The second and third run find nothing to do: no request, no new row.
    text = (machine.root / "etc/rtp/rtp.env").read_text()
    (machine.root / "etc/rtp/rtp.env").write_text(re.sub(r"^RTP_API_URL=.*$", "RTP_API_URL='http://127.0.0.1:9/'", text, flags=re.MULTILINE))
    done = cron(machine, 0)
    assert done.returncode == 0, done.stderr
    assert machine.rows("realtime", "users") == machine.rows("batch", "batch_users") == 1000
    files = list((machine.root / "var/lib/rtp/landing").glob("*.ndjson"))
    assert (machine.root / "var/lib/rtp/landing").stat().st_mode & 0o077 == 0, "records of people in a folder that is open to others"
    assert datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d") in {file.name.split(".")[0] for file in files}


def test_the_nightly_line_counts_the_day_before(machine):
    assert cron(machine, 0).returncode == 0
    store = machine.root / "var/lib/rtp/batch.db"
    figures = "SELECT count(DISTINCT aggregate) FROM rtp_aggregates WHERE day = date('now')"
    assert int(run("sqlite3", store, figures).stdout) == 6, "the daily line counts its own day"
    run("sqlite3", store, "UPDATE batch_users_rows SET fetched_at = fetched_at - 86400000")
    done = cron(machine, 1)
    assert done.returncode == 0, done.stderr
    assert int(run("sqlite3", store, figures.replace("date('now')", "date('now', '-1 day')")).stdout) == 6


def test_the_watching_line_is_silent_while_all_is_well_and_speaks_when_not(machine):
    assert cron(machine, 0).returncode == 0
    done = cron(machine, 2)
    assert done.returncode == 0 and done.stdout == "", done
    (machine.root / "var/lib/rtp/realtime.db").rename(machine.root / "away")
    (machine.root / "var/lib/rtp/realtime.db").mkdir()
    done = cron(machine, 2)
    assert done.returncode == 2 and done.stderr, "a broken store must be told"


def test_the_watching_line_tells_a_webhook_once(machine, webhook):
    url, told = webhook
    assert cron(machine, 0).returncode == 0
    assert cron(machine, 2, RTP_ALERT_URL=url).returncode == 0
    (machine.root / "var/lib/rtp/batch.db").rename(machine.root / "away")
    for _ in range(2):
        assert cron(machine, 2, RTP_ALERT_URL=url).returncode == 2
    assert len(told) == 1, "the same verdict was told twice"
    (machine.root / "away").rename(machine.root / "var/lib/rtp/batch.db")
    assert cron(machine, 2, RTP_ALERT_URL=url).returncode == 0
    assert len(told) == 2, "and that all is well again"


@pytest.fixture
def webhook():
    """(address, bodies) of a webhook that accepts everything."""
    bodies = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/hook", bodies
        server.shutdown()


# ---- day.sh ----


def day(machine, **more):
    """Runs the script for a day in the past, with a shim around rtp that records the stages and can fail one."""
    shim = machine.root / "shim"
    shim.mkdir(exist_ok=True)
    (shim / "rtp").write_text(f"""#!/bin/sh
for word; do case $word in -*) ;; *) break ;; esac; done
echo "$word" >> {shim}/stages
[ "$word" != "${{FAIL_STAGE:-}}" ] || exit "$FAIL_STATUS"
exec {RTP} "$@"
""")
    (shim / "rtp").chmod(0o755)
    (shim / "stages").write_text("")
    settings = dict(re.findall(r"^(RTP_\w+)='(.*)'$", (machine.root / "etc/rtp/rtp.env").read_text(), re.MULTILINE))
    environment = settings | {"PATH": f"{shim}:/usr/bin:/bin", "RTP_DAY": DAY, "RTP_COUNT": "20"} | more
    done = run(machine.root / "usr/local/lib/rtp/day.sh", check=False, env=environment)
    return done, (shim / "stages").read_text().split()


STAGES = ["init", "fetch", "produce", "stream", "load-batch", "verify", "aggregate"]


def test_the_stages_are_those_of_the_justfile(machine):
    done, stages = day(machine)
    assert (done.returncode, stages) == (0, STAGES), done.stderr
    just = (ROOT / "justfile").read_text()
    order = [re.search(rf"^{recipe}:.*?\n(?:.*\n)*?.*?'{{{{ rtp }}}}' (?:--quiet )?([a-z-]+)", just, re.MULTILINE).group(1) for recipe in ("init", "api_to_kafka", "spark_kafka_to_cassandra", "batch_to_postgres", "verify", "nightly_aggregates")]
    assert [stage for stage in stages if stage != "fetch"] == order


@pytest.mark.parametrize("stage, status", [("produce", 1), ("verify", 1), ("stream", 1)])
def test_an_answer_of_no_stops_nothing_and_is_the_status(machine, stage, status):
    done, stages = day(machine, FAIL_STAGE=stage, FAIL_STATUS=str(status))
    assert (done.returncode, stages) == (1, STAGES)


@pytest.mark.parametrize("stage, status", [("fetch", 4), ("produce", 3), ("stream", 5), ("load-batch", 143)])
def test_any_other_status_stops_there_and_is_the_status(machine, stage, status):
    done, stages = day(machine, FAIL_STAGE=stage, FAIL_STATUS=str(status))
    assert (done.returncode, stages) == (status, STAGES[: STAGES.index(stage) + 1])
    # The next attempt repairs it.
    done, stages = day(machine)
    assert (done.returncode, stages) == (0, STAGES), done.stderr


def test_two_runs_do_not_meet(machine):
    landing = machine.root / "var/lib/rtp/landing"
    landing.mkdir()
    with open(landing / ".day.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done, stages = day(machine)
        assert (done.returncode, stages) == (0, []) and "another run" in done.stderr


def test_each_stage_leaves_its_metrics(machine):
    metrics = machine.root / "metrics"
    metrics.mkdir()
    assert day(machine, RTP_METRICS_DIR=str(metrics))[0].returncode == 0
    assert {path.stem for path in metrics.glob("*.prom")} == set(STAGES)
    for path in metrics.glob("*.prom"):
        assert "rtp_run_exit_status" in path.read_text() and path.stat().st_mode & 0o004, f"node_exporter cannot read {path}"


def test_old_landing_files_go(machine):
    landing = machine.root / "var/lib/rtp/landing"
    landing.mkdir()
    for name, age in (("old", 40), ("new", 3)):
        (landing / f"{name}.ndjson").write_text("")
        then = time.time() - age * 86400
        os.utime(landing / f"{name}.ndjson", (then, then))
    assert day(machine)[0].returncode == 0
    names = {path.name for path in landing.glob("*.ndjson")}
    assert "old.ndjson" not in names and {"new.ndjson", f"{DAY}.ndjson"} <= names


def test_scripts_are_clean():
    run(tool("shellcheck"), ROOT / "deploy/cron/day.sh")


# ---- the variables' file ----


def test_the_shell_and_systemd_read_the_same(variables):
    text = (ROOT / "deploy/rtp.env").read_text()
    by_shell = dict(line.split("=", 1) for line in run("sh", "-c", f"env -i sh -c 'set -a; . {ROOT}/deploy/rtp.env; env'").stdout.splitlines() if line.startswith("RTP_"))
    # systemd.exec(5): one assignment per line, # is a comment, quotes are removed.
    by_systemd = {}
    for line in text.splitlines():
        if line and line[0] not in "#;":
            name, _, value = line.partition("=")
            assert re.fullmatch(r"'[^'\\]*'", value), f"{line}: not in single quotes"
            by_systemd[name] = value[1:-1]
    assert by_shell == by_systemd
    for name in re.findall(r"^#?(RTP_\w+)=", text, re.MULTILINE):
        assert name in variables or f"${{{name}:-" in (ROOT / "deploy/cron/day.sh").read_text(), f"rtp.env: nothing reads {name}"
    # EnvironmentFile takes precedence over Environment: the password file must not be in it.
    assert "RTP_POSTGRES_PASSWORD_FILE" not in by_shell
    values = {k: v for k, v in by_shell.items()}
    printed = run(RTP, "init", "--dry-run", env=clean_environment(**values)).stdout
    assert "kafka-topics.sh" in printed and "CREATE KEYSPACE" in printed


# ---- systemd ----


def unit(name):
    """The assignments of a unit file: a list for each name, in order."""
    found = {}
    for line in (UNITS / name).read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


@pytest.fixture
def installed(machine, tmp_path):
    """The units with the machine's paths, in their own folder."""
    folder = tmp_path / "units"
    folder.mkdir()
    for path in UNITS.iterdir():
        (folder / path.name).write_text(machine.here(path.read_text()))
    return folder


def test_systemd_takes_the_units(installed):
    done = run("systemd-analyze", "verify", "--recursive-errors=no", *sorted(installed.iterdir()))
    # For an unknown setting it only prints a warning.
    assert done.stderr == "" and done.stdout == ""


def test_systemd_notices_a_misspelt_setting(installed):
    path = installed / "rtp-stream.service"
    path.write_text(path.read_text().replace("RestartSec=", "RestartSecs="))
    assert "RestartSecs" in run("systemd-analyze", "verify", "--recursive-errors=no", path, check=False).stderr


@pytest.mark.parametrize("name", ["rtp-stream", "rtp-heartbeat", "rtp-dashboard", "rtp-day"])
def test_services_are_hardened(installed, name):
    run("systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", installed / f"{name}.service")


def test_the_timer_is_of_the_service_and_at_a_time():
    assert (UNITS / "rtp-day.timer").with_suffix(".service").exists()
    run("systemd-analyze", "calendar", *unit("rtp-day.timer")["OnCalendar"])


def test_restarts_are_for_what_a_restart_can_mend():
    assert unit("rtp-stream.service")["RestartPreventExitStatus"] == ["2 3 5"]
    assert unit("rtp-day.service")["RestartPreventExitStatus"] == ["1 2 3 5 70"]
    for name in ("rtp-stream", "rtp-heartbeat", "rtp-dashboard", "rtp-day"):
        settings = unit(f"{name}.service")
        assert settings["Restart"] == ["on-failure"]
        # The credential's name, its path and the variable must match.
        [credential] = settings["LoadCredential"]
        assert f"RTP_POSTGRES_PASSWORD_FILE=%d/{credential.split(':')[0]}" in settings["Environment"]
        assert credential.split(":")[1] == crontab()[0]["RTP_POSTGRES_PASSWORD_FILE"]


def test_commands_of_the_services_parse():
    for name in ("rtp-stream", "rtp-heartbeat", "rtp-dashboard"):
        program, *arguments = shlex.split(unit(f"{name}.service")["ExecStart"][0])
        assert program == "/usr/local/bin/rtp"
        parse_command(arguments)


def service(machine, name, free_port):
    """Starts a unit's command as systemd does: with its EnvironmentFile and in its folder."""
    settings = unit(f"{name}.service")
    [file] = settings["EnvironmentFile"]
    values = dict(re.findall(r"^(RTP_\w+)='(.*)'$", open(machine.here(file)).read(), re.MULTILINE))
    command = shlex.split(machine.here(settings["ExecStart"][0]))
    command = [re.sub(r"^127\.0\.0\.1:\d+$", f"127.0.0.1:{free_port}", word) for word in command]
    environment = values | {"PATH": machine.here("/usr/local/bin:/usr/bin:/bin")}
    return subprocess.Popen(command, env=environment, cwd=machine.here(settings["WorkingDirectory"][0]), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_days_service_does_the_days_work(machine):
    process = service(machine, "rtp-day", 0)
    try:
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert machine.rows("batch", "batch_users") == 1000


@pytest.mark.parametrize("name", ["rtp-stream", "rtp-heartbeat", "rtp-dashboard"])
def test_services_run_until_they_are_told_to_stop(machine, name):
    assert cron(machine, 0).returncode == 0
    port = closed_port()
    process = service(machine, name, port)
    try:
        for _ in range(100):
            time.sleep(0.1)
            assert process.poll() is None, process.communicate()[1]
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
                    assert answer.status == 200
                break
            except OSError:
                continue
        else:
            pytest.fail("nothing listens on the port of its metrics")
    finally:
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=int(unit("rtp-stream.service")["TimeoutStopSec"][0]))
    assert process.returncode == 0, errors
