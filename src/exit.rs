//! The exit statuses of all commands: one table, part of the contract with users' scripts.

use std::process::ExitCode;

use crate::error::Kind;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// 0: done, even if there was nothing to do; or a following command was told to stop and has drained.
    Done = 0,
    /// 1: done, and the answer is "no": rejected rows, differences, stale.
    No = 1,
    /// 2: usage or configuration error, including a topic or table that is missing at the start.
    Usage = 2,
    /// 3: error budget exceeded.
    Budget = 3,
    /// 4: a dependency is down, refused the request or broke its own contract.
    Dependency = 4,
    /// 5: data is missing: an offset gap, truncated input, another topic or file than before.
    Missing = 5,
    /// 70: a bug in rtp (a panic, a broken invariant): report it.
    Internal = 70,
    /// 130: interrupted by SIGINT before the work was complete, drained cleanly.
    Interrupted = 130,
    /// 143: told to stop by SIGTERM before the work was complete, drained cleanly.
    Terminated = 143,
}

impl Exit {
    /// The number the shell sees.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// `Done` for yes, `No` for no: the verdict of commands that answer a question.
    pub fn verdict(yes: bool) -> Self {
        if yes { Exit::Done } else { Exit::No }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}

impl From<Kind> for Exit {
    fn from(kind: Kind) -> Exit {
        match kind {
            Kind::Unavailable | Kind::Refused => Exit::Dependency,
            Kind::Invalid => Exit::Usage,
            Kind::Data => Exit::No,
            Kind::Missing => Exit::Missing,
            Kind::Budget => Exit::Budget,
            Kind::Internal => Exit::Internal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_the_contract() {
        let table = [
            (Exit::Done, 0),
            (Exit::No, 1),
            (Exit::Usage, 2),
            (Exit::Budget, 3),
            (Exit::Dependency, 4),
            (Exit::Missing, 5),
            (Exit::Internal, 70),
            (Exit::Interrupted, 130),
            (Exit::Terminated, 143),
        ];
        for (exit, code) in table {
            assert_eq!(exit.code(), code, "{exit:?}");
        }
    }

    #[test]
    fn every_error_kind_has_its_status() {
        let table = [
            (Kind::Unavailable, Exit::Dependency),
            (Kind::Refused, Exit::Dependency),
            (Kind::Invalid, Exit::Usage),
            (Kind::Data, Exit::No),
            (Kind::Missing, Exit::Missing),
            (Kind::Budget, Exit::Budget),
            (Kind::Internal, Exit::Internal),
        ];
        for (kind, exit) in table {
            assert_eq!(Exit::from(kind), exit, "{kind:?}");
        }
    }
}
