//! The dataset: one declaration of the records from which everything else is derived.
//!
//! `parse` reads the TOML file, `check` makes sure it makes sense, `ddl` derives the tables and
//! `json_schema` the event's schema.

mod check;
pub mod ddl;
mod json_schema;
mod parse;
mod pointer;

use std::path::Path;

pub use json_schema::event_schema;
pub use pointer::{Pointer, Template, TemplatePart};

use crate::error::{Result, file_error};

/// The built-in `users` dataset, compiled in.
pub const BUILT_IN: &str = include_str!("../../schema/users.toml");

/// A checked dataset declaration.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// The dataset's name.
    pub name: String,
    /// Where records come from.
    pub source: Source,
    /// Places in a source record that never leave `fetch`.
    pub secrets: Vec<Pointer>,
    /// The fields of an event and the columns of every table, in declared order.
    pub fields: Vec<Field>,
    /// The event log's part.
    pub event: EventSpec,
    /// The real-time store's part.
    pub realtime: RealtimeSpec,
    /// The batch store's part.
    pub batch: BatchSpec,
    /// What an absent optional field means to the real-time store.
    pub nulls: Nulls,
    /// Field indices sorted by name: the order of columns in the canonical row encoding.
    pub digest_order: Vec<usize>,
}

/// Where and how records are fetched.
#[derive(Clone, Debug)]
pub struct Source {
    /// The API's address.
    pub url: String,
    /// Where the array of records is in a response; the empty pointer is the whole body.
    pub records: Pointer,
    /// A response that has a non-null value here is an error, whatever its status says.
    pub error: Option<Pointer>,
    /// Query parameter that takes `--seed`.
    pub seed_param: Option<String>,
    /// Query parameters sent with every request.
    pub query: Vec<(String, String)>,
    /// Headers sent with every request.
    pub headers: Vec<(String, String)>,
    /// How to get from one page to the next.
    pub pagination: Pagination,
    /// The source's published limit, which `fetch` paces itself to.
    pub limit: Option<Limit>,
    /// How to authenticate.
    pub auth: Auth,
}

impl Source {
    /// A source without parameters, credentials and limit, whose responses name the next page by `Link`.
    pub fn plain() -> Self {
        Source {
            url: String::new(),
            records: Pointer::default(),
            error: None,
            seed_param: None,
            query: Vec::new(),
            headers: Vec::new(),
            pagination: Pagination {
                style: PageStyle::Link,
                size_param: None,
                size: 0,
                max_size: None,
                endless: false,
            },
            limit: None,
            auth: Auth::None,
        }
    }
}

/// How many records or requests the source allows in a period.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limit {
    /// What is counted.
    pub unit: LimitUnit,
    /// How many of them.
    pub count: u64,
    /// In what time.
    pub per: std::time::Duration,
}

/// What a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitUnit {
    /// Records delivered.
    Records,
    /// Requests made.
    Requests,
}

/// How to get from one page to the next.
#[derive(Clone, Debug)]
pub struct Pagination {
    /// The style, with what it needs.
    pub style: PageStyle,
    /// Query parameter for the page size, if the source has one.
    pub size_param: Option<String>,
    /// Records a page.
    pub size: u64,
    /// Largest page size the source honours.
    pub max_size: Option<u64>,
    /// Whether there is always a next page: then a page with fewer records than asked is an error,
    /// otherwise it is the last one.
    pub endless: bool,
}

/// The six styles of pagination.
#[derive(Clone, Debug)]
pub enum PageStyle {
    /// One request is everything.
    None,
    /// Pages by number: query parameter and the number of the first page.
    Page {
        /// Query parameter that takes the page number.
        param: String,
        /// Number of the first page.
        first: u64,
    },
    /// Pages by the number of records to pass over.
    Offset {
        /// Query parameter that takes the offset.
        param: String,
    },
    /// Each response names the next page by an opaque text.
    Cursor {
        /// Query parameter that takes the cursor.
        param: String,
        /// Where the next cursor is in a response.
        next: Pointer,
    },
    /// The `Link` header with `rel="next"` (RFC 8288).
    Link,
    /// Each response holds the URL of the next page.
    NextUrl {
        /// Where that URL is in a response.
        next: Pointer,
    },
}

