//! What a difference is, and why it is there.

/// What differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// In the real-time store, not in the batch store.
    Missing,
    /// In the batch store, not in the real-time store.
    Extra,
    /// In both, with different values in one column.
    Changed,
    /// More than once in one store.
    Duplicate,
}

impl Kind {
    /// The name in every output.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Missing => "missing",
            Kind::Extra => "extra",
            Kind::Changed => "changed",
            Kind::Duplicate => "duplicate",
        }
    }
}

/// Why a key differs, as far as there is evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// It is known where the record is, and nobody put it right: the stream or the load read it, and its row is not there.
    Lost,
    /// A row is not what rtp wrote.
    ChangedOutside,
    /// A store has the key more than once.
    Duplicate,
    /// Nothing that is kept tells why.
    Unexplained,
    /// The record is in the dead letters.
    DeadLetter,
    /// The load rejected the record.
    Rejected,
    /// The batch store has an older version, and the newer one is not loaded yet.
    OlderVersion,
    /// The record came after the last load.
    NotLoadedYet,
    /// The event is in the log, and the stream has not committed it yet.
    InFlight,
    /// The row has lived as long as rows do in the real-time store.
    Expired,
}

impl Class {
    /// All of them, those that need attention first.
    pub const ALL: [Class; 10] = [
        Class::Lost,
        Class::ChangedOutside,
        Class::Duplicate,
        Class::Unexplained,
        Class::DeadLetter,
        Class::Rejected,
        Class::OlderVersion,
        Class::NotLoadedYet,
        Class::InFlight,
        Class::Expired,
    ];

    /// The name in every output.
    pub fn name(self) -> &'static str {
        match self {
            Class::Lost => "lost",
            Class::ChangedOutside => "changed_outside",
            Class::Duplicate => "duplicate",
            Class::Unexplained => "unexplained",
            Class::DeadLetter => "dead_letter",
            Class::Rejected => "rejected",
            Class::OlderVersion => "older_version",
            Class::NotLoadedYet => "not_loaded_yet",
            Class::InFlight => "in_flight",
            Class::Expired => "expired",
        }
    }

    /// What it means, for people.
    pub fn meaning(self) -> &'static str {
        match self {
            Class::Lost => "was read or loaded, but the store does not have it",
            Class::ChangedOutside => "a row is not what rtp wrote: it was changed behind its back",
            Class::Duplicate => "a store has the key more than once",
            Class::Unexplained => "nothing that is kept tells why",
            Class::DeadLetter => "the record is in the dead letters",
            Class::Rejected => "the load rejected the record",
            Class::OlderVersion => {
                "the batch store has an older version; the newer one is not loaded yet"
            }
            Class::NotLoadedYet => "the record came after the last load",
            Class::InFlight => "the event waits in the log",
            Class::Expired => "the row has expired in the real-time store, by its ttl",
        }
    }

    /// Whether the layers disagree because of it.
    pub fn fails(self) -> bool {
        matches!(
            self,
            Class::Lost | Class::ChangedOutside | Class::Duplicate | Class::Unexplained
        )
    }
}
