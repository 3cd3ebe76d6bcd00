"""The Dockerfile. No image can be built without a container engine, so its steps are run here, one by one, in a folder
with what COPY copies: the shell lines for real, with a cargo that checks the project's manifest instead of compiling."""

import dataclasses
import json
import os
import pathlib
import re
import shlex
import shutil
import time
import tomllib

import pytest

from conftest import ROOT, RTP, run, tool


@dataclasses.dataclass
class Step:
    """An instruction of the Dockerfile."""

    stage: str
    name: str
    text: str


def steps():
    """The instructions in order, each with its stage."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    found, stage = [], None
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        if not line.strip():
            continue
        name, rest = line.split(None, 1)
        if name == "FROM":
            stage = re.search(r" AS (\w+)$", rest).group(1)
        found.append(Step(stage, name, rest))
    return found


STEPS = steps()


def of(stage, name):
    return [step.text for step in STEPS if step.stage == stage and step.name == name]


def copies(stage=None):
    """(sources, target) of every COPY from the build's context."""
    for step in STEPS:
        if step.name == "COPY" and not step.text.startswith("--from") and stage in (None, step.stage):
            *sources, target = step.text.split()
            yield sources, target


def test_hadolint_finds_nothing():
    run(tool("hadolint"), "--failure-threshold", "info", ROOT / "Dockerfile")


def test_base_images_are_pinned_to_exact_versions():
    images = [step.text.split()[0] for step in STEPS if step.name == "FROM"]
    assert len(images) == 3
    for image in images:
        assert re.search(r":(\d+\.\d+\.\d+-[\w-]+|bookworm-\d{8}-slim)$", image), image


def test_rust_is_new_enough_and_glibc_not_newer_than_that_of_the_images():
    wanted = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["rust-version"]
    base = of("build", "FROM")[0]
    version = re.match(r"rust:([\d.]+)-bookworm ", base).group(1)
    numbers = [tuple(map(int, text.split("."))) for text in (version, wanted)]
    assert numbers[0] >= numbers[1], f"{base} is older than Cargo.toml's rust-version {wanted}"
    for stage in ("rtp", "airflow"):
        assert "bookworm" in of(stage, "FROM")[0], "built against one Debian's libraries, run on another's"


def test_every_source_exists_and_reaches_the_builder():
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert ignored[0] == "*"
    kept = {line[1:] for line in ignored if line.startswith("!")}
    for sources, _ in copies():
        for source in sources:
            assert (ROOT / source).exists(), f"COPY {source}: no such file"
            assert {source, *map(str, pathlib.PurePath(source).parents)} & kept, f"COPY {source}: .dockerignore keeps it from the builder"
    copied = {source for sources, _ in copies() for source in sources}
    assert kept <= copied, f"sent to the builder and never copied: {kept - copied}"


def test_the_build_has_every_file_that_the_sources_include():
    copied = [source for sources, _ in copies("build") for source in sources]
    for path in (ROOT / "src").rglob("*.rs"):
        built = path.read_text().replace('#[cfg(doctest)]\n#[doc = include_str!', "")  # not part of the binary
        for name in re.findall(r'include_(?:str|bytes)!\("([^"]+)"\)', built):
            file = (path.parent / name).resolve().relative_to(ROOT)
            assert any(str(file) == source or str(file).startswith(source + "/") for source in copied), f"{path} includes {file}"


def test_it_builds_by_the_command_that_ci_builds_by():
    recipe = run(ROOT / "justw", "--show", "build").stdout
    command = re.search(r"(cargo build [\w -]+)", recipe).group(1)
    runs = " && ".join(of("build", "RUN")).split(" && ")
    assert [part.strip() for part in runs if part.strip().startswith("cargo")] == [command, command]


