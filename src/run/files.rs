//! The files that a command line names. None is overwritten because an option that writes names what another option
//! reads or writes: a reject file that is also the input would empty it before it is read.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// How every SQLite database starts.
const SQLITE: &[u8; 16] = b"SQLite format 3\0";

/// The files of a command line.
#[derive(Clone, Debug, Default)]
pub struct Files {
    read: Vec<Named>,
    written: Vec<Named>,
}

/// A file, and how messages name it.
#[derive(Clone, Debug)]
struct Named {
    shown: String,
    identity: Option<Identity>,
    path: PathBuf,
}

/// What two names of one file have in common. Pipes, terminals and folders have none: nothing is overwritten there.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Identity {
    /// Device and inode of a file.
    Inode(u64, u64),
    /// The name that a new file will have.
    New(PathBuf),
}

impl Files {
    /// Adds a file that is read; `-` means standard input.
    pub fn read(&mut self, what: &str, path: &Path) {
        self.read.push(match path.as_os_str() == "-" {
            true => Named::stream("standard input", &std::io::stdin()),
            false => Named::file(what, path),
        });
    }

    /// Adds the files that are read as input: standard input if there are none.
    pub fn read_inputs(&mut self, inputs: &[PathBuf]) {
        let stdin = [PathBuf::from("-")];
        let inputs = if inputs.is_empty() { &stdin } else { inputs };
        inputs.iter().for_each(|path| self.read("the input", path));
    }

    /// Adds a file that is overwritten; `-` means standard output.
    pub fn write(&mut self, option: &str, path: &Path) {
        self.written.push(match path.as_os_str() == "-" {
            true => Named::stream("standard output", &std::io::stdout()),
            false => Named::file(option, path),
        });
    }

    /// An error if a file that is overwritten is also read, is overwritten by another option as well, is a folder, or
    /// belongs to a database.
    pub fn check(&self) -> Result<()> {
        for (i, written) in self.written.iter().enumerate() {
            let mut others = self.read.iter().chain(&self.written[..i]);
            let is_same =
                |other: &&Named| written.identity.is_some() && written.identity == other.identity;
            if let Some(other) = others.find(is_same) {
                return Err(Error::invalid(format!(
                    "{} is the same file as {}",
                    written.shown, other.shown
                ))
                .hint("name another file, because one of the two would be lost"));
            }
            if written.path.is_dir() {
                return Err(Error::invalid(format!("{} is a folder", written.shown))
                    .hint("name a file in it"));
            }
            if is_database(&written.path) {
                return Err(Error::invalid(format!(
                    "{} is an SQLite database, which would be overwritten",
                    written.shown
                )));
            }
            if let Some(database) = database_of(&written.path) {
                return Err(Error::invalid(format!(
                    "{} belongs to the SQLite database {}, which would be damaged",
                    written.shown,
                    database.display()
                )));
            }
        }
        Ok(())
    }
}

impl Named {
    fn file(what: &str, path: &Path) -> Named {
        Named {
            shown: format!("{what} {}", path.display()),
            identity: identity(path),
            path: path.into(),
        }
    }

    fn stream(shown: &str, stream: &impl AsFd) -> Named {
        let there = stream.as_fd().try_clone_to_owned();
        let there = there.and_then(|stream| File::from(stream).metadata());
        Named {
            shown: shown.into(),
            identity: there.ok().as_ref().and_then(inode),
            path: PathBuf::new(),
        }
    }
}

/// Whether two paths name one file, which may not exist yet.
pub fn is_same_file(a: &Path, b: &Path) -> bool {
    let a = identity(a);
    a.is_some() && a == identity(b)
}

fn is_database(path: &Path) -> bool {
    let mut start = [0; SQLITE.len()];
    path.is_file()
        && File::open(path)
            .and_then(|mut file| file.read_exact(&mut start))
            .is_ok_and(|()| start == *SQLITE)
}

/// The database whose changes, not yet in its own file, this file holds.
fn database_of(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let mut suffixes = ["-wal", "-shm", "-journal"].iter();
    let name = suffixes.find_map(|suffix| name.strip_suffix(suffix))?;
    Some(path.with_file_name(name)).filter(|database| is_database(database))
}

fn identity(path: &Path) -> Option<Identity> {
    match std::fs::metadata(path) {
        Ok(there) => inode(&there),
        Err(_) => new(path),
    }
}

fn inode(there: &std::fs::Metadata) -> Option<Identity> {
    there
        .is_file()
        .then(|| Identity::Inode(there.dev(), there.ino()))
}

fn new(path: &Path) -> Option<Identity> {
    let path = std::path::absolute(path).ok()?;
    let (folder, name) = (path.parent()?, path.file_name()?);
    // A folder that is not there yet is known by its path only.
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.into());
    Some(Identity::New(folder.join(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_known_by_any_of_its_names() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        std::fs::write(path("a"), "x").unwrap();
        std::fs::write(path("db"), SQLITE).unwrap();
        std::fs::hard_link(path("a"), path("hard")).unwrap();
        std::os::unix::fs::symlink(path("a"), path("soft")).unwrap();
        std::fs::create_dir(path("sub")).unwrap();
        for (read, written, says) in [
            ("a", &["b"][..], ""),
            ("a", &["a"], "--out0 "),
            ("a", &["hard"], "is the same file as the input "),
            ("soft", &["sub/../a"], "is the same file"),
            ("a", &["b", "c"], ""),
            ("a", &["b", "sub/../b"], "is the same file as --out0 "),
            ("a", &["db"], "is an SQLite database"),
            ("a", &["none/b", "none/c"], ""),
            ("a", &["none/b", "./none/b"], "is the same file as --out0 "),
            ("sub", &["sub"], "--out0 "),
            ("a", &["sub"], "is a folder"),
            ("a", &["db-wal"], "belongs to the SQLite database "),
            ("a", &["a-wal"], ""),
        ] {
            let mut files = Files::default();
            files.read_inputs(&[path(read)]);
            for (i, name) in written.iter().enumerate() {
                files.write(&format!("--out{i}"), &path(name));
            }
            match files.check() {
                Ok(()) => assert_eq!(says, "", "{read} {written:?}"),
                Err(e) => assert!(!says.is_empty() && e.to_string().contains(says), "{e}"),
            }
        }
        let is_one = |a: &str, b: &str| is_same_file(&path(a), &path(b));
        assert!(is_one("soft", "a") && is_one("hard", "sub/../a"));
        assert!(is_one("new", "sub/../new") && is_one("none/new", "./none/new"));
        assert!(!is_one("a", "db") && !is_one("new", "sub/new") && !is_one("a", "new"));
        let mut files = Files::default();
        files.read("the input", Path::new("/dev/null"));
        files.write("--out", Path::new("/dev/null"));
        files.check().unwrap();
    }
}
