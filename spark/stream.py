"""The stream stage of rtp as a Spark job: Kafka -> micro-batches -> Cassandra, from the same dataset file.

It does what `rtp stream` does, with the same rules, dead letters, nulls and write timestamps, for data that
one machine cannot stream. Both may take turns on one topic and one table: a row is the same, bit for bit,
whichever of them wrote it.

    ./justw spark-stream --until-end                     # PyPI's pyspark on this machine
    spark-submit --master yarn --deploy-mode client \\
        --packages org.apache.spark:spark-sql-kafka-0-10_2.12:3.5.3,com.datastax.spark:spark-cassandra-connector_2.12:3.5.1 \\
        --archives environment.tar.gz#environment --conf spark.pyspark.python=environment/bin/python \\
        spark/stream.py --dataset schema/users.toml --checkpoint hdfs:///rtp/users --trigger 1s

The environment needs spark/requirements.txt on every node; Kafka and Cassandra are found by RTP_EVENT_LOG and
RTP_REALTIME_STORE, their passwords by RTP_KAFKA_PASSWORD_FILE and RTP_CASSANDRA_PASSWORD_FILE, and `rtp init`
has made the topics and tables.

Delivery: rows and dead letters are durable before Spark's checkpoint moves, and a replayed micro-batch writes the
same rows at the same timestamps. The offsets are also committed to the consumer group, for lag tools and for
`rtp heartbeat`; a new checkpoint starts where the group is, else at the oldest event. One job has a group for
itself: Kafka refuses the commit while `rtp stream` reads in it.

Unlike `rtp stream` it waits through no outage longer than the drivers do, but ends with status 4, to be started
again; a row that Cassandra itself refuses ends it too. In a dead letter of broken JSON the parser's words differ.
"""

import argparse
import bisect
import datetime
import http.server
import json
import os
import pathlib
import re
import signal
import stat
import struct
import sys
import threading
import time
import tomllib
import urllib.parse
import uuid

import pyarrow
import xxhash
from pyspark.sql import SparkSession, functions
from pyspark.sql.streaming import StreamingQueryListener

DONE, NO, USAGE, DEPENDENCY, MISSING, INTERRUPTED, TERMINATED = 0, 1, 2, 4, 5, 130, 143
CONNECTOR = "org.apache.spark.sql.cassandra"
#: How long one request of the Kafka admin client may take.
PATIENCE_MS = 10_000
#: Taken where Spark's own configuration does not say otherwise.
SETTINGS = {
    "spark.sql.streaming.metricsEnabled": "true",
    "spark.sql.shuffle.partitions": "1",  # all that is shuffled are counts
    # As `rtp stream` does: small unlogged batches for one replica, below Cassandra's warning of 5 KiB with what it
    # adds to each value.
    "spark.cassandra.output.batch.grouping.key": "replica_set",
    "spark.cassandra.output.batch.size.bytes": "2048",
    "spark.cassandra.output.concurrent.writes": "64",
}