impl PageStyle {
    /// Whether a page's address is known without its predecessor, so that pages can be fetched side by side.
    pub fn is_addressable(&self) -> bool {
        matches!(self, PageStyle::Page { .. } | PageStyle::Offset { .. })
    }
}

/// How to authenticate to the source.
#[derive(Clone, Debug)]
pub enum Auth {
    /// Not at all.
    None,
    /// `Authorization: Bearer TOKEN`.
    Bearer {
        /// The token.
        token: SecretRef,
    },
    /// HTTP basic authentication.
    Basic {
        /// User name.
        username: String,
        /// Password.
        password: SecretRef,
    },
    /// A key in a header of the source's own.
    ApiKeyHeader {
        /// Header name.
        header: String,
        /// The key.
        key: SecretRef,
    },
    /// A key in a query parameter.
    ApiKeyQuery {
        /// Parameter name.
        param: String,
        /// The key.
        key: SecretRef,
    },
    /// OAuth 2.0 client credentials (RFC 6749, section 4.4).
    OAuth2 {
        /// Where the token is had.
        token_url: String,
        /// Client id.
        client_id: String,
        /// Client secret.
        client_secret: SecretRef,
        /// Scope to ask for.
        scope: Option<String>,
    },
}

/// Where a secret is to be found. The dataset file never holds one itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretRef {
    /// In this environment variable.
    Env(String),
    /// In this file.
    File(std::path::PathBuf),
}

/// One field of the event and column of the tables.
#[derive(Clone, Debug)]
pub struct Field {
    /// Name in the event and in every table.
    pub name: String,
    /// Type.
    pub kind: FieldType,
    /// Where `fetch` takes it from.
    pub from: From,
    /// Whether a record without it is rejected.
    pub required: bool,
    /// Further names under which an event may carry it.
    pub aliases: Vec<String>,
    /// Whether numbers, booleans, arrays and objects are taken as text, and texts as numbers or booleans.
    pub coerce: bool,
    /// How a timestamp is written.
    pub format: TimeFormat,
}

/// The types a field can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldType {
    /// UTF-8 text without U+0000.
    Text,
    /// UUID, stored as 16 bytes.
    Uuid,
    /// 32-bit integer.
    Int,
    /// 64-bit integer.
    BigInt,
    /// 64-bit IEEE 754, finite.
    Double,
    /// Exact decimal, up to 1,000 digits.
    Decimal,
    /// true or false.
    Boolean,
    /// Point in time, in milliseconds since 1970 UTC; years 1 to 9999.
    Timestamp,
    /// Calendar day; years 1 to 9999.
    Date,
}

impl FieldType {
    /// All types with the names a dataset file uses.
    pub const ALL: [(&'static str, FieldType); 9] = [
        ("text", FieldType::Text),
        ("uuid", FieldType::Uuid),
        ("int", FieldType::Int),
        ("bigint", FieldType::BigInt),
        ("double", FieldType::Double),
        ("decimal", FieldType::Decimal),
        ("boolean", FieldType::Boolean),
        ("timestamp", FieldType::Timestamp),
        ("date", FieldType::Date),
    ];

    /// The name in a dataset file.
    pub fn name(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(_, kind)| *kind == self)
            .map_or("", |(name, _)| name)
    }
}

/// Where `fetch` takes a field from.
#[derive(Clone, Debug)]
pub enum From {
    /// A place in the source's record.
    Pointer(Pointer),
    /// A text made of several places. If one of them is absent or null, so is the field.
    Template(Template),
    /// The run's `--as-of` time.
    AsOf,
}

