"""The stream stage of rtp as a Spark job: Kafka -> micro-batches -> Cassandra, from the same dataset file.

Spark handles offsets, distribution, writing and metrics. The rules are the binary's: an `rtp transform` runs beside each
task, so rows and dead letters are the same, bit for bit, as those of `rtp stream`. Rows and dead letters are durable
before Spark's checkpoint moves, and a replayed micro-batch writes the same rows with the same timestamps.
docs/servers.md explains how to run it, on this machine or on a cluster, and what differs from `rtp stream`.
"""

import contextlib
import datetime
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time

import prometheus_client
import pyarrow
from pyspark import SparkFiles
from pyspark.sql import Observation, functions
from pyspark.sql.streaming import StreamingQueryListener

from job import DEPENDENCY, DONE, INIT, INTERRUPTED, MISSING, NO, TERMINATED, USAGE, Failure, Report, Server, main, options, spark

CONNECTOR = "org.apache.spark.sql.cassandra"
#: Time limit for a request of the Kafka admin client, and for a child to exit.
PATIENCE_MS = 10_000
#: Defaults, unless Spark's own configuration sets them.
SETTINGS = {
    "spark.sql.streaming.metricsEnabled": "true",
    # Like `rtp stream`: unlogged batches for one replica set, below Cassandra's warning at 5 KiB including its overhead.
    "spark.cassandra.output.batch.grouping.key": "replica_set",
    "spark.cassandra.output.batch.size.bytes": "2048",
    "spark.cassandra.output.concurrent.writes": "64",
}


def arguments():
    parser = options(__doc__)
    add = parser.add_argument
    add("--rtp", default=os.environ.get("RTP_BIN"), metavar="FILE", help="the binary [default: RTP_BIN, or rtp among --files or in PATH]")
    add("--event-log", default=os.environ.get("RTP_EVENT_LOG"), metavar="URL", help="kafka://[USER@]HOST:PORT[,HOST:PORT]")
    add("--realtime-store", default=os.environ.get("RTP_REALTIME_STORE"), metavar="URL", help="cassandra://[USER@]HOST:PORT[,HOST:PORT]")
    add("--checkpoint", required=True, metavar="DIR", help="where Spark keeps its position; on a cluster, a folder that all nodes share")
    add("--group", default="rtp", metavar="NAME", help="consumer group that the offsets are committed to [default: rtp]")
    add("--until-end", action="store_true", help="stop at the end of the topic as it was at the start")
    add("--trigger", default="0s", metavar="DURATION", help="when following: time between micro-batches, such as 1s [default: none]")
    add("--max-batch", type=int, default=100_000, metavar="N", help="maximum events in a micro-batch [default: 100000]")
    add("--metrics-port", type=int, metavar="PORT", help="serve Prometheus metrics on this port; 0 picks a free port and logs it")
    args = parser.parse_args()
    if not (trigger := re.fullmatch(r"(\d+)(ms|s|m|h)", args.trigger)) or args.max_batch < 1:
        parser.error("--max-batch must be at least 1" if trigger else "--trigger must be a duration such as 500ms, 1s or 5m")
    args.trigger_ms = int(trigger[1]) * {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000}[trigger[2]]
    return args


