"""`rtp aggregate` as a Spark batch job: PostgreSQL's rows of a day -> figures in rtp_aggregates, from the same dataset file.

Spark reads the rows over JDBC, in parallel and all in one snapshot, and counts them; the figures are written in the
transaction that the snapshot belongs to. They are those of `rtp aggregate`, and a day that either has computed is not
touched by the other. docs/aggregates.md explains when to use it, and how to run it on a cluster.
"""

import contextlib
import datetime
import os
import re
import tomllib

from pyspark.sql import functions

from job import DEPENDENCY, DONE, INIT, NO, USAGE, Failure, Report, Server, main, options, spark

#: Like rtp: a dimension with more values on a day is an error.
MAX_VALUES = 10_000
#: Stands for a time that is infinite or of another year than the dataset's types have.
UNDATED = -(2**63)
INVALID, UNBORN, VERY_LATE = "(invalid)", "under 0", "1d or more"
LATENESS = {0: "early", 1_000: "under 1s", 60_000: "under 1m", 600_000: "under 10m", 3_600_000: "under 1h", 86_400_000: "under 1d"}
#: Types of fields that each kind of dimension can look at, as in docs/datasets.md.
TYPES = {
    "value": ("text", "int", "bigint", "boolean", "date"),
    "band": ("timestamp", "date"),
    "domain": ("text",),
    "month": ("timestamp", "date"),
    "hour": ("timestamp",),
    "lateness": ("timestamp",),
}


def arguments():
    parser = options(__doc__)
    add = parser.add_argument
    add("--batch-store", default=os.environ.get("RTP_BATCH_STORE"), metavar="URL", help="postgres://[USER@]HOST:PORT/DATABASE")
    add("--date", required=True, metavar="DAY", help="the day, in UTC: 2026-11-24, yesterday or today")
    add("--to", metavar="DAY", help="the last day, if there are several")
    add("--replace", action="store_true", help="replace the figures even of a day that has fewer rows now")
    add("--require-records", action="store_true", help="end with status 1 if one of the days has no rows")
    add("--task-pages", type=int, default=8_192, metavar="N", help="pages of the table that a task reads at least [default: 8192, that is 64 MB]")
    return parser.parse_args()


def aggregate(args, log):
    """Computes the days in order; returns the exit status."""
    first, last = days(args)
    dataset, postgres = Dataset(args.dataset), Postgres(args.batch_store)
    session = spark("rtp aggregate")
    session.conf.set("spark.sql.session.timeZone", "UTC")
    has_all = True
    try:
        while first <= last:
            with Store(session, postgres, max(1, args.task_pages)) as store:
                rows = Day(session, store, dataset, first, log).compute(args.replace)
            has_all &= rows > 0
            first += datetime.timedelta(days=1)
    except Failure:
        raise
    except Exception as error:
        raise failure(error, postgres) from error
    finally:
        session.stop()
    return DONE if has_all or not args.require_records else NO


def failure(error, postgres):
    """Translates an exception from Spark, the driver or a task for whoever started the job."""
    text = str(error)
    if 'relation "rtp_aggregates" does not exist' in text:
        return Failure(USAGE, f"there is no table rtp_aggregates in {postgres.address}; {INIT}")
    if lacking := re.search(r'column "([^"]*)" does not exist', text):
        return Failure(USAGE, f"a table of the dataset in {postgres.address} has no column {lacking[1]}; `rtp init` says what differs")
    lines = [line.strip() for line in text.splitlines() if "Exception" in line or "Error" in line]
    message = (lines or [type(error).__name__])[-1][:500].removeprefix("Caused by: ")
    return Failure(DEPENDENCY, f"{postgres.address}: {message}")


def days(args):
    today = datetime.datetime.now(datetime.UTC).date()
    words = {"today": today, "yesterday": today - datetime.timedelta(days=1)}

    def day(option, text):
        try:
            found = words.get(text) or (re.fullmatch(r"\d{4}-\d\d-\d\d", text) and datetime.date.fromisoformat(text))
        except ValueError:
            found = None
        if not found:
            raise Failure(USAGE, f"{option}: invalid day `{text}`; expected for example 2026-11-24, yesterday or today")
        if found > today:
            raise Failure(USAGE, f"{option} {found} is in the future; today is {today} in UTC")
        return found

    first = day("--date", args.date)
    last = day("--to", args.to) if args.to else first
    if last < first:
        raise Failure(USAGE, f"--to {last} is before --date {first}")
    return first, last


