#!/usr/bin/env python3
"""The real servers without containers: Kafka, Cassandra and PostgreSQL from Maven's jars.

    stack.py up      start what is not running, and return when every server answers
    stack.py down    stop them; --wipe also deletes their data
    stack.py status  one line per server; exits with 1 if one does not answer
    stack.py logs    the last lines of every server's log
    stack.py env     the addresses as shell exports, for `eval`
    stack.py get     fetch the servers' jars, and start nothing
    stack.py pin     run them on the processor cores --cores only, until they are started again

A stack is a folder (--dir) with its configuration, data, logs and process ids. With --ports free,
which picks unused ports, several stacks can run side by side. --tls gives every server passwords and
TLS with newly created certificates. Uses only the standard library.
"""

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile

HERE = pathlib.Path(__file__).resolve().parent
PROJECT = HERE.parent
SERVERS = ("kafka", "cassandra", "postgres")
#: Ports of a stack that others should find; not the usual ones, which may be taken.
FIXED = {
    "kafka": 19092,
    "kafka_controller": 19093,
    "cassandra": 19042,
    "cassandra_storage": 17000,
    "cassandra_jmx": 17199,
    "postgres": 15432,
}
START_SECONDS = 600
STOP_SECONDS = 30
#: What Cassandra's own scripts open to its libraries on Java 17.
OPENS = """
java.base/java.io java.base/java.lang java.base/java.lang.module java.base/java.lang.reflect
java.base/java.math java.base/java.net java.base/java.nio java.base/java.util
java.base/java.util.concurrent java.base/java.util.concurrent.atomic java.base/jdk.internal.loader
java.base/jdk.internal.ref java.base/jdk.internal.reflect java.base/jdk.internal.math
java.base/jdk.internal.module java.base/jdk.internal.util.jar java.base/sun.nio.ch
java.rmi/sun.rmi.transport.tcp java.rmi/java.rmi java.rmi/sun.rmi.registry java.rmi/sun.rmi.server
java.sql/java.sql jdk.management/com.sun.management.internal
java.management.rmi/javax.management.remote.rmi jdk.naming.rmi/com.sun.jndi.rmi.registry
java.management/com.sun.jmx.remote.security jdk.unsupported/sun.misc jdk.compiler/com.sun.tools.javac.file
jdk.attach/sun.tools.attach jdk.jconsole/sun.tools.jconsole
""".split()


class Failure(Exception):
    """An error for the user, printed without a stack trace."""

    status = 2


class Lacking(Failure):
    """Something that must be installed first."""

    status = 3


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["up", "down", "status", "logs", "env", "get", "pin"])
    parser.add_argument("--dir", type=pathlib.Path, default=PROJECT / ".stack/default", help="folder of the stack")
    parser.add_argument("--jars", type=pathlib.Path, help="shared folder of the servers' jars (default: RTP_STACK_JARS, or where tools are kept)")
    parser.add_argument("--ports", choices=["fixed", "free"], default="fixed")
    parser.add_argument("--tls", action="store_true", help="TLS and passwords")
    parser.add_argument("--only", default=",".join(SERVERS), help="comma-separated servers")
    parser.add_argument("--cores", type=lambda text: [int(core) for core in text.split(",")], metavar="0,1",
                        help="pin: numbers of cores (default: all that there are)")
    parser.add_argument("--wipe", action="store_true", help="down: delete the stack's folder")
    parser.add_argument("--parent", type=int, metavar="PID", help="stop and delete the stack when this process has ended")
    args = parser.parse_args()
    names = args.only.split(",")
    unknown = [name for name in names if name not in SERVERS]
    if unknown:
        parser.error(f"unknown server {unknown[0]}; supported: {', '.join(SERVERS)}")
    if args.cores and args.action != "pin":
        parser.error("--cores is for `pin`")
    try:
        return globals()[args.action](args, names)
    except Failure as failure:
        print(f"stack: {failure}", file=sys.stderr)
        return failure.status