def stream(args, run):
    """Runs the query to its end; returns the exit status."""
    if args.metrics_port is not None:
        run.serve(args.metrics_port)
    kafka = Kafka(args.event_log, "kafka", 9092, "--event-log")
    cassandra = Cassandra(args.realtime_store, "cassandra", 9042, "--realtime-store")
    kafka_options, cassandra_options = kafka.options(), cassandra.options()
    session = spark("rtp stream")
    session.streams.addListener(run)
    run.listen()
    try:
        settings = {name: value for name, value in SETTINGS.items() if not session.sparkContext.getConf().contains(name)}
        for name, value in (settings | cassandra_options).items():
            session.conf.set(name, value)
        if cassandra.tls and "ca" in cassandra.parameters:
            trust(session, cassandra.parameters["ca"])
        rules = Rules(session, args.rtp, args.dataset)
        group = Group(session, kafka_options, rules.dataset["topic"], args.group)
        query = Job(session, rules, kafka_options, group, run, args).start()
        while not query.awaitTermination(0.2):
            if run.signal and not query.status["isTriggerActive"]:
                query.stop()
        run.ended.wait(10)
    except Failure:
        raise
    except Exception as error:
        if not run.has_stopped:
            raise failure(error, kafka, cassandra) from error
    finally:
        session.stop()
    if run.signal and args.until_end:
        return INTERRUPTED if run.signal == signal.SIGINT else TERMINATED
    if run.counts["read"] == 0 and args.until_end:
        run.log("warn", "there are no new events in the topic")
    return NO if run.counts["rejected"] else DONE


def failure(error, kafka, cassandra):
    """Translates an exception from Spark, a driver or a task for whoever started the job."""
    text = str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for line in lines:
        if "ChildProcessError: " in line:
            return Failure(DEPENDENCY, line.partition("ChildProcessError: ")[2])
        if re.search("data may have been|startingOffsets for", line):
            return Failure(MISSING, f"{kafka.address}: events were deleted before they were read: {re.sub('.*[Ee]xception: ', '', line)[:500]}")
    causes = [line for line in lines if "Exception" in line or "Error" in line]
    message = (causes or lines or [type(error).__name__])[-1][:500].removeprefix("Caused by: ")
    at_fault = [f"{server.address}: " for server, trace in ((cassandra, "datastax"), (kafka, "apache.kafka.")) if trace in text]
    return Failure(DEPENDENCY, "".join(at_fault[:1]) + message)


class Kafka(Server):
    """The address of the event log."""

    MECHANISMS = {"plain": "plain.Plain", "scram-sha-256": "scram.Scram", "scram-sha-512": "scram.Scram"}

    def options(self):
        """The properties of Kafka's clients."""
        mechanism = self.choice("sasl", self.MECHANISMS)
        security = ("SASL_" if mechanism else "") + ("SSL" if self.tls else "PLAINTEXT")
        options = {"bootstrap.servers": ",".join(self.hosts), "security.protocol": security}
        if self.tls and "ca" in self.parameters:
            options |= {"ssl.truststore.type": "PEM", "ssl.truststore.location": self.parameters["ca"]}
        if mechanism:
            user, password = (text.replace("\\", "\\\\").replace('"', '\\"') for text in (self.user, self.password()))
            module = f"org.apache.kafka.common.security.{self.MECHANISMS[mechanism]}LoginModule"
            options["sasl.mechanism"] = mechanism.upper()
            options["sasl.jaas.config"] = f'{module} required username="{user}" password="{password}";'
        return options


class Cassandra(Server):
    """The address of the real-time store."""

    def options(self):
        """The settings of the connector."""
        options = {"connection.host": ",".join(self.hosts), "connection.port": self.hosts[0].rpartition(":")[2]}
        options["output.consistency.level"] = self.parameters.get("consistency", "local_quorum").upper()
        options |= {"auth.username": self.user, "auth.password": self.password()} if self.user else {}
        options |= {"connection.ssl.enabled": "true"} if self.tls else {}
        return {f"spark.cassandra.{name}": value for name, value in options.items()}


def trust(session, ca):
    """Creates a trust store for the connector from a file of certificates, on this machine; for a cluster, see docs/servers.md."""
    prefix = "spark.cassandra.connection.ssl.trustStore"
    if session.sparkContext.getConf().contains(f"{prefix}.path"):
        return
    java, store = session._jvm.java, session._jvm.java.security.KeyStore.getInstance("PKCS12")
    store.load(None, None)
    factory = java.security.cert.CertificateFactory.getInstance("X.509")
    for number, certificate in enumerate(factory.generateCertificates(java.io.FileInputStream(ca))):
        store.setCertificateEntry(str(number), certificate)
    password = session.sparkContext._gateway.new_array(session._jvm.char, 1)
    password[0] = "-"  # it contains no secrets
    file = f"{session.sparkContext._temp_dir}/trust.p12"
    store.store(java.io.FileOutputStream(file), password)
    for name, value in {"path": file, "password": "-", "type": "PKCS12"}.items():
        session.conf.set(f"{prefix}.{name}", value)