class Dataset:
    """What the job needs of the dataset file, which `rtp` checks as a whole."""

    def __init__(self, path):
        try:
            with open(path, "rb") as file:
                declared = tomllib.load(file)
            self.name, self.table, self.time = declared["name"], declared["batch"]["table"], declared["event"]["time"]
            self.history = f"{self.table}_history" if declared["batch"].get("history") else None
            self.types = {field["name"]: field["type"] for field in declared["field"]}
            self.aggregates = declared.get("aggregate", [])
            wrong = [one["name"] for one in self.aggregates if self.types[one["field"]] not in TYPES[one.get("by", "value")]]
        except OSError as error:
            raise Failure(USAGE, f"cannot read the dataset {path}: {error.strerror}") from error
        except tomllib.TOMLDecodeError as error:
            raise Failure(USAGE, f"{path}: {error}") from error
        except KeyError as error:
            raise Failure(USAGE, f"{path}: {error} is missing or unknown; `rtp init --dry-run` names the line") from error
        if wrong:
            raise Failure(USAGE, f"{path}: the field of the aggregate {wrong[0]} has a type that cannot be counted by; `rtp init --dry-run` names the line")
        if not self.aggregates:
            raise Failure(USAGE, f"the dataset {self.name} declares no [[aggregate]], so there is nothing to count by")


class Postgres(Server):
    """The address of the batch store: `postgres://[USER@]HOST[:PORT]/DATABASE[?sslmode=MODE][&sslrootcert=FILE]`."""

    def __init__(self, text):
        address, _, query = (text or "").partition("?")
        server, _, self.database = address.rpartition("/")
        if not re.match(r"postgres://.", server) or not self.database:
            raise Failure(USAGE, "--batch-store must be postgres://[USER@]HOST:PORT/DATABASE")
        super().__init__(f"{server}?{query}", "postgres", 5432, "--batch-store")
        self.address += f"/{self.database}"

    def jdbc(self):
        """The URL, and the properties, for a driver."""
        modes = ("disable", "prefer", "require", "verify-ca", "verify-full")
        mode = self.choice("sslmode", modes) or "prefer"
        authority = self.parameters.get("sslrootcert")
        # As in libpq, `require` also verifies the authority if one is named.
        properties = {"sslmode": "verify-ca" if mode == "require" and authority else mode, "ApplicationName": "rtp aggregate"}
        properties |= {"sslrootcert": authority} if authority else {}
        properties |= {"user": self.user} if self.user else {}
        secret = self.user and any(os.environ.get(f"{self.secret}{kind}") for kind in ("", "_FILE"))
        properties |= {"password": self.password()} if secret else {}
        return f"jdbc:postgresql://{','.join(self.hosts)}/{self.database}", properties