def up(args, names):
    java = java_17() if {"kafka", "cassandra"} & set(names) else None
    args.dir.mkdir(parents=True, exist_ok=True)
    stack = Stack.load(args.dir) or Stack.create(args.dir, args.ports, args.tls)
    if args.tls and not stack.tls:
        raise Failure(f"{args.dir} is a stack without TLS; use another --dir")
    stack.java = java
    if args.parent:
        # However that process ends, and however far this one gets.
        watcher = [sys.executable, __file__, "down", "--wipe", "--dir", str(args.dir), "--only", args.only, "--parent", str(args.parent)]
        subprocess.Popen(watcher, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    jars = get_jars(args, names)
    started = [name for name in names if not stack.running(name)]
    for name in started:
        globals()[f"start_{name}"](stack, jars.resolve() / name)
    for name in names:
        stack.wait(name)
    stack.save()
    print(f"stack: {', '.join(names)} answer in {args.dir}" + ("" if started else " (already running)"), file=sys.stderr)
    return 0


def get(args, names):
    get_jars(args, names)
    return 0


def get_jars(args, names):
    jars = args.jars or jars_folder()
    for name in names:
        fetch_jars(jars, name)
    return jars


def down(args, names):
    if args.parent:
        wait_for_end(args.parent)
    stack = Stack.load(args.dir)
    if stack is None:
        print(f"stack: no stack in {args.dir}", file=sys.stderr)
        return 0
    for name in names:
        stack.stop(name)
    if args.wipe:
        shutil.rmtree(args.dir)
        shutil.rmtree(stack.outside(), ignore_errors=True)
    return 0


def pin(args, names):
    stack = Stack.load(args.dir)
    cores = set(args.cores or range(os.cpu_count()))
    if not cores <= set(range(os.cpu_count())):
        raise Failure(f"this machine has the cores 0 to {os.cpu_count() - 1}")
    for name in names:
        if stack is None or not stack.running(name):
            raise Failure(f"{name} is not running in {args.dir}")
        # Until a look finds nothing new: what one thread starts meanwhile may not be pinned yet.
        pinned = set()
        while new := set(threads(stack.pid(name))) - pinned:
            for thread in new:
                with contextlib.suppress(ProcessLookupError):
                    os.sched_setaffinity(thread, cores)
            pinned |= new
    return 0


def threads(pid):
    """The threads of a process and of its children."""
    tasks = pathlib.Path(f"/proc/{pid}/task")
    for task in tasks.iterdir() if tasks.exists() else []:
        yield int(task.name)
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for child in (task / "children").read_text().split():
                yield from threads(child)


def wait_for_end(pid):
    """Returns when the process is gone; a new process with the same id has another start time."""

    def started():
        try:
            return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        except OSError:
            return None

    first = started()
    while first and started() == first:
        time.sleep(0.5)


def status(args, names):
    stack = Stack.load(args.dir)
    answers = [stack is not None and stack.answers(name) for name in names]
    for name, answer in zip(names, answers):
        where = stack.address(name) if stack else "-"
        print(f"{name:10} {'answers' if answer else 'does not answer':16} {where}")
    return 0 if all(answers) else 1


def logs(args, names):
    for name in names:
        file = args.dir / name / "server.log"
        print(f"== {file}")
        if file.exists():
            print("\n".join(file.read_text(errors="replace").splitlines()[-40:]))
    return 0


def env(args, _names):
    stack = Stack.load(args.dir)
    if stack is None:
        raise Failure(f"no stack in {args.dir}; create one with `up`")
    for name, value in stack.environment().items():
        print(f"export {name}='{value}'")
    return 0


def java_17():
    """The java in JAVA_HOME or PATH, if all servers can run on it."""
    home = os.environ.get("JAVA_HOME")
    java = str(pathlib.Path(home) / "bin/java") if home else shutil.which("java")
    hint = "install Java 17, for example Debian's openjdk-17-jre-headless, or set JAVA_HOME"
    if not java or not pathlib.Path(java).exists():
        raise Lacking(f"Java is missing: {hint}")
    said = subprocess.run([java, "-version"], capture_output=True, text=True, check=True).stderr
    version = said.split('"')[1].split(".")[0]
    if version != "17":
        raise Lacking(f"{java} is Java {version}, but the servers need 17: {hint}")
    return java


def kept():
    """The folder outside the clone where tools are kept."""
    return pathlib.Path(subprocess.run([PROJECT / ".ci/kept"], capture_output=True, text=True, check=True).stdout.strip())


def jars_folder():
    """Where the jars of these versions are, or will be."""
    version = hashlib.sha256((HERE / "pom.xml").read_bytes()).hexdigest()[:16]
    return pathlib.Path(os.environ.get("RTP_STACK_JARS") or kept() / f"jars-{version}")


def fetch_jars(jars, name):
    """Copies a server's jars from Maven's repository, once, and one server at a time, because two Mavens in one repository collide."""
    jars.mkdir(parents=True, exist_ok=True)
    with open(kept() / "maven.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (jars / name / ".complete").exists():
            copy_jars(jars / name, name)


def copy_jars(target, name):
    if not shutil.which("mvn"):
        raise Lacking("Maven is missing: install it, for example Debian's maven")
    print(f"stack: downloading the jars of {name}", file=sys.stderr)
    target.mkdir(parents=True, exist_ok=True)
    command = ["mvn", "-q", "-B", "-f", str(HERE / "pom.xml"), f"-P{name}",
               "dependency:copy-dependencies", f"-DoutputDirectory={target.resolve()}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise Failure(f"Maven could not download the jars of {name}:\n{done.stdout[-2000:]}")
    if name == "postgres":
        unpack_postgres(target)
    (target / ".complete").touch()


def unpack_postgres(target):
    with zipfile.ZipFile(next(target.glob("embedded-postgres-binaries-*.jar"))) as jar:
        jar.extractall(target)
    with tarfile.open(next(target.glob("*.txz"))) as archive:
        archive.extractall(target)
    subprocess.run(["chmod", "-R", "a+rX", "."], cwd=target, check=True)


class Stack:
    """One folder of servers: ports and passwords in stack.json, one subfolder per server."""

    def __init__(self, folder, settings):
        self.folder = folder.resolve()
        self.settings = settings
        self.ports = settings["ports"]
        self.tls = settings["tls"]
        self.password = settings["password"]
        self.java = None
        self.children = {}

    @classmethod
    def load(cls, folder):
        file = folder / "stack.json"
        return cls(folder, json.loads(file.read_text())) if file.exists() else None

    @classmethod
    def create(cls, folder, ports, tls):
        numbers = FIXED if ports == "fixed" else dict(zip(FIXED, free_ports(len(FIXED))))
        stack = cls(folder, {"ports": numbers, "tls": tls, "password": secrets.token_hex(12)})
        # If this runs as root, the database's own user must be able to reach its files.
        folder.chmod(0o711)
        stack.save()
        (folder / "password").write_text(stack.password + "\n")
        (folder / "password").chmod(0o600)
        if tls:
            make_certificates(folder / "tls")
        return stack

    def save(self):
        file = self.folder / "stack.json"
        file.write_text(json.dumps(self.settings, indent=2) + "\n")
        file.chmod(0o600)

    def home(self, name):
        home = self.folder / name
        home.mkdir(exist_ok=True)
        return home

    def outside(self):
        """Where to put files for another user who cannot reach this folder."""
        name = hashlib.sha256(bytes(self.folder)).hexdigest()[:16]
        return pathlib.Path(tempfile.gettempdir()) / f"rtp-stack-{name}"

    def pid(self, name):
        file = self.folder / name / "pid"
        return int(file.read_text().split()[0]) if file.exists() else None

    def running(self, name):
        pid = self.pid(name)
        if pid is None:
            return False
        # The folder is on the server's command line: the process id may belong to another process by now.
        try:
            command = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
            return any(bytes(folder) in command for folder in [self.folder, self.outside()])
        except OSError:
            return False

    def answers(self, name):
        return self.running(name) and is_open(self.ports[name]) and globals()[f"is_ready_{name}"](self)

    def wait(self, name):
        deadline = time.monotonic() + START_SECONDS
        while not self.answers(name):
            # The command line of a program that has just been started cannot be read yet.
            child = self.children.get(name)
            ended = not self.running(name) if child is None else child.poll() is not None
            if ended or time.monotonic() > deadline:
                tail = "\n".join((self.folder / name / "server.log").read_text(errors="replace").splitlines()[-30:])
                raise Failure(f"{name} did not start; the end of its log:\n{tail}")
            time.sleep(0.2)

    def spawn(self, name, command, extra=None):
        home = self.home(name)
        if (home / "server.log").exists():
            # Readiness is read from the log of this start.
            (home / "server.log").replace(home / "server.log.1")
        with open(home / "server.log", "ab") as log:
            child = subprocess.Popen(command, cwd=home, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                     start_new_session=True, env={**os.environ, **(extra or {})})
        (home / "pid").write_text(f"{child.pid}\n")
        self.children[name] = child

    def stop(self, name):
        if not self.running(name):
            return
        pid = self.pid(name)
        os.kill(pid, signal.SIGCONT)
        os.kill(pid, signal.SIGINT if name == "postgres" else signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while self.running(name):
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
        (self.folder / name / "pid").unlink()

    def log_says(self, name, text):
        return text in (self.folder / name / "server.log").read_text(errors="replace")

    def address(self, name):
        return {"kafka": "kafka", "cassandra": "cassandra", "postgres": "postgres"}[name] + f" 127.0.0.1:{self.ports[name]}"

    def environment(self):
        """The variables with which rtp finds these servers."""
        ca = self.folder / "tls/ca.pem"
        kafka = f"127.0.0.1:{self.ports['kafka']}"
        cassandra = f"127.0.0.1:{self.ports['cassandra']}"
        postgres = f"127.0.0.1:{self.ports['postgres']}/postgres"
        if not self.tls:
            return {
                "RTP_EVENT_LOG": f"kafka://{kafka}",
                "RTP_REALTIME_STORE": f"cassandra://{cassandra}",
                "RTP_BATCH_STORE": f"postgres://rtp@{postgres}",
            }
        file = str(self.folder / "password")
        (self.folder / "cassandra.password").write_text("cassandra\n")
        (self.folder / "cassandra.password").chmod(0o600)
        return {
            "RTP_EVENT_LOG": f"kafka://rtp@{kafka}?tls=true&ca={ca}&sasl=scram-sha-512",
            "RTP_REALTIME_STORE": f"cassandra://cassandra@{cassandra}?tls=true&ca={ca}",
            "RTP_BATCH_STORE": f"postgres://rtp@{postgres}?sslmode=verify-full&sslrootcert={ca}",
            "RTP_KAFKA_PASSWORD_FILE": file,
            "RTP_CASSANDRA_PASSWORD_FILE": str(self.folder / "cassandra.password"),
            "RTP_POSTGRES_PASSWORD_FILE": file,
        }


def free_ports(count):
    """Unused ports; all held at the same time, so that they differ."""
    held = [socket.socket() for _ in range(count)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


def is_open(port):
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def make_certificates(folder):
    """A certificate authority and one certificate for 127.0.0.1, as PEM and PKCS 12."""
    folder.mkdir()
    folder.chmod(0o755)

    def openssl(*args):
        done = subprocess.run(["openssl", *args], cwd=folder, capture_output=True, text=True)
        if done.returncode != 0:
            raise Failure(f"openssl {args[0]} failed: {done.stderr}")

    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-days", "30",
            "-subj", "/CN=rtp test authority", "-addext", "basicConstraints=critical,CA:TRUE",
            "-addext", "keyUsage=critical,keyCertSign")
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost")
    (folder / "extensions").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n")
    openssl("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "30",
            "-extfile", "extensions", "-out", "server.pem")
    openssl("pkcs12", "-export", "-in", "server.pem", "-inkey", "server.key", "-name", "server",
            "-passout", "pass:changeit", "-out", "server.p12")
    (folder / "server.p12").chmod(0o644)


def cluster_id():
    """A new Kafka cluster's id: 16 random bytes in URL-safe base64. Kafka's tools would take a leading dash for an option."""
    while (made := secrets.token_urlsafe(16)).startswith("-"):
        pass
    return made


def start_kafka(stack, jars):
    home = stack.home("kafka")
    listener = "SASL_SSL" if stack.tls else "PLAINTEXT"
    port, controller = stack.ports["kafka"], stack.ports["kafka_controller"]
    lines = [
        "process.roles=broker,controller",
        "node.id=1",
        f"controller.quorum.voters=1@127.0.0.1:{controller}",
        f"listeners={listener}://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
        f"advertised.listeners={listener}://127.0.0.1:{port}",
        f"inter.broker.listener.name={listener}",
        "controller.listener.names=CONTROLLER",
        f"listener.security.protocol.map={listener}:{listener},CONTROLLER:PLAINTEXT",
        f"log.dirs={home / 'data'}",
        "auto.create.topics.enable=false",
        "offsets.topic.replication.factor=1",
        "offsets.topic.num.partitions=4",
        "transaction.state.log.replication.factor=1",
        "transaction.state.log.min.isr=1",
        "group.initial.rebalance.delay.ms=0",
    ]
    scram = []
    if stack.tls:
        plain = "org.apache.kafka.common.security.plain.PlainLoginModule"
        module = "org.apache.kafka.common.security.scram.ScramLoginModule"
        lines += [
            f"ssl.keystore.location={stack.folder / 'tls/server.p12'}",
            "ssl.keystore.type=PKCS12",
            "ssl.keystore.password=changeit",
            "sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
            "sasl.mechanism.inter.broker.protocol=PLAIN",
            f'listener.name.sasl_ssl.plain.sasl.jaas.config={plain} required username="rtp" password="{stack.password}" user_rtp="{stack.password}";',
            f"listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config={module} required;",
            f"listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config={module} required;",
            f"ssl.truststore.location={stack.folder / 'tls/ca.pem'}",
            "ssl.truststore.type=PEM",
        ]
        for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
            scram += ["--add-scram", f"{mechanism}=[name=rtp,password={stack.password}]"]
    config = home / "server.properties"
    config.write_text("\n".join(lines) + "\n")
    config.chmod(0o600)
    java = [stack.java, "-cp", f"{jars}/*"]
    if not (home / "data/meta.properties").exists():
        done = subprocess.run([*java, "kafka.tools.StorageTool", "format", "-t", cluster_id(), "-c", str(config), *scram],
                              capture_output=True, text=True)
        if done.returncode != 0:
            raise Failure(f"cannot format Kafka's storage:\n{done.stdout}{done.stderr}")
    heap = os.environ.get("RTP_KAFKA_HEAP", "768m")
    stack.spawn("kafka", [stack.java, f"-Xmx{heap}", "-XX:+UseG1GC", "-Dorg.slf4j.simpleLogger.showDateTime=true",
                          "-cp", f"{jars}/*", "kafka.Kafka", str(config)])


def is_ready_kafka(stack):
    return stack.log_says("kafka", "Kafka Server started")


def start_cassandra(stack, jars):
    home = stack.home("cassandra")
    # By default Cassandra acknowledges writes that a killed server may lose, up to the last 10 s.
    is_synced = os.environ.get("RTP_CASSANDRA_COMMITLOG_SYNC", "periodic") == "batch"
    sync = "commitlog_sync: batch" if is_synced else "commitlog_sync: periodic\ncommitlog_sync_period: 10000ms"
    yaml = f"""
cluster_name: rtp
num_tokens: 16
partitioner: org.apache.cassandra.dht.Murmur3Partitioner
data_file_directories: [{home}/data]
commitlog_directory: {home}/commitlog
saved_caches_directory: {home}/saved_caches
hints_directory: {home}/hints
cdc_raw_directory: {home}/cdc
{sync}
endpoint_snitch: SimpleSnitch
seed_provider:
  - class_name: org.apache.cassandra.locator.SimpleSeedProvider
    parameters: [{{seeds: "127.0.0.1:{stack.ports['cassandra_storage']}"}}]
listen_address: 127.0.0.1
storage_port: {stack.ports['cassandra_storage']}
rpc_address: 127.0.0.1
native_transport_port: {stack.ports['cassandra']}
start_native_transport: true
auto_snapshot: false
storage_compatibility_mode: NONE
memtable:
  configurations:
    skiplist: {{class_name: SkipListMemtable}}
    trie: {{class_name: TrieMemtable}}
    default: {{inherits: trie}}
memtable_allocation_type: offheap_objects
concurrent_writes: 16
concurrent_compactors: 1
authenticator: {'PasswordAuthenticator' if stack.tls else 'AllowAllAuthenticator'}
"""
    if stack.tls:
        yaml += f"""client_encryption_options:
  enabled: true
  optional: false
  keystore: {stack.folder}/tls/server.p12
  keystore_password: changeit
  store_type: PKCS12
"""
    config = home / "cassandra.yaml"
    config.write_text(yaml)
    (home / "logback.xml").write_text(
        '<configuration><appender name="OUT" class="ch.qos.logback.core.ConsoleAppender"><encoder>'
        "<pattern>%d %-5level %logger{20} %msg%n</pattern></encoder></appender>"
        '<root level="INFO"><appender-ref ref="OUT"/></root></configuration>\n'
    )
    opens = [flag for place in OPENS for flag in ("--add-exports", f"{place}=ALL-UNNAMED", "--add-opens", f"{place}=ALL-UNNAMED")]
    heap = os.environ.get("RTP_CASSANDRA_HEAP", "1g")
    stack.spawn("cassandra", [
        stack.java, f"-Xms{heap}", f"-Xmx{heap}", "-XX:+UseG1GC", "-Xss256k", "-Djdk.attach.allowAttachSelf=true",
        f"-Dcassandra.config=file://{config}", f"-Dlogback.configurationFile={home}/logback.xml",
        f"-Dcassandra.storagedir={home}", "-Dcassandra-foreground=yes", "-Dcassandra.ring_delay_ms=1",
        "-Dcassandra.skip_wait_for_gossip_to_settle=0", "-Dcassandra.superuser_setup_delay_ms=0",
        f"-Dcassandra.jmx.local.port={stack.ports['cassandra_jmx']}", *opens,
        "-cp", f"{jars}/*", "org.apache.cassandra.service.CassandraDaemon",
    ])


def is_ready_cassandra(stack):
    role = not stack.tls or stack.log_says("cassandra", "Created default superuser role") or (stack.home("cassandra") / "role").exists()
    if stack.tls and role:
        (stack.home("cassandra") / "role").touch()
    return role and stack.log_says("cassandra", "Starting listening for CQL clients")


def start_postgres(stack, jars):
    home = stack.home("postgres")
    user = []
    if os.getuid() == 0:
        # The server refuses to run as root.
        nobody = pwd.getpwnam("nobody")
        user = ["setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups", "--"]
        if not all(subprocess.run([*user, "test", "-x", str(folder)]).returncode == 0 for folder in [home, jars / "bin"]):
            jars, home = move_out(stack, jars)
        shutil.chown(home, "nobody")

    def hand_over(file, target):
        shutil.copy(file, target)
        if user:
            shutil.chown(target, "nobody")
        target.chmod(0o600)
        return str(target)

    if not (home / "data/PG_VERSION").exists():
        password = hand_over(stack.folder / "password", home / "pwfile")
        auth = "scram-sha-256" if stack.tls else "trust"
        done = subprocess.run([*user, str(jars / "bin/initdb"), "-D", str(home / "data"), "-U", "rtp", "-E", "UTF8",
                               "--no-locale", f"--auth={auth}", f"--pwfile={password}"], cwd=home, capture_output=True, text=True)
        (home / "pwfile").unlink()
        if done.returncode != 0:
            raise Failure(f"cannot create PostgreSQL's data folder:\n{done.stdout}{done.stderr}")
    options = ["-c", "listen_addresses=127.0.0.1", "-c", f"port={stack.ports['postgres']}", "-c", "unix_socket_directories="]
    if stack.tls:
        options += ["-c", "ssl=on"]
        for setting, name in [("ssl_cert_file", "server.pem"), ("ssl_key_file", "server.key")]:
            options += ["-c", f"{setting}={hand_over(stack.folder / 'tls' / name, home / name)}"]
        (home / "data/pg_hba.conf").write_text("hostssl all all 127.0.0.1/32 scram-sha-256\n")
    stack.spawn("postgres", [*user, str(jars / "bin/postgres"), "-D", str(home / "data"), *options])


def move_out(stack, jars):
    """Binaries and a home for PostgreSQL that another user can reach even if the folders above the stack are closed to it."""
    place = stack.outside()
    if not place.exists():
        place.mkdir(mode=0o711)
        for name in ["bin", "lib", "share"]:
            shutil.copytree(jars / name, place / name, symlinks=True)
        (place / "home").mkdir(mode=0o700)
    return place, place / "home"


def is_ready_postgres(stack):
    return stack.log_says("postgres", "database system is ready to accept connections")


if __name__ == "__main__":
    sys.exit(main())