class Rules:
    """The binary and the dataset file, which are sent to every executor, and what the binary says about the dataset."""

    #: Times are passed to Spark as numbers, because its own types can represent neither all of them nor each one exactly.
    PLAIN = {pyarrow.timestamp("ms", "UTC"): pyarrow.int64(), pyarrow.date32(): pyarrow.int32()}
    SPARK = {"int32": "int", "int64": "bigint", "double": "double", "bool": "boolean", "string": "string"}

    def __init__(self, session, binary, dataset):
        sent = SparkFiles.get("rtp")
        binary = shutil.which(wanted := binary or (sent if os.path.exists(sent) else "rtp"))
        if binary is None:
            raise Failure(USAGE, f"cannot run {wanted}: set RTP_BIN or --rtp to the binary rtp, or send it with --files")
        command = [binary, "transform", "--to", "arrow", "--log-format", "json", "--dataset", dataset]
        asked = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, env=environment())
        if asked.returncode:
            raise Failure(USAGE, f"invalid dataset {dataset}: {message_of(asked.stderr)}")
        for file in {binary, dataset} - {sent}:
            session.sparkContext.addFile(os.path.abspath(file))
        self.files = os.path.basename(binary), os.path.basename(dataset)
        self.schema = pyarrow.ipc.open_stream(asked.stdout).schema
        self.dataset = json.loads(self.schema.metadata[b"rtp.dataset"])

    def answers(self, events, now):
        """Replaces the timestamp and the value of each event, the last columns, with those of the binary's answer."""
        files, plain = self.files, self.PLAIN

        def answers_of(batches):
            with contextlib.ExitStack() as stack:
                child = None
                for batch in batches:
                    child = child or stack.enter_context(Child(files, now))
                    answers = child.answer(batch)
                    columns = [column.view(plain.get(column.type, column.type)) for column in answers.columns]
                    yield pyarrow.record_batch([*batch.columns[:-2], *columns], [*batch.schema.names[:-2], *answers.schema.names])
                if child:
                    child.finish()

        columns = [f"`{column.name}` {self.SPARK[str(plain.get(column.type, column.type))]}" for column in self.schema]
        return events.mapInArrow(answers_of, ", ".join(["partition int, offset bigint, size bigint", *columns]))