class Store(contextlib.AbstractContextManager):
    """One transaction, of which Spark's tasks read the snapshot. It is rolled back unless it is committed."""

    def __init__(self, session, postgres, task_pages):
        self.session, self.postgres, self.task_pages = session, postgres, task_pages
        self.url, self.properties = postgres.jdbc()
        properties = session._jvm.java.util.Properties()
        for name, value in self.properties.items():
            properties.setProperty(name, value)
        self.connection = session._jvm.org.postgresql.Driver().connect(self.url, properties)
        self.connection.setAutoCommit(False)
        self.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        self.execute("SET LOCAL lock_timeout = '10s'")
        # Before the first statement that reads: it waits for another run, and what is read is what that run has left.
        self.execute("LOCK TABLE rtp_aggregates IN SHARE ROW EXCLUSIVE MODE")
        self.snapshot = self.one("SELECT pg_export_snapshot()")

    def __exit__(self, *_):
        self.connection.close()

    def execute(self, sql, *values):
        statement = self.connection.prepareStatement(sql)
        try:
            for place, value in enumerate(values, 1):
                if value is None:
                    statement.setNull(place, self.session._jvm.java.sql.Types.VARCHAR)
                elif isinstance(value, int):
                    statement.setLong(place, value)
                else:
                    statement.setString(place, value)
            if not statement.execute():
                return []
            found, rows = statement.getResultSet(), []
            width = found.getMetaData().getColumnCount()
            while found.next():
                rows.append([found.getObject(column) for column in range(1, width + 1)])
            return rows
        finally:
            statement.close()

    def one(self, sql, *values):
        return self.execute(sql, *values)[0][0]

    def read(self, table, columns, where):
        """The rows of the snapshot as a DataFrame: each task reads its part of the table's pages."""
        pages = self.one("SELECT pg_relation_size(to_regclass(?)) / current_setting('block_size')::bigint", quoted(table))
        tasks = max(1, min(pages // self.task_pages, 4 * self.session.sparkContext.defaultParallelism))
        ends = [pages * task // tasks for task in range(1, tasks)]
        parts = []
        for start, end in zip([0, *ends], [*ends, None]):
            within = f"ctid >= '({start},0)'" + (f" AND ctid < '({end},0)'" if end is not None else "")
            options = self.properties | {
                "url": self.url,
                "driver": "org.postgresql.Driver",
                "dbtable": f"(SELECT {columns} FROM {quoted(table)} WHERE {where} AND {within}) AS part",
                "fetchsize": "10000",
                "sessionInitStatement": f"SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SET TRANSACTION SNAPSHOT '{self.snapshot}'",
            }
            parts.append(self.session.read.format("jdbc").options(**options).load())
        rows = parts[0]
        for part in parts[1:]:
            rows = rows.unionAll(part)
        return rows


class Day:
    """The figures of one day."""

    STORED = "SELECT value, count FROM rtp_aggregates WHERE dataset = ? AND day = ?::date AND aggregate = ?"
    INSERT = """INSERT INTO rtp_aggregates (dataset, day, aggregate, value, count, run_id, computed_at)
        VALUES (?, ?::date, ?, ?, ?, ?, clock_timestamp())"""
    SAME = "WHERE dataset = ? AND day = ?::date AND aggregate = ? AND value IS NOT DISTINCT FROM ?::text"
    UPDATE = f"UPDATE rtp_aggregates SET count = ?, run_id = ?, computed_at = clock_timestamp() {SAME}"
    DELETE = f"DELETE FROM rtp_aggregates {SAME}"

    def __init__(self, session, store, dataset, day, log):
        self.session, self.store, self.dataset, self.day, self.log = session, store, dataset, day, log
        start = f"'{day} 00:00:00+00'::timestamp with time zone"
        time = quoted(dataset.time)
        self.where = f"{time} >= {start} AND {time} < {start} + interval '24 hours'"

    def compute(self, replace):
        """Counts and stores; returns the number of rows."""
        table, rows = self.source()
        told = {0: "no rows", 1: "1 row"}.get(rows, f"{rows} rows")
        stored = {one["name"]: self.stored(one) for one in self.dataset.aggregates}
        before = max(sum(counts.values()) for counts in stored.values())
        if rows < before and not replace:
            self.log.log("warn", f"{self.day}: {table} has {told} of this day, but the stored figures count {before}, so they are kept: keys "
                         "that were loaded again have left the day, unless the dataset keeps a history; --replace replaces the figures")
            return rows
        changed = removed = 0
        counted = self.count(table) if rows else {name: {} for name in stored}
        for name, counts in counted.items():
            for value in stored[name].keys() - counts.keys():
                self.store.execute(self.DELETE, *self.key(name), value)
                removed += 1
            for value, count in counts.items():
                if value not in stored[name]:
                    self.store.execute(self.INSERT, *self.key(name), value, count, self.log.id)
                elif stored[name][value] != count:
                    self.store.execute(self.UPDATE, count, self.log.id, *self.key(name), value)
                changed += stored[name].get(value) != count
        self.store.connection.commit()
        figures = sum(map(len, counted.values()))
        self.log.add({"read": figures, "written": changed, "skipped": figures - changed})
        if rows == 0:
            self.log.log("warn", f"{self.day}: {table} has no rows of this day")
        else:
            self.log.log("info", f"{self.day}: {told} of {table}, {figures} figures, {changed} of them new or changed, {removed} removed")
        return rows

    def key(self, name):
        return self.dataset.name, str(self.day), name

    def stored(self, aggregate):
        return dict(self.store.execute(self.STORED, *self.key(aggregate["name"])))

    def source(self):
        """The table that has the rows of the day, and how many: the history, if there is one and it has no fewer than the batch table."""
        rows = {}
        for table in filter(None, (self.dataset.table, self.dataset.history)):
            if not self.store.one("SELECT to_regclass(?) IS NOT NULL", quoted(table)):
                raise Failure(USAGE, f"there is no table {table} in {self.store.postgres.address}; {INIT}")
            rows[table] = self.store.one(f"SELECT count(*) FROM {quoted(table)} WHERE {self.where}")
        of_batch, of_history = rows[self.dataset.table], rows.get(self.dataset.history, 0)
        return (self.dataset.history, of_history) if of_history and of_history >= of_batch else (self.dataset.table, of_batch)

    def count(self, table):
        """The number of rows by dimension and value, in one pass over the rows."""
        names = {self.dataset.time, *(one["field"] for one in self.dataset.aggregates)}
        columns = ", ".join(f"{as_plain(name, self.dataset.types[name])} AS {quoted(name)}" for name in sorted(names))
        rows = self.store.read(table, columns, self.where)
        groups = [
            functions.struct(functions.lit(number).alias("number"), self.group(one).cast("string").alias("value"))
            for number, one in enumerate(self.dataset.aggregates)
        ]
        counted = rows.select(functions.explode(functions.array(*groups)).alias("of")).groupBy("of.number", "of.value").count()
        # If there are more, one dimension has too many.
        figures = counted.limit(len(groups) * MAX_VALUES + 1).collect()
        counts = {one["name"]: {} for one in self.dataset.aggregates}
        for figure in figures:
            name = self.dataset.aggregates[figure["number"]]["name"]
            counts[name][figure["value"]] = figure["count"]
        for name, values in counts.items():
            if len(values) > MAX_VALUES:
                raise Failure(USAGE, f"the aggregate {name} has more than {MAX_VALUES} values on {self.day}, so it is not a dimension to count by; "
                              "no figure of that day was changed")
        return counts

    def group(self, aggregate):
        """The group of a row, as in docs/datasets.md."""
        column, kind = functions.col(f"`{aggregate['field']}`"), self.dataset.types[aggregate["field"]]
        day = functions.date_add(functions.lit("1970-01-01").cast("date"), column.cast("int")) if kind == "date" else None
        moment = functions.timestamp_millis(column) if kind == "timestamp" else day
        by = aggregate.get("by", "value")
        if by == "value":
            return dated(column, functions.date_format(day, "yyyy-MM-dd")) if kind == "date" else column
        if by == "domain":
            domain = functions.substring_index(column, "@", -1)
            upper = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
            return functions.when(functions.instr(column, "@") > 0, functions.translate(domain, upper, upper.lower()))
        if by == "band":
            return dated(column, self.band(moment, aggregate["width"]))
        if by == "lateness":
            late = column - functions.col(f"`{self.dataset.time}`")
            bucket = functions.lit(VERY_LATE)
            for below, name in sorted(LATENESS.items(), reverse=True):
                bucket = functions.when(late < below, name).otherwise(bucket)
            return dated(column, bucket)
        return dated(column, functions.date_format(moment, {"month": "yyyy-MM", "hour": "HH"}[by]))

    def band(self, moment, width):
        number = functions.year(moment) * 10_000 + functions.month(moment) * 100 + functions.dayofmonth(moment)
        today = self.day.year * 10_000 + self.day.month * 100 + self.day.day
        age = functions.floor((functions.lit(today) - number) / 10_000)
        low = (functions.floor(age / width) * width).cast("bigint")
        band = low.cast("string") if width == 1 else functions.concat(low.cast("string"), functions.lit("-"), (low + width - 1).cast("string"))
        return functions.when(number > today, UNBORN).otherwise(band)


def quoted(name):
    return '"' + name.replace('"', '""') + '"'


def as_plain(name, kind):
    """A column as a number, a text or a boolean: Spark's own times can represent neither all of PostgreSQL's nor each one exactly."""
    column = quoted(name)
    number = {"timestamp": f"floor(extract(epoch FROM {column}) * 1000)::bigint", "date": f"({column} - '1970-01-01'::date)::bigint"}.get(kind)
    if not number:
        return column
    years = [f"'{day}'::date" if kind == "date" else f"'{day} 00:00:00+00'::timestamp with time zone" for day in ("0001-01-01", "10000-01-01")]
    return f"CASE WHEN {column} >= {years[0]} AND {column} < {years[1]} THEN {number} WHEN {column} IS NOT NULL THEN {UNDATED} END"


def dated(column, expression):
    return functions.when(column == UNDATED, INVALID).when(column.isNotNull(), expression)


if __name__ == "__main__":
    args = arguments()
    log = Report("aggregate", args.log_format)
    main(log, lambda: aggregate(args, log))
