"""deploy/ci and .github/workflows: the scripts are run, the workflows checked by actionlint and zizmor and compared with
.ci/run."""

import hashlib
import json
import os
import re
import signal
import subprocess
import tarfile
import tomllib

import pytest

from conftest import DAY, ROOT, RTP, clean_environment, closed_port, commands, load, run, tool

WORKFLOWS = [".github/workflows/ci.yml", ".github/workflows/release.yml", "deploy/ci/verify.yml"]


# ---- verify.sh ----


@pytest.fixture(scope="module")
def stores(tmp_path_factory, api):
    """Addresses of two equal stores of 40 users."""
    place = tmp_path_factory.mktemp("stores")
    addresses = {
        "RTP_EVENT_LOG": f"sqlite:{place}/log.db",
        "RTP_REALTIME_STORE": f"sqlite:{place}/realtime.db",
        "RTP_BATCH_STORE": f"sqlite:{place}/batch.db",
        "RTP_API_URL": api,
    }
    environment = clean_environment(**addresses)
    file = place / "day.ndjson"
    for command in (["init"], ["fetch", "--count", "40", "--as-of", DAY, "--trailer", "--out", file], ["produce", file], ["stream", "--until-end"], ["load-batch", file]):
        run(RTP, *command, env=environment)
    return addresses


def verify(place, addresses, *arguments, **more):
    """Runs verify.sh as a job on GitHub does."""
    environment = clean_environment(**addresses) | {
        "PATH": f"{place}/bin:{os.environ['PATH']}",
        "GITHUB_ACTIONS": "true",
        "GITHUB_STEP_SUMMARY": str(place / "summary.md"),
    }
    (place / "bin").mkdir(exist_ok=True)
    if not (place / "bin/rtp").exists():
        (place / "bin/rtp").symlink_to(RTP)
    return run(ROOT / "deploy/ci/verify.sh", *arguments, check=False, cwd=place, env=environment | more)


def test_a_secret_that_is_not_set_is_no_mistake(tmp_path, stores):
    # GitHub passes it as an empty variable; rtp connects without a password, and there is no server.
    addresses = stores | {"RTP_BATCH_STORE": f"postgres://rtp@127.0.0.1:{closed_port()}/rtp"}
    done = verify(tmp_path, addresses, "--max-outage", "0", RTP_POSTGRES_PASSWORD="", RTP_CASSANDRA_PASSWORD="")
    assert done.returncode == 4, done.stderr


def test_equal_stores_end_with_0(tmp_path, stores):
    done = verify(tmp_path, stores)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "summary.md").read_text() == "### rtp verify: in agreement\n"
    assert "::error" not in done.stdout


def test_unequal_stores_end_with_1_and_show_no_value(tmp_path, stores):
    changed = tmp_path / "batch.db"
    changed.write_bytes(open(stores["RTP_BATCH_STORE"].removeprefix("sqlite:"), "rb").read())
    run("sqlite3", changed, "DELETE FROM batch_users_rows WHERE rowid = 3; UPDATE batch_users_rows SET last_name = 'Changedname' WHERE rowid = 4")
    done = verify(tmp_path, stores | {"RTP_BATCH_STORE": f"sqlite:{changed}"})
    assert done.returncode == 1, done.stderr
    assert (tmp_path / "summary.md").read_text().endswith("|---|---|\n| lost | 1 |\n| changed_outside | 1 |\n")
    assert "::error title=rtp verify::not in agreement" in done.stdout
    differences = [json.loads(line) for line in (tmp_path / "differences.ndjson").read_text().splitlines()]
    assert {line["kind"] for line in differences} == {"missing", "changed"}
    assert "Changedname" not in done.stdout + done.stderr + (tmp_path / "summary.md").read_text()


