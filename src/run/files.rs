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
#[derive(Debug, Default)]
pub struct Files {
    read: Vec<Named>,
    written: Vec<Named>,
}

/// A file, and how messages name it.
#[derive(Debug)]
struct Named {
    shown: String,
    identity: Option<Identity>,
    path: PathBuf,
}

/// What two names of one file have in common. Pipes, terminals and folders have none: nothing is overwritten there.
#[derive(Debug, PartialEq, Eq)]
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

    /// An error if a file that is overwritten is also read, is overwritten by another option as well, or is a
    /// database.
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
            if written.is_database() {
                return Err(Error::invalid(format!(
                    "{} is an SQLite database, which would be overwritten",
                    written.shown
                )));
            }
        }
        Ok(())
    }
}

impl Named {
    fn file(what: &str, path: &Path) -> Named {
        let identity = match std::fs::metadata(path) {
            Ok(there) => inode(&there),
            Err(_) => new(path),
        };
        Named {
            shown: format!("{what} {}", path.display()),
            identity,
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

    fn is_database(&self) -> bool {
        let mut start = [0; SQLITE.len()];
        matches!(self.identity, Some(Identity::Inode(..)))
            && File::open(&self.path)
                .and_then(|mut file| file.read_exact(&mut start))
                .is_ok_and(|()| start == *SQLITE)
    }
}

fn inode(there: &std::fs::Metadata) -> Option<Identity> {
    there
        .is_file()
        .then(|| Identity::Inode(there.dev(), there.ino()))
}

fn new(path: &Path) -> Option<Identity> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let folder = folder.canonicalize().ok()?; // without the folder, the file cannot be written at all
    Some(Identity::New(folder.join(path.file_name()?)))
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
            ("a", &["none/b", "none/b"], ""),
            ("sub", &["sub"], ""),
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
        let mut files = Files::default();
        files.read("the input", Path::new("/dev/null"));
        files.write("--out", Path::new("/dev/null"));
        files.check().unwrap();
    }
}