class Failure(Exception):
    """What ends the run: a message for the user and the exit status."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


class Stopped(Exception):
    """A micro-batch that is not begun, because a signal asked for the end."""


def main():
    args = arguments()
    run = Run(args.log_format)
    try:
        status = stream(args, run)
    except Failure as failure:
        run.log("error", str(failure))
        status = failure.status
    run.summary(status)
    # Spark's threads may wait for a JVM that is gone.
    sys.stderr.flush()
    os._exit(status)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--dataset", type=pathlib.Path, default=os.environ.get("RTP_DATASET", pathlib.Path(__file__).parent.parent / "schema/users.toml"))
    add("--event-log", default=os.environ.get("RTP_EVENT_LOG"), metavar="URL", help="kafka://[USER@]HOST:PORT[,HOST:PORT]")
    add("--realtime-store", default=os.environ.get("RTP_REALTIME_STORE"), metavar="URL", help="cassandra://[USER@]HOST:PORT[,HOST:PORT]")
    add("--checkpoint", required=True, metavar="DIR", help="where Spark keeps its place; on a cluster a folder that all nodes share")
    add("--group", default="rtp", metavar="NAME", help="consumer group that the offsets are committed to [default: rtp]")
    add("--until-end", action="store_true", help="stop at the end of the topic as it was at the start")
    add("--trigger", type=duration_ms, default=0, metavar="DURATION", help="in following, time between micro-batches, such as 1s [default: none]")
    add("--max-batch", type=positive, default=100_000, metavar="N", help="most events of a micro-batch [default: 100000]")
    add("--metrics-port", type=int, metavar="PORT", help="serve Prometheus metrics there; 0 takes a free port and says which")
    add("--log-format", choices=["text", "json"], default="text")
    return parser.parse_args()


def duration_ms(text):
    number, unit = re.fullmatch(r"(\d+)(ms|s|m|h)", text).groups()
    return int(number) * {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000}[unit]


def positive(text):
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def stream(args, run):
    """Runs the query to its end; yields the exit status."""
    dataset = Dataset.load(args.dataset)
    kafka = Server.parse(args.event_log, "kafka", 9092, "--event-log")
    cassandra = Server.parse(args.realtime_store, "cassandra", 9042, "--realtime-store")
    kafka_options, cassandra_options = kafka.kafka_options(), cassandra.cassandra_options()
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    session = SparkSession.builder.appName(f"rtp stream {dataset.name}").config("spark.ui.showConsoleProgress", "false").getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    stop = StopSignal()
    try:
        set_by_user = {name for name, _ in session.sparkContext.getConf().getAll()}
        for name, value in cassandra_options.items() | {item for item in SETTINGS.items() if item[0] not in set_by_user}:
            session.conf.set(name, value)
        if cassandra.tls and "ca" in cassandra.parameters:
            trust(session, cassandra.parameters["ca"])
        group = Group(session, kafka_options, dataset.topic, args.group)
        group.check_topics([dataset.topic, f"{dataset.topic}.dlq"])
        group.check_members()
        job = Job(session, dataset, kafka_options, group, run, stop)
        job.check_tables()
        progress = Progress(run, args.metrics_port)
        session.streams.addListener(progress)
        query = job.start(args)
        while not query.awaitTermination(0.2):
            if stop.signal and not query.status["isTriggerActive"]:
                query.stop()
        progress.ended.wait(10)
    except Failure:
        raise
    except Exception as error:
        if not stop.was_heeded:
            raise failure(error, kafka, cassandra) from error
    finally:
        session.stop()
    if stop.signal and args.until_end:
        return INTERRUPTED if stop.signal == signal.SIGINT else TERMINATED
    if run.counts["read"] == 0 and args.until_end:
        run.log("warn", "there was no new event in the topic")
    return NO if run.counts["rejected"] else DONE


def failure(error, kafka, cassandra):
    """What an exception of Spark or of a driver means to whoever started the job."""
    text = str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    causes = [line for line in lines if "Exception" in line or "Error" in line]
    message = (causes or lines or [type(error).__name__])[-1][:500]
    at_fault = [server.address() for server, trace in ((cassandra, "datastax"), (kafka, "apache.kafka.")) if trace in text]
    if at_fault:
        message = f"{at_fault[0]}: {message.removeprefix('Caused by: ')}"
    lost = next((line for line in lines if re.search("data may have been|startingOffsets for", line)), None)
    if lost:
        return Failure(MISSING, f"{kafka.address()}: events are gone before they were read: {re.sub('.*[Ee]xception: ', '', lost)[:500]}")
    return Failure(DEPENDENCY, message)


class StopSignal:
    """SIGTERM and SIGINT let the running micro-batch end, and no other begin."""

    def __init__(self):
        self.signal = None
        self.was_heeded = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.request)

    def request(self, number, _frame):
        self.signal = number

    def check(self):
        """Raised in a micro-batch that is about to begin, this ends the query and leaves its place as it is."""
        if self.signal:
            self.was_heeded = True
            raise Stopped


# --- Addresses


PARAMETERS = {"kafka": ("ca", "sasl", "tls"), "cassandra": ("ca", "consistency", "tls")}


class Server:
    """The address of a server: `scheme://[USER@]HOST[:PORT][,HOST[:PORT]][?NAME=VALUE[&NAME=VALUE]]`."""

    def __init__(self, name, user, hosts, parameters):
        self.name, self.user, self.hosts, self.parameters = name, user, hosts, parameters
        if parameters.get("tls", "false") not in ("true", "false"):
            raise Failure(USAGE, f"tls={parameters['tls']} is not known, allowed are: true, false")
        self.tls = parameters.get("tls") == "true"

    @classmethod
    def parse(cls, text, scheme, port, option):
        if not (text or "").startswith(f"{scheme}://"):
            raise Failure(USAGE, f"{option} must be {scheme}://HOST:PORT[,HOST:PORT]")
        authority, _, query = text.removeprefix(f"{scheme}://").partition("?")
        user, _, hosts = authority.strip("/").rpartition("@")
        if ":" in user:
            raise Failure(USAGE, f"a password does not belong in an address; give it by RTP_{scheme.upper()}_PASSWORD_FILE")
        parameters = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
        unknown = sorted(set(parameters) - set(PARAMETERS[scheme]))
        if unknown:
            raise Failure(USAGE, f"unknown parameter `{unknown[0]}`, allowed are: {', '.join(PARAMETERS[scheme])}")
        with_port = [host if re.search(r":\d+$", host) else f"{host}:{port}" for host in hosts.split(",")]
        return cls(scheme, user, with_port, parameters)

    def address(self):
        return f"{self.name}://{','.join(self.hosts)}"

    def password(self):
        variable = f"RTP_{self.name.upper()}_PASSWORD"
        file = os.environ.get(f"{variable}_FILE")
        if file is None:
            text = os.environ.get(variable)
            if not text:
                raise Failure(USAGE, f"the password of {self.user} is missing; set {variable}_FILE or {variable}")
            return text
        try:
            if os.stat(file).st_mode & stat.S_IRWXO:
                raise Failure(USAGE, f"everybody on this machine may read the secret in {file}")
            return pathlib.Path(file).read_text().rstrip("\r\n")
        except OSError as error:
            raise Failure(USAGE, f"cannot read the secret in {file}: {error.strerror}") from error

    def kafka_options(self):
        """The properties of Kafka's clients."""
        options = {"bootstrap.servers": ",".join(self.hosts)}
        mechanism = self.parameters.get("sasl")
        options["security.protocol"] = ("SASL_" if mechanism else "") + ("SSL" if self.tls else "PLAINTEXT")
        if self.tls and "ca" in self.parameters:
            options |= {"ssl.truststore.type": "PEM", "ssl.truststore.location": self.parameters["ca"]}
        if mechanism:
            modules = {"plain": "plain.Plain", "scram-sha-256": "scram.Scram", "scram-sha-512": "scram.Scram"}
            if mechanism not in modules:
                raise Failure(USAGE, f"sasl={mechanism} is not known, allowed are: {', '.join(modules)}")
            user, password = (text.replace("\\", "\\\\").replace('"', '\\"') for text in (self.user, self.password()))
            module = f"org.apache.kafka.common.security.{modules[mechanism]}LoginModule"
            options["sasl.mechanism"] = mechanism.upper()
            options["sasl.jaas.config"] = f'{module} required username="{user}" password="{password}";'
        return options

    def cassandra_options(self):
        """The settings of the connector."""
        options = {
            "connection.host": ",".join(self.hosts),
            "connection.port": self.hosts[0].rpartition(":")[2],
            "output.consistency.level": self.parameters.get("consistency", "local_quorum").upper(),
        }
        if self.user:
            options |= {"auth.username": self.user, "auth.password": self.password()}
        if self.tls:
            options["connection.ssl.enabled"] = "true"
        return {f"spark.cassandra.{name}": value for name, value in options.items()}