@pytest.fixture
def shim(tmp_path):
    """A `cargo` that makes the real one read the manifest and the lock file as for a build, and creates a binary."""
    folder = tmp_path / "shim"
    folder.mkdir()
    real = tool("cargo")
    host = re.search(r"host: (\S+)", run("rustc", "-vV").stdout).group(1)
    # `metadata` accepts a manifest whose targets have no file; `fetch`, like `build`, does not.
    script = f"""#!/bin/sh
set -eu
'{real}' fetch --quiet --locked --target {host}
'{real}' metadata --offline --locked --no-deps --format-version 1 > "$LOG.$(date +%s%N)"
find src benches -newer target/release/rtp > "$LOG.new" 2>/dev/null || true
mkdir -p target/release
printf '#!/bin/sh\\necho rtp 0\\n' > target/release/rtp
chmod +x target/release/rtp
"""
    (folder / "cargo").write_text(script)
    (folder / "cargo").chmod(0o755)
    return folder


def test_the_build_stage_runs_in_what_is_copied(tmp_path, shim):
    context = tmp_path / "src"
    context.mkdir()
    environment = os.environ | {"PATH": f"{shim}:{os.environ['PATH']}", "LOG": str(tmp_path / "log")}
    ran = 0
    for step in STEPS:
        if step.stage != "build":
            continue
        if step.name == "COPY":
            *sources, target = step.text.split()
            for source in sources:
                from_, to = ROOT / source, context / target
                if from_.is_dir():
                    shutil.copytree(from_, to, dirs_exist_ok=True)
                else:
                    place = to / from_.name if target.endswith("/") else to
                    place.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(from_, place)
        elif step.name == "RUN":
            time.sleep(0.01)
            run("sh", "-c", step.text, cwd=context, env=environment)
            ran += 1
    assert ran == 2
    targets = [json.loads(path.read_text())["packages"][0]["targets"] for path in sorted(tmp_path.glob("log.[0-9]*"))]
    assert len(targets) == 2
    assert {target["name"] for target in targets[0]} >= {"rtp"}
    # cargo rebuilds only what is newer than its last build.
    newer = (tmp_path / "log.new").read_text().split()
    assert {"src/main.rs", "src/lib.rs"} <= set(newer)


#: What Debian 12's base image has preinstalled: dpkg itself needs these.
BASE_LIBRARIES = {"libc.so.6", "libm.so.6", "libgcc_s.so.1", "libz.so.1", "ld-linux-x86-64.so.2", "linux-vdso.so.1"}


def test_the_base_image_has_every_library_that_the_binary_needs():
    needed = {os.path.basename(line.split()[0]) for line in run("ldd", RTP).stdout.splitlines()}
    assert needed <= BASE_LIBRARIES, f"not in debian:bookworm-slim: {needed - BASE_LIBRARIES}"


def test_images_run_rtp_as_nobody_in_particular():
    for stage, user, entry in (("rtp", "65532:65532", "/usr/local/bin/rtp"), ("airflow", "50000:0", "airflow")):
        assert of(stage, "USER") == [user]
        assert json.loads(of(stage, "ENTRYPOINT")[0]) == [entry]
        assert any(text.endswith("/usr/local/bin/rtp") for text in of(stage, "COPY")), f"{stage} has no rtp inside"


def test_folders_of_volumes_belong_to_the_images_users():
    for stage in ("rtp", "airflow"):
        user, _, group = of(stage, "USER")[0].partition(":")
        for text in of(stage, "RUN"):
            for part in text.split(" && "):
                words = shlex.split(part)
                if words[0] == "install":
                    assert words[words.index("-o") + 1] == user and words[words.index("-g") + 1] == group, part


def test_python_packages_come_from_lock_files():
    files = [source for sources, _ in copies("airflow") for source in sources if source.endswith(".txt")]
    assert len(files) == 2
    for file in files:
        for line in (ROOT / file).read_text().splitlines():
            line = line.split("#")[0].split(";")[0].strip()
            assert not line or re.fullmatch(r"[\w.\[\]-]+==[\w.+!]+( *\\)?|--hash=.*", line), f"{file}: {line} is not one exact version"
        name = os.path.basename(file)
        assert any(name in text for text in of("airflow", "RUN")), f"{file} is copied and not installed"