class Child(subprocess.Popen):
    """An `rtp transform` beside a task. It answers a batch before it reads the next one, and each event with one row."""

    #: The timestamp is the event's in the log, in ms: if a clock here is behind, it decides what is in the future.
    EVENTS = pyarrow.schema([("timestamp", pyarrow.int64()), ("value", pyarrow.binary())])

    def __init__(self, files, now):
        binary, dataset = map(SparkFiles.get, files)
        command = [binary, "transform", "--from", "arrow", "--to", "arrow", "--now", now, "--dataset", dataset, "--quiet", "--log-format", "json"]
        self.said = tempfile.TemporaryFile()
        super().__init__(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.said, env=environment())
        with self.heeded():
            self.reader = pyarrow.ipc.open_stream(self.stdout)
            self.writer = pyarrow.ipc.new_stream(self.stdin, self.EVENTS)

    def answer(self, events):
        with self.heeded():
            self.writer.write_batch(pyarrow.record_batch([events.column(name) for name in self.EVENTS.names], schema=self.EVENTS))
            self.stdin.flush()
            answers = self.reader.read_next_batch()
            if answers.num_rows != events.num_rows:
                raise EOFError(f"{answers.num_rows} answers to {events.num_rows} events")
            return answers

    def finish(self):
        """It must find its input complete, return no more answers, and exit with the status for good or for rejected events."""
        with self.heeded():
            self.writer.close()
            self.stdin.close()
            if self.reader.read_all().num_rows or self.wait(PATIENCE_MS / 1_000) not in (DONE, NO):
                raise EOFError("unexpected end")

    @contextlib.contextmanager
    def heeded(self):
        """If a pipe breaks or an answer is short, the task fails with the child's status and message."""
        try:
            yield
        except (EOFError, OSError, StopIteration, pyarrow.ArrowInvalid, subprocess.TimeoutExpired) as error:
            with contextlib.suppress(OSError):
                self.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.wait(PATIENCE_MS / 1_000)
            self.said.seek(0)
            how = f"status {self.poll()}, {message_of(self.said.read())} ({type(error).__name__}: {error})"
            raise ChildProcessError(f"rtp transform did not answer all events: {how}") from None

    def __exit__(self, *_):
        """No child outlives its task, however that ends."""
        self.kill()
        self.wait()