def trust(session, ca):
    """Makes the trust store that the connector wants of a file of certificates, on this machine; on a cluster
    spark.cassandra.connection.ssl.trustStore.path names one that is on every node."""
    prefix = "spark.cassandra.connection.ssl.trustStore"
    if session.sparkContext.getConf().contains(f"{prefix}.path"):
        return
    jvm = session._jvm
    store = jvm.java.security.KeyStore.getInstance("PKCS12")
    store.load(None, None)
    certificates = jvm.java.security.cert.CertificateFactory.getInstance("X.509").generateCertificates(jvm.java.io.FileInputStream(ca))
    for number, certificate in enumerate(certificates):
        store.setCertificateEntry(str(number), certificate)
    password = session.sparkContext._gateway.new_array(jvm.char, 1)
    password[0] = "-"  # there is nothing secret in it
    file = pathlib.Path(session.sparkContext._temp_dir) / "trust.p12"
    store.store(jvm.java.io.FileOutputStream(str(file)), password)
    for name, value in {"path": str(file), "password": "-", "type": "PKCS12"}.items():
        session.conf.set(f"{prefix}.{name}", value)


# --- The dataset


class Field:
    """One field of the events and column of the tables."""

    def __init__(self, name, type, required=False, aliases=(), coerce=False, format="rfc3339", **_of_fetch):
        self.name, self.kind, self.required, self.aliases, self.coerce = name, type, required, aliases, coerce
        self.is_number = type in ("int", "bigint", "double", "decimal") or (type == "timestamp" and format != "rfc3339")
        self.unit_ms = 1_000 if format == "epoch-s" else 1


#: Width of a bucket of a table for reads by time.
BUCKETS = {"hour": 3_600_000, "day": 86_400_000}


class Series:
    """A further table for reads by time."""

    def __init__(self, number, table, bucket, shards=1):
        self.table, self.bucket, self.shards, self.width = table, bucket, shards, BUCKETS[bucket]
        #: Columns of the transformed events that hold the bucket and the shard.
        self.columns = {f"rtp_bucket_{number}": bucket, f"rtp_shard_{number}": "shard"}


class Dataset:
    """What the stream stage needs of a dataset file; `rtp init --dry-run` says what is wrong with one."""

    def __init__(self, declared):
        event, realtime = declared["event"], declared["realtime"]
        self.name, self.topic = declared["name"], event["topic"]
        self.keyspace, self.table = realtime["keyspace"], realtime["table"]
        self.series = [Series(i, **series) for i, series in enumerate(realtime.get("series", []))]
        self.ignores_nulls = declared.get("null", "write") == "unset"
        self.fields = [Field(**field) for field in declared["field"]]
        names = [field.name for field in self.fields]
        self.key, self.time = names.index(event["key"]), names.index(event["time"])
        self.places = {name: i for i, field in enumerate(self.fields) for name in (field.name, *field.aliases)}
        self.digest_order = sorted(range(len(names)), key=lambda i: names[i].encode())

    @classmethod
    def load(cls, path):
        try:
            return cls(tomllib.loads(pathlib.Path(path).read_text()))
        except OSError as error:
            raise Failure(USAGE, f"cannot read the dataset {path}: {error.strerror}") from error
        except (KeyError, TypeError, ValueError) as error:
            raise Failure(USAGE, f"{path} is no dataset: {type(error).__name__} {error}; `rtp init --dry-run` says more") from error

    def schema(self):
        """The columns of transformed events. Times are numbers and decimals texts, for Spark's own types hold
        neither all of them nor each exactly."""
        types = {
            "int": pyarrow.int32(), "bigint": pyarrow.int64(), "double": pyarrow.float64(), "boolean": pyarrow.bool_(),
            "timestamp": pyarrow.int64(), "date": pyarrow.int32(),
        }
        columns = [(field.name, types.get(field.kind, pyarrow.string())) for field in self.fields]
        columns += [(name, pyarrow.int64() if "bucket" in name else pyarrow.int32()) for series in self.series for name in series.columns]
        columns += [("rtp_partition", pyarrow.int32()), ("rtp_offset", pyarrow.int64()), ("rtp_timestamp", pyarrow.int64())]
        columns += [("rtp_rule", pyarrow.string()), ("rtp_field", pyarrow.string()), ("rtp_message", pyarrow.string())]
        return pyarrow.schema([*columns, ("rtp_bytes", pyarrow.int64()), ("rtp_newest", pyarrow.bool_())])


# --- The transform: the bytes of an event become a typed row or a reject


class Reject(Exception):
    """Why an event is bad: the rule, what was expected, and the field."""

    def __init__(self, rule, detail, field=None):
        super().__init__(detail)
        self.rule, self.detail, self.field = rule, detail, field

    def message(self):
        where = f"field {self.field}: " if self.field else ""
        return f"{where}{self.rule}: {self.detail}"