def test_arguments_are_those_of_verify(tmp_path, stores):
    changed = tmp_path / "batch.db"
    changed.write_bytes(open(stores["RTP_BATCH_STORE"].removeprefix("sqlite:"), "rb").read())
    run("sqlite3", changed, "UPDATE batch_users_rows SET last_name = 'x' WHERE rowid = 4")
    addresses = stores | {"RTP_BATCH_STORE": f"sqlite:{changed}"}
    assert verify(tmp_path, addresses, "--tolerance", "last_name=ignore").returncode == 0
    assert verify(tmp_path, addresses).returncode == 1


def test_empty_stores_are_not_content(tmp_path):
    addresses = {"RTP_EVENT_LOG": f"sqlite:{tmp_path}/l.db", "RTP_REALTIME_STORE": f"sqlite:{tmp_path}/r.db", "RTP_BATCH_STORE": f"sqlite:{tmp_path}/b.db"}
    run(RTP, "init", env=clean_environment(**addresses))
    assert verify(tmp_path, addresses).returncode == 1


def test_what_was_not_compared_is_no_verdict(tmp_path, stores):
    done = verify(tmp_path, stores | {"RTP_BATCH_STORE": f"sqlite:{tmp_path}/nowhere.db"})
    assert done.returncode == 2, done.stderr
    assert "not compared: status 2" in (tmp_path / "summary.md").read_text() and "::error" in done.stdout
    assert verify(tmp_path, stores, RTP_BIN="no-such-rtp").returncode == 2


# ---- package.sh ----


def test_the_archive_holds_all_and_is_the_same_every_time(tmp_path):
    version = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["version"]
    sums = []
    for folder in ("one", "two"):
        [path] = run(ROOT / "deploy/ci/package.sh", "x86_64-unknown-linux-gnu", tmp_path / folder, env=os.environ | {"RTP_BIN": str(RTP)}).stdout.split()
        sums.append(hashlib.sha256(open(path, "rb").read()).hexdigest())
    assert sums[0] == sums[1]
    name = f"rtp-{version}-x86_64-unknown-linux-gnu"
    assert os.path.basename(path) == f"{name}.tar.gz"
    with tarfile.open(path) as archive:
        names = set(archive.getnames())
        archive.extractall(tmp_path, filter="data")
    wanted = {"rtp", "LICENSE", "README.md", "CHANGELOG.md", "users.toml", "man/man1/rtp.1", *(f"man/man1/rtp-{command}.1" for command in commands()), *(f"completions/rtp.{shell}" for shell in ("bash", "zsh", "fish"))}
    assert {f"{name}/{file}" for file in wanted} <= names
    assert run(tmp_path / name / "rtp", "--version").stdout.split()[1] == version
    for file in (tmp_path / name).rglob("*.1"):
        assert file.read_text().startswith(".ie"), f"{file} is not a man page"


def test_verify_yml_takes_what_release_yml_makes():
    installs = "\n".join(step.get("run", "") for step in load("deploy/ci/verify.yml")["jobs"]["verify"]["steps"])
    assert "name=rtp-$VERSION-x86_64-unknown-linux-gnu\n" in installs and '"v$VERSION"' in installs
    release = (ROOT / ".github/workflows/release.yml").read_text()
    targets = re.findall(r"target: ([\w-]+)", release)
    assert "x86_64-unknown-linux-gnu" in targets
    assert "SHA256SUMS" in installs and "> SHA256SUMS" in release


def test_verify_yml_runs_verify_sh_with_its_variables(variables):
    [step] = [step for step in load("deploy/ci/verify.yml")["jobs"]["verify"]["steps"] if step.get("name") == "Verify"]
    assert step["run"] == ".github/verify.sh"
    for variable in step["env"]:
        assert variable in variables, f"verify.yml sets {variable}, which rtp does not read"


# ---- the workflows ----


def test_actionlint_finds_nothing():
    run(os.environ["ACTIONLINT"], "-shellcheck", tool("shellcheck"), "-pyflakes", "", *[ROOT / path for path in WORKFLOWS], cwd=ROOT)


def test_zizmor_finds_nothing():
    run(tool("zizmor"), "--offline", "--no-progress", *[ROOT / path for path in WORKFLOWS])


