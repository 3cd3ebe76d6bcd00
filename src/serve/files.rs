//! How many connections there may be: each one is an open file, and the log and the stores need some, too.

use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::listen::Limits;
use crate::run::Run;

/// Connections at once, if there may be enough open files.
const MOST: u64 = 1_024;

/// Files that are left for everything else: a few for each store, more for the Kafka client, which has a connection to
/// each broker.
const ROOM: u64 = 256;

/// How long a client may take nothing of what waits for it, until it is disconnected.
const PATIENCE: Duration = Duration::from_secs(20);

/// What connections may take. Fewer than usual are told.
pub(crate) fn limits(run: &Run) -> Limits {
    let Places { connections, files } = places();
    if let Some(files) = files {
        run.warn(format!(
            "at most {connections} connections at a time, because this process may have only {files} open files"
        ));
    }
    Limits {
        connections,
        patience: PATIENCE,
    }
}

/// Connections that there may be at once, and the limit of open files if that is why there may not be [`MOST`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Places {
    connections: usize,
    files: Option<u64>,
}

/// Raises the limit of open files if it is too low and may be raised, and divides them.
fn places() -> Places {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = MOST + ROOM;
    let possible = maximum.map_or(wanted, |maximum| wanted.min(maximum));
    let is_low = current.is_some_and(|current| current < possible);
    let raised = Rlimit {
        current: Some(possible),
        maximum,
    };
    match is_low && setrlimit(Resource::Nofile, raised).is_ok() {
        true => divide(Some(possible)),
        false => divide(current),
    }
}

/// No limit is none.
fn divide(files: Option<u64>) -> Places {
    let room = |files: u64| ROOM.min(files / 2);
    let most = files.map_or(MOST, |files| MOST.min(files - room(files)));
    Places {
        connections: usize::try_from(most.max(1)).unwrap_or(1),
        files: files.filter(|_| most < MOST),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_room_for_the_stores() {
        for (files, connections, is_why) in [
            (None, 1_024, false),
            (Some(1_000_000), 1_024, false),
            (Some(1_280), 1_024, false),
            (Some(1_024), 768, true),
            (Some(256), 128, true),
            (Some(1), 1, true),
            (Some(0), 1, true),
        ] {
            let places = divide(files);
            assert_eq!(places.connections, connections, "{files:?}");
            assert_eq!(places.files, files.filter(|_| is_why), "{files:?}");
        }
    }
}