def environment():
    """The environment of a child, which needs none of the job's own settings and passwords."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RTP_")}


def message_of(said):
    """The last error that rtp logged, or else the last line of its output."""
    lines = said.decode(errors="replace").splitlines() or ["no output"]
    errors = [line for line in lines if '"level":"error"' in line]
    return json.loads(errors[-1])["message"] if errors else lines[-1]


def needed(what, sign, look):
    """If the thing is missing, the user must create it."""
    try:
        return look()
    except Exception as error:
        if sign in str(error):
            raise Failure(USAGE, f"there is no {what}; {INIT}") from error
        raise


class Job:
    """The query: writes micro-batches of events to tables and dead letters."""

    def __init__(self, session, rules, kafka_options, group, run, args):
        self.session, self.rules, self.group, self.run, self.args = session, rules, group, run, args
        self.kafka_options = {f"kafka.{name}": value for name, value in kafka_options.items()}
        self.keyspace, self.table = rules.dataset["keyspace"], rules.dataset["table"]
        names = [name for name in rules.schema.names if not name.startswith("rtp_")]
        fields = {name: name for name in names if "." not in name} | {"rtp_partition": "partition", "rtp_offset": "offset"}
        #: For each table, its columns with their names in the answers: `table.column` is for that table only.
        self.tables = {self.table: fields}
        for table, _, column in (name.rpartition(".") for name in names if "." in name):
            self.tables.setdefault(table, dict(fields))[column] = f"{table}.{column}"
        for table, columns in self.tables.items():
            place, frame = f"{self.keyspace}.{table}", session.read.format(CONNECTOR).options(keyspace=self.keyspace, table=table)
            found = needed(f"table {place}", "Couldn't find", lambda: frame.load().columns)
            for column in sorted(columns.keys() - set(found)):
                raise Failure(USAGE, f"table {place} has no column {column}; {INIT}")

    def start(self):
        options = self.kafka_options | {"kafka.isolation.level": "read_committed", "subscribe": self.group.topic, "includeHeaders": "true"}
        options |= {"startingOffsets": json.dumps({self.group.topic: self.group.committed}), "maxOffsetsPerTrigger": str(self.args.max_batch)}
        source = self.session.readStream.format("kafka").options(**options, failOnDataLoss="true")
        trigger = {"availableNow": True} if self.args.until_end else {"processingTime": f"{self.args.trigger_ms} milliseconds"}
        return source.load().writeStream.foreachBatch(self.store).option("checkpointLocation", self.args.checkpoint).trigger(**trigger).start()

    def store(self, events, batch_id):
        """Rows first, then dead letters, then the group's offsets; the checkpoint moves when this returns. All tasks
        use the same time as now, so a repeated task gets the same rows and rejects."""
        self.run.check()
        size = "CAST(coalesce(length(key), 0) + coalesce(length(value), 0) AS BIGINT) AS size"
        rows = self.rules.answers(events.selectExpr("partition", "offset", size, "unix_millis(timestamp) AS timestamp", "value"), datetime.datetime.now(datetime.UTC).isoformat())
        if len(self.tables) > 1:
            rows.persist()
        counts = self.write(rows)
        if counts["rejected"]:
            self.send_dead_letters(events, rows)
        rows.unpersist()
        self.group.commit(self.end_of(batch_id))
        self.run.add(counts)

    def end_of(self, batch_id):
        """Where a micro-batch ends in each partition, according to Spark's own log: after aborted events and control records."""
        streaming = self.session._jvm.org.apache.spark.sql.execution.streaming
        log = streaming.OffsetSeqLog(self.session._jsparkSession, f"{self.args.checkpoint}/offsets")
        end = json.loads(log.get(batch_id).get().offsets().head().get().json())
        return {int(partition): offset for partition, offset in end[self.group.topic].items()}

    def write(self, rows):
        """Writes the newest event of each key, and every event to the tables for reads by time. Returns the counts."""
        seen = Observation()
        measures = {"read": "count(1)", "written": "count_if(rtp_newest)", "rejected": "count_if(rtp_rule IS NOT NULL)", "bytes": "coalesce(sum(size), 0)"}
        counted = rows.observe(seen, *(functions.expr(measure).alias(name) for name, measure in measures.items()))
        for table, columns in self.tables.items():
            of_table = counted.where("rtp_newest") if table == self.table else rows.where("rtp_rule IS NULL")
            named = [functions.col(f"`{name}`").alias(column) for column, name in columns.items()]
            self.save(of_table.select(*named, "rtp_write_timestamp"), table, writetime="rtp_write_timestamp")
        counts = seen.get
        if counts["written"]:  # `rtp heartbeat` reads when that was
            now = functions.lit(time.time_ns() // 1_000_000).alias("written_at")
            self.save(self.session.range(1).select(functions.lit(self.table).alias("target"), now), "rtp_progress")
        return counts | {"deduplicated": counts["read"] - counts["written"] - counts["rejected"]}

    def save(self, rows, table, **options):
        options["spark.cassandra.output.ignoreNulls"] = str(self.rules.dataset["null"] == "unset").lower()
        rows.write.format(CONNECTOR).mode("append").options(keyspace=self.keyspace, table=table, **options).save()

    def send_dead_letters(self, events, rows):
        """Reads the events a second time, so that keys and headers of the good ones never leave the JVM."""
        rejects = rows.where("rtp_rule IS NOT NULL").select("partition", "offset", "rtp_rule", "rtp_field", "rtp_message")
        column, lit, errors = functions.col, functions.lit, "__connect.errors"
        headers = {
            f"{errors}.topic": lit(self.group.topic), f"{errors}.partition": column("partition"), f"{errors}.offset": column("offset"),
            f"{errors}.stage": lit("stream"), f"{errors}.exception.class.name": column("rtp_rule"), f"{errors}.exception.message": column("rtp_message"),
            "rtp.rule": column("rtp_rule"), "rtp.field": column("rtp_field"), "rtp.run_id": lit(self.run.id),
        }
        ours = [functions.struct(lit(name).alias("key"), value.cast("string").cast("binary").alias("value")) for name, value in headers.items()]
        letters = events.join(functions.broadcast(rejects), ["partition", "offset"]).withColumn("ours", functions.array(*ours)).selectExpr(
            "key", "value", "IF(key IS NULL, 0, NULL) AS partition",
            """concat(transform(coalesce(headers, array()), h -> struct(h.key AS key, coalesce(h.value, X'') AS value)),
                      filter(ours, h -> h.value IS NOT NULL)) AS headers""",
        )
        letters.write.format("kafka").options(**self.kafka_options, topic=f"{self.group.topic}.dlq", includeHeaders="true").save()


class Group:
    """The consumer group's offsets, through the admin client of the JVM."""

    def __init__(self, session, options, topic, name):
        self.kafka, self.topic, self.name = session._jvm.org.apache.kafka, topic, name
        self.partition = lambda number: self.kafka.common.TopicPartition(topic, number)
        self.admin = self.kafka.clients.admin.AdminClient.create(options | {"request.timeout.ms": PATIENCE_MS, "default.api.timeout.ms": PATIENCE_MS})
        asked = [(each, self.admin.describeTopics([each]).allTopicNames()) for each in (topic, f"{topic}.dlq")]
        described = [needed(f"topic {each}", "UnknownTopicOrPartition", answer.get) for each, answer in asked]
        numbers = [partition.partition() for partition in described[0].get(topic).partitions()]
        # While a group has members, only they can commit its offsets.
        state = self.admin.describeConsumerGroups([name]).all().get().get(name).state().toString()
        if state not in ("Empty", "Dead"):
            raise Failure(USAGE, f"the consumer group {name} has members; stop them, or use another --group")
        committed = self.admin.listConsumerGroupOffsets(name).partitionsToOffsetAndMetadata().get()
        stored = {number: committed.get(self.partition(number)) for number in numbers}
        #: Where a new checkpoint starts; -2, the oldest event, for partitions that the group has never read.
        self.committed = {number: -2 if offset is None else offset.offset() for number, offset in stored.items()}

    def commit(self, offsets):
        """Offsets never move back, although an older checkpoint may."""
        moved = {partition: offset for partition, offset in offsets.items() if offset > self.committed.get(partition, -2)}
        if moved:
            at = self.kafka.clients.consumer.OffsetAndMetadata
            self.admin.alterConsumerGroupOffsets(self.name, {self.partition(p): at(offset) for p, offset in moved.items()}).all().get()
            self.committed |= moved


class Run(StreamingQueryListener, Report):
    """The run's id, counts, micro-batch durations, messages and metrics."""

    BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60)

    def __init__(self, log_format):
        Report.__init__(self, "stream", log_format)
        self.ended, self.signal, self.has_stopped = threading.Event(), None, False
        self.metrics = prometheus_client.CollectorRegistry()
        self.counters = {name: prometheus_client.Counter(f"rtp_stream_{name}", f"Same as {name} in the summary.", registry=self.metrics) for name in self.COUNTS}
        self.batch_seconds = prometheus_client.Histogram(
            "rtp_stream_batch_duration_seconds", "Time from a micro-batch's trigger to its commit.", buckets=self.BUCKETS, registry=self.metrics)

    def add(self, counts):
        super().add(counts)
        for name, count in counts.items():
            self.counters[name].inc(count)

    def serve(self, port):
        try:
            server, _ = prometheus_client.start_http_server(port, registry=self.metrics)
        except OSError as error:
            raise Failure(USAGE, f"cannot serve metrics on port {port}: {error.strerror}") from error
        self.log("info", f"metrics at http://127.0.0.1:{server.server_port}/metrics")

    def listen(self):
        """On SIGTERM or SIGINT the running micro-batch finishes, and no other one starts."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _frame: setattr(self, "signal", number))

    def check(self):
        """Raises in a micro-batch that is about to start, which ends the query without moving its position."""
        if self.signal:
            self.has_stopped = True
            raise Failure(DONE, "told to stop")

    def onQueryProgress(self, event):
        if event.progress.numInputRows:
            self.batch_seconds.observe(event.progress.durationMs["triggerExecution"] / 1_000)

    onQueryTerminated = lambda self, event: self.ended.set()
    onQueryStarted = onQueryIdle = lambda self, event: None


if __name__ == "__main__":
    args = arguments()
    run = Run(args.log_format)
    main(run, lambda: stream(args, run))