MAX_EVENT_BYTES = 1 << 20
MAX_KEY_BYTES = 65_535
MAX_DEPTH = 128
MAX_FUTURE_MS = 3_600_000
MAX_DECIMAL_DIGITS = 1_000
TIME_RANGE = range(-62_135_596_800_000, 253_402_300_800_000)
DAY_MS = 86_400_000
INTEGERS = {"int": range(-(1 << 31), 1 << 31), "bigint": range(-(1 << 63), 1 << 63)}
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
UUID = re.compile(r"(?:(?i:urn:uuid:)(?=.{36}$))?(\{(?=.{37}$))?([0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}|[0-9a-fA-F]{32}(?<=^.{32}))(?(1)\})")
PLAIN_UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{3})?Z", re.ASCII)
#: What Temporal and RFC 9557 allow: basic or extended, annotations after the offset.
TIMESTAMP = re.compile(
    r"(?P<year>[+-]\d{6}|\d{4})(?P<sep>-?)(?P<month>\d\d)(?P=sep)(?P<day>\d\d)[Tt ]"
    r"(?P<hour>\d\d)(?:(?P<colon>:?)(?P<minute>\d\d)(?:(?P=colon)(?P<second>\d\d)(?:[.,](?P<fraction>\d{1,9}))?)?)?"
    r"(?:[Zz]|(?P<sign>[+-])(?P<oh>\d\d)(?:(?P<ocolon>:?)(?P<om>\d\d)(?:(?P=ocolon)(?P<os>\d\d)(?:[.,](?P<half>(?=[5-9]))?\d{1,9})?)?)?)"
    r"(?:\[!?[A-Za-z0-9._+/:-]+(?:=[A-Za-z0-9-]+)?\])*",
    re.ASCII,
)
DATE = re.compile(r"(\d{4})-(\d\d)-(\d\d)", re.ASCII)
INTEGER = re.compile(r"-?\d+", re.ASCII)
DECIMAL = re.compile(r"(-?)(\d+)(?:\.(\d+))?(?:[eE]([+-]?\d+))?", re.ASCII)
CANONICAL_DECIMAL = re.compile(r"(?!-0$)-?(?:0|[1-9]\d*)(?:\.\d*[1-9])?", re.ASCII)
SIZES = [struct.pack(">Q", size) for size in range(1 << 10)]


class Number(str):
    """A JSON number as it is written."""

    __slots__ = ()


def refuse_constant(name):
    raise ValueError(f"{name} is no JSON")


