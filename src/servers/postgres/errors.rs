//! What the errors of PostgreSQL and of its driver mean for the caller.

use std::error::Error as _;

use crate::error::{Error, Kind};

/// What an error of the driver or the server means for the caller. The server's details are left out,
/// because they contain values of records.
pub fn error(e: &::postgres::Error) -> Error {
    let Some(answer) = e.as_db_error() else {
        let message = match e.source() {
            Some(source) => format!("{e}: {source}"),
            None => e.to_string(),
        };
        // The driver does not expose its kinds of error. A retry does not help with these two.
        return match () {
            () if message.contains("password missing") => {
                Error::invalid("the server requires a password")
                    .hint("set RTP_POSTGRES_PASSWORD_FILE or RTP_POSTGRES_PASSWORD; PGPASSWORD and .pgpass are not read")
            }
            () if message.starts_with("error performing TLS handshake") => Error::refused(message)
                .hint("sslmode and sslrootcert in the address set what is required of the server"),
            () => Error::unavailable(message),
        };
    };
    let code = answer.code().code();
    let message = format!("{} (SQLSTATE {code})", answer.message());
    match meaning(code, answer.routine()) {
        Kind::Unavailable => Error::unavailable(message),
        Kind::Data => Error::data(message),
        Kind::Invalid => Error::invalid(message),
        _ => Error::refused(message),
    }
}

/// What an SQLSTATE means; `routine` is the function of the server that reports it, which its language does not change.
fn meaning(code: &str, routine: Option<&str>) -> Kind {
    // A server that has run out of transaction numbers accepts no writes until it is vacuumed, and says so with the code
    // of a row that is too long for an index (varsup.c, multixact.c).
    let is_out_of_numbers = || routine.is_some_and(|routine| routine.starts_with("GetNew"));
    match (code.get(..2).unwrap_or(code), code) {
        // A limit of the server's configuration, such as temp_file_limit, stays as it is.
        (_, "53400") => Kind::Refused,
        // Connections; serialization; resources such as disks; operators; the system. A lock, and what others use.
        ("08" | "40" | "53" | "57" | "58", _) | (_, "55P03" | "55006") => Kind::Unavailable,
        // The session was idle for too long, or its transaction took too long; another one can do the same.
        (_, "25P03" | "25P04") => Kind::Unavailable,
        (_, "54000") if is_out_of_numbers() => Kind::Unavailable,
        ("22" | "23", _) | (_, "P0001" | "54000") => Kind::Data, // 54000: too long for an index
        ("28" | "3D" | "3F" | "42", _) => Kind::Invalid,
        _ => Kind::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_speaks_of_the_server_is_an_outage_and_no_bad_row() {
        for (code, routine, expected) in [
            ("53000", None, Kind::Unavailable),
            ("53100", None, Kind::Unavailable), // the disk is full
            ("53200", None, Kind::Unavailable),
            ("53300", None, Kind::Unavailable), // too many connections
            ("53400", None, Kind::Refused),
            ("57014", None, Kind::Unavailable),
            ("57P01", None, Kind::Unavailable),
            ("57P03", None, Kind::Unavailable), // starting up
            ("58030", None, Kind::Unavailable),
            ("08006", None, Kind::Unavailable),
            ("40P01", None, Kind::Unavailable),
            ("25P03", None, Kind::Unavailable),
            ("25006", None, Kind::Refused), // read-only until somebody changes that
            ("55P03", None, Kind::Unavailable),
            ("55006", None, Kind::Unavailable),
            ("55000", None, Kind::Refused),
            ("54000", Some("GetNewTransactionId"), Kind::Unavailable),
            ("54000", Some("GetNewMultiXactId"), Kind::Unavailable),
            ("54000", Some("_bt_check_third_page"), Kind::Data),
            ("54000", None, Kind::Data),
            ("22003", None, Kind::Data),
            ("23505", None, Kind::Data),
            ("42P01", None, Kind::Invalid),
            ("XX001", None, Kind::Refused), // damaged
            ("", None, Kind::Refused),
        ] {
            assert_eq!(meaning(code, routine), expected, "{code} {routine:?}");
        }
    }
}