/// How a timestamp is written in an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimeFormat {
    /// RFC 3339 text with an offset; digits beyond milliseconds are cut off.
    #[default]
    Rfc3339,
    /// Seconds since 1970 UTC, as a number.
    EpochSeconds,
    /// Milliseconds since 1970 UTC, as a number.
    EpochMillis,
}

/// What an absent optional field means to the real-time store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Nulls {
    /// It is NULL, as in every other store.
    #[default]
    Write,
    /// It leaves the stored value alone where the store can; `verify` then says so.
    Unset,
}

/// The event log's part of a dataset.
#[derive(Clone, Debug)]
pub struct EventSpec {
    /// Topic.
    pub topic: String,
    /// Index of the key field.
    pub key: usize,
    /// Index of the event-time field.
    pub time: usize,
    /// Partitions of a topic that `init` creates.
    pub partitions: u32,
    /// Replicas of each partition, where the log has any.
    pub replication: u16,
    /// How long events are kept; none is for ever.
    pub retention: Option<std::time::Duration>,
}

impl EventSpec {
    /// The dead-letter topic: `<topic>.dlq`.
    pub fn dead_letter_topic(&self) -> String {
        format!("{}.dlq", self.topic)
    }
}

/// The real-time store's part of a dataset.
#[derive(Clone, Debug)]
pub struct RealtimeSpec {
    /// Keyspace, where the store has any.
    pub keyspace: String,
    /// Table.
    pub table: String,
    /// How long a row lives after its write; none is for ever.
    pub ttl: Option<std::time::Duration>,
    /// Further tables for reads by time.
    pub series: Vec<Series>,
}

/// A time-series table, ((bucket, shard), event time, key).
#[derive(Clone, Debug)]
pub struct Series {
    /// Table.
    pub table: String,
    /// Width of a bucket.
    pub bucket: Bucket,
    /// Partitions a bucket is spread over.
    pub shards: u16,
}

/// Width of a time-series bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bucket {
    /// 3,600 seconds, from the full hour UTC.
    Hour,
    /// 86,400 seconds, from midnight UTC.
    Day,
}

impl Bucket {
    /// The name in a dataset file and of the column.
    pub fn name(self) -> &'static str {
        match self {
            Bucket::Hour => "hour",
            Bucket::Day => "day",
        }
    }

    /// Width in milliseconds.
    pub fn millis(self) -> i64 {
        match self {
            Bucket::Hour => 3_600_000,
            Bucket::Day => 86_400_000,
        }
    }
}

/// The batch store's part of a dataset.
#[derive(Clone, Debug)]
pub struct BatchSpec {
    /// Table.
    pub table: String,
    /// Whether the store also keeps what was current on each day.
    pub history: bool,
}

impl Dataset {
    /// The dataset of `--dataset`, or the built-in one.
    pub fn load(path: Option<&Path>) -> Result<Dataset> {
        match path {
            None => Dataset::parse(BUILT_IN, "schema/users.toml"),
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|e| file_error("read the dataset", path, &e))?;
                Dataset::parse(&text, &path.display().to_string())
            }
        }
    }

    /// Reads a declaration; `origin` names it in errors, which give the line and what is allowed.
    pub fn parse(text: &str, origin: &str) -> Result<Dataset> {
        check::dataset(parse::raw(text, origin)?, text, origin)
    }

    /// The key field.
    pub fn key(&self) -> &Field {
        &self.fields[self.event.key]
    }

    /// The event-time field.
    pub fn time(&self) -> &Field {
        &self.fields[self.event.time]
    }

    /// The index of the field of this name or alias.
    pub fn field_index(&self, name: &str) -> Option<usize> {
        self.fields
            .iter()
            .position(|f| f.name == name || f.aliases.iter().any(|a| a == name))
    }

    /// Field names, for messages.
    pub fn field_names(&self) -> String {
        self.fields
            .iter()
            .map(|f| f.name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    }
}