class Transform:
    """Reads events of one dataset."""

    def __init__(self, dataset):
        self.dataset = dataset
        self.readers = [(place, field, READERS[field.kind]) for place, field in enumerate(dataset.fields)]
        # Objects become tuples of their members, so that repeated keys are seen.
        self.decoder = json.JSONDecoder(
            object_pairs_hook=tuple, parse_int=Number, parse_float=Number, parse_constant=refuse_constant)

    def event(self, value, now):
        """The row of an event: its values, then bucket and shard of each series; its event time and its digest."""
        if value is None:
            raise Reject("tombstone", "an event without a value")
        dataset = self.dataset
        given = self.members(value)
        values, encodings = [None] * len(given), [b"\0"] * len(given)
        for place, field, reader in self.readers:
            member = given[place]
            if member is not None:
                try:
                    values[place], encodings[place] = reader(field, member)
                except Reject as reject:
                    reject.field = field.name
                    raise
                except UnicodeEncodeError:
                    raise Reject("json_syntax", "lone surrogate in a text", field.name) from None
        for place, field, _ in self.readers:
            if field.required and values[place] is None:
                raise Reject("required", "a required field is absent or null", field.name)
        key, event_time = values[dataset.key], values[dataset.time]
        if isinstance(key, str):
            if not key:
                raise Reject("empty_key", "the key is empty", dataset.fields[dataset.key].name)
            if len(key) * 4 > MAX_KEY_BYTES and len(key.encode()) > MAX_KEY_BYTES:
                raise Reject("key_too_long", "a key has at most 65535 bytes", dataset.fields[dataset.key].name)
        if event_time > now + MAX_FUTURE_MS:
            raise Reject("future", "the event time is in the future", dataset.fields[dataset.time].name)
        digest = xxhash.xxh3_128_digest(b"".join([encodings[place] for place in dataset.digest_order]))
        for series in dataset.series:
            values.append(event_time // series.width * series.width)
            values.append(xxhash.xxh3_64_intdigest(encodings[dataset.key]) % series.shards)
        return values, event_time, digest

    def members(self, value):
        """The JSON value of each field, by the dataset's order; none where it is absent or null."""
        if len(value) > MAX_EVENT_BYTES:
            raise Reject("too_large", f"{len(value)} bytes, allowed are {MAX_EVENT_BYTES}")
        try:
            text = value.decode()
        except UnicodeDecodeError as error:
            raise Reject("invalid_utf8", f"no UTF-8 from byte {error.start} on") from None
        if value.count(b"[") + value.count(b"{") > MAX_DEPTH and is_too_deep(text):
            raise Reject("depth", f"nested deeper than {MAX_DEPTH} levels")
        start = 0 if text.startswith("{") else len(text) - len(text.lstrip(" \t\r\n"))
        try:
            pairs, end = self.decoder.raw_decode(text, start)
        except ValueError as error:
            raise Reject("json_syntax", str(error)) from None
        rest = text[end:].strip(" \t\r\n")
        if isinstance(pairs, str):
            check_surrogates(pairs)
        if not isinstance(pairs, tuple):
            raise Reject("json_syntax", "trailing characters") if rest else Reject("not_object", "expected a JSON object")
        if rest:
            raise Reject("trailing_data", f"trailing characters at character {end + 1}")
        return self.places_of(pairs, text, start)

    def places_of(self, pairs, text, start):
        fields, places = self.dataset.fields, self.dataset.places
        given, seen, duplicate = [None] * len(fields), set(), None
        for name, member in pairs:
            place = places.get(name)
            if place is None:
                if not name.isascii():
                    check_surrogates(name)
            elif place in seen:
                duplicate = place if duplicate is None else duplicate
            else:
                seen.add(place)
                given[place] = member
                if type(member) in (list, tuple) and fields[place].coerce and fields[place].kind == "text":
                    given[place] = ...  # its own spelling, which is looked for below
        if duplicate is not None:
            raise Reject("duplicate_key", "the field is given twice", fields[duplicate].name)
        if ... in given:
            for name, raw in raw_members(self.decoder, text, start):
                if (place := places.get(name)) is not None and given[place] is ...:
                    given[place] = Raw(raw)
        return given


class Raw(str):
    """An array or object as it is written."""

    __slots__ = ()


def check_surrogates(text):
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Reject("json_syntax", "lone surrogate in a text") from None


def is_too_deep(text):
    depth = 0
    for bracket in re.findall(r'[\[{\]}]', re.sub(r'"(?:[^"\\]|\\.)*("|$)', "", text, flags=re.DOTALL)):
        depth = depth + 1 if bracket in "[{" else max(depth - 1, 0)
        if depth > MAX_DEPTH:
            return True
    return False


def raw_members(decoder, text, start):
    """Name and raw JSON of each member of an object that is known to be valid."""
    skip = re.compile(r"[ \t\r\n,:]*")
    at = start + 1
    while text[at := skip.match(text, at).end()] != "}":
        name, at = decoder.raw_decode(text, at)
        at = skip.match(text, at).end()
        _, end = decoder.raw_decode(text, at)
        yield name, text[at:end]
        at = end


# A reader takes a field and its JSON value, which is not null, and yields what is stored and its canonical encoding.


def sized(tag, data):
    size = len(data)
    return tag + (SIZES[size] if size < len(SIZES) else struct.pack(">Q", size)) + data


def wrong_type(field, member):
    got = "a boolean" if isinstance(member, bool) else "a number" if isinstance(member, Number) else "an array or object"
    if type(member) is str:
        member.encode()  # broken escapes come before the wrong type
        got = "a text"
    return Reject("type", f"expected {field.kind}, got {got}")


def read_text(field, member):
    if type(member) is not str:
        if not field.coerce:
            raise wrong_type(field, member)
        member = str(member).lower() if isinstance(member, bool) else str(member)
    data = member.encode()
    if b"\0" in data:
        raise Reject("nul", f"U+0000 at byte {data.index(0)} of the text")
    return member, sized(b"\1", data)


def read_uuid(field, member):
    if type(member) is not str:
        raise wrong_type(field, member)
    match = UUID.fullmatch(member)
    if match is None:
        member.encode()
        raise Reject("bad_uuid", "expected a UUID of 32 hexadecimal digits")
    digits = match[2].replace("-", "").lower()
    text = f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
    return text, b"\2" + bytes.fromhex(digits)


def read_boolean(field, member):
    if type(member) is str and field.coerce:
        member.encode()
        if member not in ("true", "false"):
            raise Reject("type", "expected true or false")
        member = member == "true"
    if not isinstance(member, bool):
        raise wrong_type(field, member)
    return member, b"\6\1" if member else b"\6\0"


def number_text(field, member):
    """The text of a number; of a text too, if the dataset says so."""
    if type(member) is not Number:
        if type(member) is not str or not field.coerce:
            raise wrong_type(field, member)
        member.encode()
    return member


def read_integer(field, member):
    text = number_text(field, member)
    plain = decimal(text)
    number = integer(text)
    if number is None and "." in plain:
        raise Reject("type", f"expected {field.kind}, got a fraction")
    if number is None or number not in INTEGERS[field.kind]:
        raise out_of_range(field)
    return number, struct.pack(">Bq", 3, number)


def read_double(field, member):
    text = number_text(field, member)
    decimal(text)  # the grammar
    number = float(text) + 0.0  # -0 is 0
    if number in (float("inf"), float("-inf")):
        raise out_of_range(field)
    return number, struct.pack(">Bd", 4, number)


def read_decimal(field, member):
    text = decimal(number_text(field, member))
    return text, sized(b"\5", text.encode())


def read_date(field, member):
    if type(member) is not str:
        raise wrong_type(field, member)
    match = DATE.fullmatch(member)
    days = match and days_since_1970(*map(int, match.groups()))
    if days is None:
        member.encode()
        raise Reject("bad_time", "expected a day such as 2026-11-24")
    in_range(days * DAY_MS)
    return days, struct.pack(">Bi", 8, days)


def read_timestamp(field, member):
    if field.is_number:
        ms = epoch(field, number_text(field, member))
    elif type(member) is not str:
        raise wrong_type(field, member)
    else:
        ms = timestamp(member)
    return ms, struct.pack(">Bq", 7, ms)


READERS = {
    "text": read_text, "uuid": read_uuid, "int": read_integer, "bigint": read_integer, "double": read_double,
    "decimal": read_decimal, "boolean": read_boolean, "timestamp": read_timestamp, "date": read_date,
}


def out_of_range(field):
    return Reject("out_of_range", f"the number does not fit {field.kind}")


def in_range(ms):
    if ms not in TIME_RANGE:
        raise Reject("out_of_range", "expected a time in the years 1 to 9999")
    return ms


def epoch(field, text):
    number = integer(text)
    if number is None:
        raise out_of_range(field)
    if field.unit_ms > 1 and abs(number) >= 1_000_000_000_000:
        raise Reject("bad_unit", "expected seconds, got what looks like milliseconds")
    return in_range(number * field.unit_ms)


def timestamp(text):
    """Milliseconds since 1970 UTC of an RFC 3339 text; digits beyond milliseconds are cut off."""
    if PLAIN_UTC.fullmatch(text):
        try:
            since = datetime.datetime.fromisoformat(text) - EPOCH
            return since.days * DAY_MS + since.seconds * 1_000 + since.microseconds // 1_000
        except ValueError:
            pass
    text.encode()
    if text.encode()[17:19] == b"60":
        raise Reject("bad_time", "leap seconds cannot be stored")
    bad = Reject("bad_time", "expected RFC 3339 with an offset, such as 2026-11-24T06:30:00Z")
    match = TIMESTAMP.fullmatch(text)
    if match is None or match["year"] == "-000000":
        raise bad
    number = {name: int(match[name] or 0) for name in ("year", "month", "day", "hour", "minute", "second", "oh", "om", "os")}
    days = days_since_1970(number["year"], number["month"], number["day"])
    limits = {"hour": 23, "minute": 59, "second": 60, "oh": 25, "om": 59, "os": 59}
    if days is None or any(number[name] > limit for name, limit in limits.items()):
        raise bad
    seconds = number["hour"] * 3_600 + number["minute"] * 60 + min(number["second"], 59)
    offset = number["oh"] * 3_600 + number["om"] * 60 + number["os"] + (match["half"] is not None)
    seconds += offset if match["sign"] == "-" else -offset
    return in_range(days * DAY_MS + seconds * 1_000 + int((match["fraction"] or "").ljust(3, "0")[:3]))


def days_since_1970(year, month, day):
    """None if there is no such day, or if it is more than four digits of years away. The calendar's 400 years repeat."""
    if abs(year) > 9_999:
        return None
    cycles, year = divmod(year - 1, 400)
    try:
        return datetime.date(year + 1, month, day).toordinal() - 719_163 + cycles * 146_097
    except ValueError:
        return None


def integer(text):
    """An integer, also written as `1.0` or `1e3`; none if it is none of 64 bits."""
    if not INTEGER.fullmatch(text):
        try:
            text = decimal(text)
        except Reject:
            return None
    number = int(text) if "." not in text and len(text) <= MAX_DECIMAL_DIGITS + 1 else None
    return number if number is not None and number in INTEGERS["bigint"] else None


def decimal(text):
    """The canonical form of a JSON number: plain notation, no exponent, no superfluous zeros, no `-0`."""
    if len(text) <= MAX_DECIMAL_DIGITS and CANONICAL_DECIMAL.fullmatch(text):
        return str(text)
    match = DECIMAL.fullmatch(text)
    if match is None:
        raise Reject("type", "expected a number")
    too_long = Reject("out_of_range", f"a decimal has at most {MAX_DECIMAL_DIGITS} digits")
    sign, whole, fraction, exponent = match[1], match[2], match[3] or "", match[4] or "0"
    if len(exponent.lstrip("+-0")) > 19 or int(exponent) not in INTEGERS["bigint"]:
        raise too_long
    digits = (whole + fraction).lstrip("0")
    point = len(whole) - (len(whole + fraction) - len(digits)) + int(exponent)
    digits = digits.rstrip("0")
    if not digits:
        return "0"
    width = len(digits)
    if max(point, width, width - point) > MAX_DECIMAL_DIGITS:
        raise too_long
    if point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    if point >= width:
        return f"{sign}{digits}{'0' * (point - width)}"
    return f"{sign}{digits[:point]}.{digits[point:]}"


def write_timestamp(event_time, digest):
    """The version of a row in microseconds: event time, then in which thousandth of all digests its own lies."""
    return event_time * 1_000 + (int.from_bytes(digest[:2]) * 1_000 >> 16)


def transform(dataset):
    """A function from the events of one partition to their rows, in Arrow's batches."""
    schema = dataset.schema()
    width = schema.names.index("rtp_partition")

    def rows_of(batches):
        transformer = Transform(dataset)
        newest = {}  # key -> version, batch, row
        done = []
        for batch in batches:
            now = time.time_ns() // 1_000_000
            rows = []
            for partition, offset, size, value in zip(*(column.to_pylist() for column in batch.columns)):
                try:
                    values, event_time, digest = transformer.event(value, now)
                except Reject as reject:
                    rows.append((*[None] * width, partition, offset, None, reject.rule, reject.field, reject.message(), size))
                    continue
                version = (event_time, digest)
                key = values[dataset.key]
                other = newest.get(key)
                if other is None or version > other[0]:
                    newest[key] = (version, len(done), len(rows))
                rows.append((*values, partition, offset, write_timestamp(event_time, digest), None, None, None, size))
            done.append([pyarrow.array(column, type) for column, type in zip(zip(*rows), schema.types)] if rows else [])
        marks = [[False] * len(columns[0]) if columns else [] for columns in done]
        for _, number, row in newest.values():
            marks[number][row] = True
        for columns, mark in zip(done, marks):
            if columns:
                yield pyarrow.RecordBatch.from_arrays([*columns, pyarrow.array(mark, pyarrow.bool_())], schema=schema)

    return rows_of


# --- The job


class Job:
    """The query: micro-batches of events into tables and dead letters."""

    def __init__(self, session, dataset, kafka_options, group, run, stop):
        self.session, self.dataset, self.group, self.run, self.stop = session, dataset, group, run, stop
        self.kafka_options = {f"kafka.{name}": value for name, value in kafka_options.items()}
        self.transform = transform(dataset)
        self.schema = spark_schema(dataset.schema())
        columns = [*(field.name for field in dataset.fields), "rtp_partition", "rtp_offset"]
        #: Of each table its columns, each with the name it has among the transformed events.
        self.tables = {dataset.table: {name: name for name in columns}}
        for series in dataset.series:
            self.tables[series.table] = {column: name for name, column in series.columns.items()} | self.tables[dataset.table]

    def check_tables(self):
        """A missing table or column is the user's to mend."""
        for table, columns in self.tables.items():
            missing = columns.keys() - set(self.table_columns(table))
            if missing:
                where = f"{self.dataset.keyspace}.{table}"
                raise Failure(USAGE, f"table {where} has no column {min(missing)}; run `rtp init` with the same dataset")

    def table_columns(self, table):
        try:
            return self.session.read.format(CONNECTOR).options(keyspace=self.dataset.keyspace, table=table).load().columns
        except Exception as error:
            if "Couldn't find" in str(error):
                raise Failure(USAGE, f"there is no table {self.dataset.keyspace}.{table}; run `rtp init` with the same dataset") from error
            raise

    def start(self, args):
        source = self.session.readStream.format("kafka").options(
            **self.kafka_options,
            subscribe=self.dataset.topic,
            startingOffsets=self.group.starting_offsets(),
            failOnDataLoss="true",
            includeHeaders="true",
            maxOffsetsPerTrigger=str(args.max_batch),
        )
        trigger = {"availableNow": True} if args.until_end else {"processingTime": f"{args.trigger} milliseconds"}
        writer = source.load().writeStream.foreachBatch(self.store).option("checkpointLocation", args.checkpoint)
        return writer.trigger(**trigger).start()

    def store(self, events, _batch_id):
        """Rows first, then dead letters, then the group's offsets; the checkpoint moves when this returns."""
        self.stop.check()
        size = "coalesce(length(key), 0) + coalesce(length(value), 0)"
        values = events.selectExpr("partition", "offset", f"CAST({size} AS BIGINT) AS size", "value")
        rows = values.mapInArrow(self.transform, self.schema).persist()
        try:
            counted = self.count(rows)
            if counted["written"]:
                self.write(rows)
            if counted["rejected"]:
                self.send_dead_letters(events, rows)
            self.group.commit(counted.pop("offsets"))
            self.run.add(counted)
        finally:
            rows.unpersist()

    def count(self, rows):
        def sum_of(condition):
            return functions.sum(functions.when(functions.expr(condition), 1).otherwise(0))

        partitions = rows.groupBy("rtp_partition").agg(
            functions.max("rtp_offset"), functions.count("*"), sum_of("rtp_newest"),
            sum_of("rtp_rule IS NOT NULL"), functions.sum("rtp_bytes"),
        ).collect()
        read, written, rejected, size = (sum(partition[i] for partition in partitions) for i in range(2, 6))
        return {
            "read": read, "written": written, "rejected": rejected, "deduplicated": read - written - rejected, "bytes": size,
            "offsets": {partition[0]: partition[1] + 1 for partition in partitions},
        }

    def write(self, rows):
        """Of each key the newest event; into the tables for reads by time every event. Then the time of it, for
        `rtp heartbeat`."""
        for table, columns in self.tables.items():
            of_table = "rtp_newest" if table == self.dataset.table else "rtp_rule IS NULL"
            named = [functions.col(name).alias(column) for column, name in columns.items()]
            self.save(rows.where(of_table).select(*named, "rtp_timestamp"), table, writetime="rtp_timestamp")
        now = functions.lit(time.time_ns() // 1_000_000).alias("written_at")
        self.save(self.session.range(1).select(functions.lit(self.dataset.table).alias("target"), now), "rtp_progress")

    def save(self, rows, table, **options):
        options["spark.cassandra.output.ignoreNulls"] = str(self.dataset.ignores_nulls).lower()
        rows.write.format(CONNECTOR).mode("append").options(keyspace=self.dataset.keyspace, table=table, **options).save()

    def send_dead_letters(self, events, rows):
        """The events are read a second time: keys and headers of the good ones never leave the JVM."""
        rejects = rows.where("rtp_rule IS NOT NULL").selectExpr(
            "rtp_partition AS partition", "rtp_offset AS offset", "rtp_rule", "rtp_field", "rtp_message")
        headers = [
            ("__connect.errors.topic", functions.lit(self.dataset.topic)),
            ("__connect.errors.partition", functions.expr("CAST(partition AS STRING)")),
            ("__connect.errors.offset", functions.expr("CAST(offset AS STRING)")),
            ("__connect.errors.stage", functions.lit("stream")),
            ("__connect.errors.exception.class.name", functions.col("rtp_rule")),
            ("__connect.errors.exception.message", functions.col("rtp_message")),
            ("rtp.rule", functions.col("rtp_rule")),
            ("rtp.field", functions.col("rtp_field")),
            ("rtp.run_id", functions.lit(self.run.id)),
        ]
        ours = functions.array(*(functions.struct(functions.lit(name).alias("key"), value.cast("binary").alias("value")) for name, value in headers))
        letters = events.join(functions.broadcast(rejects), ["partition", "offset"]).withColumn("ours", ours).selectExpr(
            "key", "value", "IF(key IS NULL, 0, NULL) AS partition",
            """concat(transform(coalesce(headers, array()), h -> struct(h.key AS key, coalesce(h.value, X'') AS value)),
                      filter(ours, h -> h.value IS NOT NULL)) AS headers""",
        )
        letters.write.format("kafka").options(**self.kafka_options, topic=f"{self.dataset.topic}.dlq", includeHeaders="true").save()


def spark_schema(schema):
    names = {"int32": "int", "int64": "bigint", "double": "double", "bool": "boolean", "string": "string"}
    return ", ".join(f"`{column.name}` {names[str(column.type)]}" for column in schema)


class Group:
    """The consumer group's offsets, through the admin client of the JVM."""

    def __init__(self, session, options, topic, name):
        self.jvm, self.topic, self.name = session._jvm, topic, name
        properties = self.jvm.java.util.Properties()
        for key, value in {**options, "request.timeout.ms": str(PATIENCE_MS), "default.api.timeout.ms": str(PATIENCE_MS)}.items():
            properties.setProperty(key, value)
        self.admin = self.jvm.org.apache.kafka.clients.admin.AdminClient.create(properties)
        self.partitions = []
        self.committed = {}

    def check_topics(self, topics):
        """A missing topic is the user's to mend."""
        for topic in topics:
            try:
                names = self.jvm.java.util.Collections.singleton(topic)
                described = self.admin.describeTopics(names).allTopicNames().get().get(topic)
            except Exception as error:
                if "UnknownTopicOrPartition" in str(error):
                    raise Failure(USAGE, f"there is no topic {topic}; run `rtp init` with the same dataset") from error
                raise
            if topic == self.topic:
                self.partitions = [partition.partition() for partition in described.partitions()]

    def check_members(self):
        """Offsets of a group that somebody reads in are its members' alone to commit."""
        names = self.jvm.java.util.Collections.singleton(self.name)
        state = self.admin.describeConsumerGroups(names).all().get().get(self.name).state().toString()
        if state not in ("Empty", "Dead"):
            raise Failure(USAGE, f"the consumer group {self.name} has members; stop them, or take another --group")

    def starting_offsets(self):
        """For a new checkpoint: where the group is, and the oldest event (-2) of partitions that it never read."""
        committed = self.admin.listConsumerGroupOffsets(self.name).partitionsToOffsetAndMetadata().get()
        for partition in self.partitions:
            offset = committed.get(self.jvm.org.apache.kafka.common.TopicPartition(self.topic, partition))
            self.committed[partition] = -2 if offset is None else offset.offset()
        return json.dumps({self.topic: self.committed})

    def commit(self, offsets):
        """They never move back, though an older checkpoint may."""
        moved = self.jvm.java.util.HashMap()
        for partition, offset in offsets.items():
            if offset > self.committed.get(partition, -2):
                at = self.jvm.org.apache.kafka.clients.consumer.OffsetAndMetadata(offset)
                moved.put(self.jvm.org.apache.kafka.common.TopicPartition(self.topic, partition), at)
        if not moved.isEmpty():
            self.admin.alterConsumerGroupOffsets(self.name, moved).all().get()
            self.committed |= offsets


# --- What is told


class Run:
    """The run's id, its counts, and how stderr speaks."""

    def __init__(self, log_format):
        self.id = os.environ.get("RTP_RUN_ID") or str(uuid.uuid4())
        self.log_format = log_format
        self.started = time.monotonic()
        self.counts = dict.fromkeys(("read", "written", "rejected", "deduplicated", "skipped", "bytes"), 0)

    def add(self, counts):
        for name, count in counts.items():
            self.counts[name] += count

    def log(self, level, message):
        line = f"rtp stream: {level}: {message}"
        if self.log_format == "json":
            now = datetime.datetime.now(datetime.UTC).isoformat()
            line = json.dumps({"time": now, "level": level, "command": "stream", "run_id": self.id, "message": message})
        print(line, file=sys.stderr)

    def summary(self, status):
        seconds = round(time.monotonic() - self.started, 3)
        if self.log_format == "json":
            line = json.dumps({"command": "stream", "run_id": self.id, **self.counts, "seconds": seconds, "exit": status})
        else:
            moved = ", ".join(f"{count} {name}" for name, count in self.counts.items() if name != "bytes")
            line = f"rtp stream: {moved}; {self.counts['bytes']} B in {seconds:.2f} s; exit {status}"
        print(line, file=sys.stderr)


class Progress(StreamingQueryListener):
    """How long micro-batches take, for Prometheus."""

    BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60)

    def __init__(self, run, port):
        self.run = run
        self.ended = threading.Event()
        self.in_bucket = [0] * (len(self.BUCKETS) + 1)
        self.seconds = 0.0
        if port is not None:
            self.serve(port)

    def onQueryStarted(self, event):
        pass

    def onQueryProgress(self, event):
        if event.progress.numInputRows:
            seconds = event.progress.durationMs["triggerExecution"] / 1_000
            self.seconds += seconds
            self.in_bucket[bisect.bisect_left(self.BUCKETS, seconds)] += 1

    def onQueryIdle(self, event):
        pass

    def onQueryTerminated(self, event):
        self.ended.set()

    def text(self):
        """Prometheus' text format."""
        lines = ["# HELP rtp_stream_batch_duration_seconds Time from a micro-batch's trigger to its commit.",
                 "# TYPE rtp_stream_batch_duration_seconds histogram"]
        total = 0
        for bound, count in zip((*self.BUCKETS, "+Inf"), self.in_bucket):
            total += count
            lines.append(f'rtp_stream_batch_duration_seconds_bucket{{le="{bound}"}} {total}')
        lines += [f"rtp_stream_batch_duration_seconds_sum {self.seconds}", f"rtp_stream_batch_duration_seconds_count {total}"]
        for name, count in self.run.counts.items():
            lines += [f"# TYPE rtp_stream_{name}_total counter", f"rtp_stream_{name}_total {count}"]
        return "\n".join(lines) + "\n"

    def serve(self, port):
        progress = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                body = progress.text().encode()
                self.send_response(200 if self.path == "/metrics" else 404)
                self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format, *args):
                pass

        try:
            server = http.server.ThreadingHTTPServer(("", port), Handler)
        except OSError as error:
            raise Failure(USAGE, f"cannot serve metrics on port {port}: {error.strerror}") from error
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.run.log("info", f"metrics at http://127.0.0.1:{server.server_port}/metrics")


if __name__ == "__main__":
    main()
