//! Events from Arrow IPC streams, as another program writes them to a pipe: the batches of a column `value`, and their
//! timestamps in the log if there is a column `timestamp`; complete, or with an error that says where they end.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufReader, Chain, Cursor, ErrorKind, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Int64Type, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType,
};
use arrow_array::{Array, RecordBatch};
use arrow_ipc::reader::StreamReader;
use arrow_schema::{ArrowError, DataType, Schema, TimeUnit};

use crate::error::{Error, Result, file_error};
use crate::run::streams;
use crate::run::task::guard;

/// The mark at the end of a stream. Arrow readers also accept a stream without it, so a pipe that was cut off
/// between two batches would pass for a complete one.
const END: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];

/// How a stream starts: the mark before its first message.
const START: [u8; 4] = [0xff; 4];

/// The column that holds the events.
const COLUMN: &str = "value";

/// The column that holds their timestamps in the log.
const TIMESTAMPS: &str = "timestamp";

type EventBytes = Chain<Cursor<[u8; START.len()]>, BufReader<Box<dyn Read + Send>>>;
type EventReader = StreamReader<EndWatch<EventBytes>>;

/// What is read, in order.
pub struct ArrowStreams {
    waiting: VecDeque<PathBuf>,
    open: Option<(EventReader, Columns)>,
    name: String,
    /// Events of the open stream so far.
    events: u64,
    /// Whether all bytes of that stream have been read.
    has_ended: Arc<AtomicBool>,
}

impl std::fmt::Debug for ArrowStreams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ArrowStreams")
            .field("name", &self.name)
            .field("events", &self.events)
            .finish_non_exhaustive()
    }
}

impl ArrowStreams {
    /// Reads these files in order; `-` or no file means standard input.
    pub fn new(files: &[PathBuf]) -> Self {
        let mut waiting: VecDeque<PathBuf> = files.to_vec().into();
        if waiting.is_empty() {
            waiting.push_back("-".into());
        }
        ArrowStreams {
            waiting,
            open: None,
            name: String::new(),
            events: 0,
            has_ended: Arc::default(),
        }
    }

    /// The events of the next batch, and the number of the first of them in its stream, from 1; none at
    /// the end of the last file. Blocks until there is one of these.
    pub fn next_batch(&mut self) -> Result<Option<(u64, Events)>> {
        loop {
            let Some((reader, columns)) = &mut self.open else {
                match self.waiting.pop_front() {
                    None => return Ok(None),
                    Some(path) => self.open(path)?,
                }
                continue;
            };
            match guarded(|| reader.next().transpose()).transpose() {
                Some(Ok(batch)) => {
                    let first = self.events + 1;
                    self.events += batch.num_rows() as u64;
                    return Ok(Some((first, Events(batch, *columns))));
                }
                None if reader.get_ref().last == END => self.open = None,
                None => return Err(self.cut()),
                Some(Err(e)) => return Err(self.error(&e)),
            }
        }
    }

    fn open(&mut self, path: PathBuf) -> Result<()> {
        self.events = 0;
        self.has_ended = Arc::default();
        let mut file: Box<dyn Read + Send> = if path.as_os_str() == "-" {
            self.name = "standard input".into();
            streams::check_input()?;
            Box::new(std::io::stdin())
        } else {
            self.name = path.display().to_string();
            Box::new(File::open(&path).map_err(|e| file_error("read", &path, &e))?)
        };
        let mut start = [0; START.len()];
        file.read_exact(&mut start)
            .map_err(|e| self.error(&e.into()))?;
        if start != START {
            return Err(
                Error::invalid(format!("{} is not an Arrow stream", self.name))
                    .hint("expected the Arrow IPC streaming format, not an Arrow or Parquet file"),
            );
        }
        let watched = EndWatch {
            inner: Cursor::new(start).chain(BufReader::new(file)),
            last: [0; END.len()],
            has_ended: self.has_ended.clone(),
        };
        let reader =
            guarded(|| StreamReader::try_new(watched, None)).map_err(|e| self.error(&e))?;
        let columns = self.columns(&reader.schema())?;
        self.open = Some((reader, columns));
        Ok(())
    }

    fn columns(&self, schema: &Schema) -> Result<Columns> {
        let name = &self.name;
        let kind = |i: &usize| schema.field(*i).data_type();
        let value = schema.index_of(COLUMN).ok();
        let value = value.filter(|i| is_bytes(kind(i))).ok_or_else(|| {
            Error::invalid(format!(
                "{name} has no column `{COLUMN}` of type binary or utf8"
            ))
        })?;
        let timestamp = schema.index_of(TIMESTAMPS).ok();
        if let Some(other) = timestamp.as_ref().map(kind).filter(|kind| !is_time(kind)) {
            return Err(Error::invalid(format!(
                "{name} has a column `{TIMESTAMPS}` of type {other}, expected int64 in milliseconds, or timestamp"
            )));
        }
        Ok(Columns { value, timestamp })
    }