def test_actionlint_notices(tmp_path):
    text = (ROOT / ".github/workflows/ci.yml").read_text().replace("github.ref }}", "github.reff }}")
    (tmp_path / "ci.yml").write_text(text)
    assert run(os.environ["ACTIONLINT"], tmp_path / "ci.yml", check=False, cwd=ROOT).returncode == 1


@pytest.mark.parametrize("path", WORKFLOWS)
def test_actions_are_pinned_by_commit_with_their_version_beside(path):
    used = re.findall(r"uses: (.*)$", (ROOT / path).read_text(), re.MULTILINE)
    assert used
    for use in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", use), f"{path}: {use}"


def test_one_action_is_one_commit_everywhere():
    used = {}
    for path in WORKFLOWS:
        for action, commit in re.findall(r"uses: ([\w/-]+)@(.*)$", (ROOT / path).read_text(), re.MULTILINE):
            used.setdefault(action, set()).add(commit)
    assert all(len(commits) == 1 for commits in used.values()), used


def recipes(names):
    """The recipes and all their dependencies, according to just itself."""
    dumped = json.loads(run(ROOT / "justw", "--dump", "--dump-format", "json").stdout)["recipes"]
    found, todo = set(), list(names)
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += [dependency["recipe"] for dependency in dumped[name]["dependencies"]]
    return found


def test_the_jobs_together_run_what_ci_run_runs():
    by_script = recipes(re.findall(r"^[^#\n]*\./justw ([\w-]+)", (ROOT / ".ci/run").read_text(), re.MULTILINE))
    steps = [step.get("run", "") for job in load(".github/workflows/ci.yml")["jobs"].values() for step in job["steps"]]
    by_jobs = recipes(name for step in steps for name in re.findall(r"\./justw ([\w-]+)", step))
    # `test` is only an alias for its parts.
    assert by_script - {"test"} == by_jobs, "add the recipe to .github/workflows/ci.yml, or to .ci/run"


#: What GitHub's images have preinstalled; Chrome is as good as Chromium.
ON_THE_RUNNER = {"bash", "python3", "systemd", "golang-go", "nodejs", "npm", "chromium"}


def test_jobs_install_what_their_recipes_ask_debian_for():
    dumped = run(ROOT / "justw", "--dump").stdout
    for job in load(".github/workflows/ci.yml")["jobs"].values():
        text = "\n".join(step.get("run", "") for step in job["steps"])
        installed = set(" ".join(re.findall(r"apt-get install (.*)$", text, re.MULTILINE)).split())
        for name in recipes(re.findall(r"\./justw ([\w-]+)", text)):
            body = re.search(rf"^{name}[^\n:]*:.*\n((?:    .*\n|\n)*)", dumped, re.MULTILINE).group(1)
            for script in re.findall(r"\./(tests/[\w/]+/run)", body):
                body += (ROOT / script).read_text()
            for tool_name, package in re.findall(r"\.ci/need\"? ([\w-]+)(?: ([\w-]+))?", body):
                package = package or tool_name
                assert package in installed | ON_THE_RUNNER, f"the job with {name} does not install {package}"


def test_one_version_of_rust_everywhere():
    image = re.search(r"^FROM rust:([\d.]+)-", (ROOT / "Dockerfile").read_text(), re.MULTILINE).group(1)
    for path in WORKFLOWS[:2]:
        assert load(path)["env"]["RUST"] == image, path


def test_caches_go_by_files_that_exist_and_hold_what_is_fetched():
    for job in load(".github/workflows/ci.yml")["jobs"].values():
        [cache] = [step for step in job["steps"] if step.get("uses", "").startswith("actions/cache@")]
        for name in re.findall(r"'([^']+)'", cache["with"]["key"]):
            assert list(ROOT.glob(name)), f"a cache's key goes by {name}, which does not exist"
        assert {"target", "~/.cache/rtp"} <= set(cache["with"]["path"].split())
    assert "actions/cache" not in (ROOT / ".github/workflows/release.yml").read_text()