    fn error(&self, error: &ArrowError) -> Error {
        let Self { name, events, .. } = self;
        match error {
            _ if self.has_ended.load(Ordering::Relaxed) => self.cut(),
            ArrowError::IoError(_, io) if io.kind() == ErrorKind::UnexpectedEof => self.cut(),
            ArrowError::IoError(_, io) => Error::refused(format!("cannot read {name}: {io}")),
            _ => Error::invalid(format!("{name} is invalid after event {events}: {error}")),
        }
    }

    fn cut(&self) -> Error {
        Error::missing(format!(
            "the input is cut short: {} ends after event {} without the end mark of an Arrow stream",
            self.name, self.events
        ))
    }
}

/// The Arrow reader checks most of what it reads, but panics at other faults of a broken stream.
fn guarded<T>(read: impl FnOnce() -> Result<T, ArrowError>) -> Result<T, ArrowError> {
    guard(read).unwrap_or_else(|| Err(ArrowError::ParseError("invalid message".into())))
}

/// Where the columns of a stream are.
#[derive(Clone, Copy, Debug)]
struct Columns {
    value: usize,
    timestamp: Option<usize>,
}

/// The events of a batch.
#[derive(Debug)]
pub struct Events(RecordBatch, Columns);

impl Events {
    /// Their timestamps in the log, in milliseconds since 1970 UTC, in order; none if they are not told.
    pub fn timestamps(&self) -> Vec<Option<i64>> {
        let Some(column) = self.1.timestamp.map(|i| self.0.column(i)) else {
            return vec![None; self.0.num_rows()];
        };
        match column.data_type() {
            DataType::Int64 => times::<Int64Type>(column, |ms| ms),
            DataType::Timestamp(TimeUnit::Second, _) => {
                times::<TimestampSecondType>(column, |s| s.saturating_mul(1_000))
            }
            DataType::Timestamp(TimeUnit::Microsecond, _) => {
                times::<TimestampMicrosecondType>(column, |us| us.div_euclid(1_000))
            }
            DataType::Timestamp(TimeUnit::Nanosecond, _) => {
                times::<TimestampNanosecondType>(column, |ns| ns.div_euclid(1_000_000))
            }
            _ => times::<TimestampMillisecondType>(column, |ms| ms),
        }
    }

    /// Their bytes, in order; none means a tombstone.
    pub fn values(&self) -> Vec<Option<&[u8]>> {
        let column = self.0.column(self.1.value);
        match column.data_type() {
            DataType::Binary => column.as_binary::<i32>().iter().collect(),
            DataType::LargeBinary => column.as_binary::<i64>().iter().collect(),
            DataType::Utf8 => bytes(column.as_string::<i32>().iter()),
            _ => bytes(column.as_string::<i64>().iter()),
        }
    }
}

fn bytes<'a>(texts: impl Iterator<Item = Option<&'a str>>) -> Vec<Option<&'a [u8]>> {
    texts.map(|text| text.map(str::as_bytes)).collect()
}

fn is_bytes(kind: &DataType) -> bool {
    use DataType::{Binary, LargeBinary, LargeUtf8, Utf8};
    matches!(kind, Binary | LargeBinary | Utf8 | LargeUtf8)
}

fn is_time(kind: &DataType) -> bool {
    matches!(kind, DataType::Int64 | DataType::Timestamp(..))
}

/// Times of some type, in milliseconds.
fn times<T: ArrowPrimitiveType<Native = i64>>(
    column: &dyn Array,
    ms: impl Fn(i64) -> i64,
) -> Vec<Option<i64>> {
    let times = column.as_primitive::<T>().iter();
    times.map(|time| time.map(&ms)).collect()
}

/// Remembers the last bytes read, and whether the end was reached.
struct EndWatch<R> {
    inner: R,
    last: [u8; END.len()],
    has_ended: Arc<AtomicBool>,
}

impl<R: Read> Read for EndWatch<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer)?;
        if read == 0 && !buffer.is_empty() {
            self.has_ended.store(true, Ordering::Relaxed);
        }
        let new = &buffer[read - read.min(END.len())..read];
        self.last.rotate_left(new.len());
        self.last[END.len() - new.len()..].copy_from_slice(new);
        Ok(read)
    }
}