def test_only_the_release_may_write():
    for path in WORKFLOWS:
        workflow = load(path)
        assert workflow["permissions"] == {"contents": "read"}, path
        writers = {name for name, job in workflow["jobs"].items() if "permissions" in job}
        assert writers == ({"release"} if path.endswith("release.yml") else set()), path


def test_checksums_step_makes_what_sha256sum_checks(tmp_path):
    [step] = [step for step in load(".github/workflows/release.yml")["jobs"]["release"]["steps"] if "SHA256SUMS" in step.get("run", "")]
    (tmp_path / "a.tar.gz").write_text("a")
    (tmp_path / "b.cdx.json").write_text("b")
    run("bash", "-euo", "pipefail", "-c", step["run"], cwd=tmp_path)
    run("sha256sum", "--check", "--ignore-missing", "SHA256SUMS", cwd=tmp_path)
    (tmp_path / "a.tar.gz").write_text("c")
    assert subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=tmp_path, capture_output=True).returncode == 1


def test_scripts_are_clean():
    ours = [ROOT / "justw", ROOT / "tests/ops/run", ROOT / "tests/airflow/run", ROOT / "spark/run", *(ROOT / ".ci").iterdir()]
    run(tool("shellcheck"), *(ROOT / "deploy/ci").glob("*.sh"), *ours)


# ---- what is kept outside the clone ----


def kept(*arguments, check=True, **environment):
    bare = {name: os.environ[name] for name in ("PATH", "HOME")}
    return run(ROOT / ".ci/kept", *arguments, check=check, env=bare | environment)


def test_what_is_kept_is_made_once_and_a_version_of_its_own(tmp_path):
    def made(version):
        return kept("thing", version, "sh", "-c", 'echo made; echo "$KEPT" > "$KEPT/file"', RTP_TOOLS_DIR=str(tmp_path))

    first, again, other, long = made("1.0"), made("1.0"), made("1.1"), made("a==1\nb==2\n")
    folder = str(tmp_path / "thing-1.0")
    assert (first.stdout, first.stderr) == (again.stdout, "made\n") == (f"{folder}\n", "made\n") and again.stderr == ""
    assert (tmp_path / "thing-1.0/file").read_text() == first.stdout
    assert len({run.stdout for run in (first, other, long)}) == 3


def test_what_is_half_made_is_not_used(tmp_path):
    half = kept("thing", "1", "sh", "-c", 'touch "$KEPT/half"; exit 3', check=False, RTP_TOOLS_DIR=str(tmp_path))
    assert (half.returncode, half.stdout) == (3, "")
    killed = kept("thing", "1", "sh", "-c", 'touch "$KEPT/half"; kill -9 $PPID', check=False, RTP_TOOLS_DIR=str(tmp_path))
    assert killed.returncode == -signal.SIGKILL
    whole = kept("thing", "1", "sh", "-c", 'touch "$KEPT/whole"', RTP_TOOLS_DIR=str(tmp_path))
    assert sorted(os.listdir(whole.stdout.strip())) == [".complete", "whole"]


def test_two_clones_at_once_make_it_once(tmp_path):
    script = f'echo "$KEPT" >> {tmp_path}/made; sleep 0.5; touch "$KEPT/whole"'
    command = [ROOT / ".ci/kept", "thing", "1", "sh", "-c", f'{script}']
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"RTP_TOOLS_DIR": str(tmp_path)}) for _ in range(4)]
    folders = {process.communicate(timeout=60)[0].strip() for process in running}
    assert folders == {str(tmp_path / "thing-1")} and (tmp_path / "made").read_text().splitlines() == list(folders)
    assert (tmp_path / "thing-1/whole").exists()


def test_the_place_is_the_variables_else_the_caches(tmp_path):
    home = {"HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": ""}
    assert kept(**home).stdout == f"{tmp_path}/home/.cache/rtp\n"
    assert kept(**home | {"XDG_CACHE_HOME": str(tmp_path / "cache")}).stdout == f"{tmp_path}/cache/rtp\n"
    assert kept(**home | {"RTP_TOOLS_DIR": str(tmp_path / "tools")}).stdout == f"{tmp_path}/tools\n"
