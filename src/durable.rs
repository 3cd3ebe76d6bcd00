//! Files that exist whole or not at all: written to a temporary file, synced, renamed. And files that are written on after
//! a failure, such as a full disk, as if there had been none.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result, file_error, write_error};

/// Bytes of a file being written aside that are worth a write.
const PIECE: usize = 1 << 16;

/// A file, and what is not written to it yet.
#[derive(Debug)]
pub struct Appending {
    file: File,
    waiting: Vec<u8>,
    /// Bytes that are worth a write.
    piece: usize,
}

impl Appending {
    /// Begins where the file stands. So many bytes are worth a write.
    pub fn new(file: File, piece: usize) -> Self {
        Appending {
            file,
            waiting: Vec::new(),
            piece,
        }
    }

    /// The file, which lacks what was added since it was last flushed.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Goes on in another file, with what is waiting.
    pub fn go_on_in(&mut self, file: File) {
        self.file = file;
    }

    /// Whether something is not written yet.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Adds bytes, without writing them.
    pub fn add(&mut self, bytes: &[u8]) {
        self.waiting.extend_from_slice(bytes);
    }

    /// Whether enough is waiting to be worth a write.
    pub fn is_due(&self) -> bool {
        self.waiting.len() >= self.piece
    }

    /// Writes what is waiting. After a failure, the next call goes on where this one stopped.
    pub fn flush(&mut self) -> std::io::Result<()> {
        let mut done = 0;
        let written = loop {
            if done == self.waiting.len() {
                break Ok(());
            }
            match self.file.write(&self.waiting[done..]) {
                Ok(0) => break Err(std::io::ErrorKind::WriteZero.into()),
                Ok(count) => done += count,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => break Err(e),
            }
        };
        self.waiting.drain(..done);
        written
    }
}

/// A file being written. If dropped before [`Aside::publish`], it leaves nothing behind.
#[derive(Debug)]
pub struct Aside {
    target: PathBuf,
    aside: tempfile::TempPath,
    out: Appending,
}

impl Aside {
    /// Starts the file next to `target`, readable only by its owner. A target that is a symbolic link or not a
    /// regular file is refused, because renaming would replace it.
    pub fn create(target: &Path) -> Result<Aside> {
        check_replaceable(target)?;
        let folder = folder(target);
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let aside = tempfile::Builder::new()
            .prefix(&format!(".{name}."))
            .suffix(".partial")
            .tempfile_in(folder) // opened with 0600
            .map_err(|e| write_error(target, &without_path(e)))?;
        let (file, aside) = aside.into_parts();
        Ok(Aside {
            target: target.into(),
            aside,
            out: Appending::new(file, PIECE),
        })
    }

    /// Adds bytes, and writes them if they are enough, for a caller that does not wait for room on a full disk.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.add(bytes);
        self.flush_if_due().map_err(|e| match e.kind() {
            Kind::Unavailable => e.as_kind(Kind::Refused),
            _ => e,
        })
    }

    /// Adds bytes, for a caller that can wait for room on a full disk.
    pub fn add(&mut self, bytes: &[u8]) {
        self.out.add(bytes);
    }

    /// Writes what was added if it is enough. After `Unavailable`, the next call goes on where this one stopped.
    pub fn flush_if_due(&mut self) -> Result<()> {
        match self.out.is_due() {
            true => self.flush(),
            false => Ok(()),
        }
    }

    fn flush(&mut self) -> Result<()> {
        self.out.flush().map_err(|e| write_error(&self.target, &e))
    }

    /// Makes what was added durable, so that publishing it needs no more room. After `Unavailable`, it can be tried again.
    pub fn sync(&mut self) -> Result<()> {
        self.flush()?;
        let synced = self.out.file().sync_all();
        synced.map_err(|e| write_error(&self.target, &e))
    }

    /// The file itself, to change who may read it.
    pub fn file(&self) -> &File {
        self.out.file()
    }

    /// Makes the content durable and gives the file its name, replacing any file that has it.
    pub fn publish(mut self) -> Result<()> {
        self.sync()?;
        let target = self.target.clone();
        let renamed = self.rename();
        renamed
            .map(|_| ())
            .map_err(|e| file_error("write", &target, &e))
    }

    /// Like [`Aside::publish`], but more can be written to the file. None if the file of that name cannot be replaced: it
    /// is a mount point, or somebody else's in a folder like /tmp.
    pub fn publish_open(mut self) -> Result<Option<File>> {
        use std::io::ErrorKind as K;
        self.sync()?;
        let target = self.target.clone();
        match self.rename() {
            Ok(file) => Ok(Some(file)),
            Err(e) if matches!(e.kind(), K::ResourceBusy | K::PermissionDenied) => Ok(None),
            Err(e) => Err(file_error("write", &target, &e)),
        }
    }

    fn rename(self) -> std::io::Result<File> {
        self.aside.persist(&self.target).map_err(|e| e.error)?;
        File::open(folder(&self.target))?.sync_all()?;
        Ok(self.out.file)
    }
}

/// The system's error, without the name of the temporary file, which nobody knows.
fn without_path(error: std::io::Error) -> std::io::Error {
    let told = error.to_string();
    match told.split_once(" at path ") {
        Some((reason, _)) => std::io::Error::new(error.kind(), reason),
        None => error,
    }
}

/// An error if renaming another file to this name would replace a symbolic link, a pipe or a folder.
fn check_replaceable(target: &Path) -> Result<()> {
    match std::fs::symlink_metadata(target) {
        Ok(there) if !there.is_file() => Err(Error::invalid(format!(
            "{} is a symbolic link or not a regular file, so it will not be replaced",
            target.display()
        ))),
        _ => Ok(()),
    }
}

/// Replaces the content of a small file, such as the bookmark of `fetch --state`.
pub fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let mut file = Aside::create(path)?;
    file.write(content)?;
    file.publish()
}

/// Like [`replace`], but everybody may read the file.
pub fn replace_readable(path: &Path, content: &[u8]) -> Result<()> {
    let mut file = Aside::create(path)?;
    file.write(content)?;
    let everybody = std::fs::Permissions::from_mode(0o644);
    let granted = file.out.file().set_permissions(everybody);
    granted.map_err(|e| file_error("write", path, &e))?;
    file.publish()
}

/// Reserves a file for this process until the process ends, with a lock on `FILE.lock`. Fails at once if another
/// process holds it.
pub fn hold(path: &Path) -> Result<File> {
    let in_use = || Error::refused(in_use(path));
    try_hold(path)?.ok_or_else(in_use)
}

/// The message about a file that another process holds.
pub fn in_use(path: &Path) -> String {
    format!("{} is in use by another rtp", path.display())
}

/// Like [`hold`], but returns none if another process holds the file. One that could not be replaced in the end is
/// refused now.
pub fn try_hold(path: &Path) -> Result<Option<File>> {
    check_replaceable(path)?;
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let lock = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&name)
        .map_err(|e| file_error("lock", path, &e))?;
    match lock.try_lock() {
        Ok(()) => Ok(Some(lock)),
        Err(std::fs::TryLockError::WouldBlock) => Ok(None),
        Err(std::fs::TryLockError::Error(e)) => Err(file_error("lock", path, &e)),
    }
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_there_whole_or_not_at_all() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("f");
        let mut file = Aside::create(&path).unwrap();
        file.write(b"half").unwrap();
        drop(file);
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
        replace(&path, b"one").unwrap();
        replace(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        let link = place.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(replace(&link, b"three").is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        let error = replace(&place.path().join("none/f"), b"four").unwrap_err();
        let error = error.to_string();
        assert!(
            error.ends_with("/none/f: No such file or directory (os error 2)"),
            "{error}"
        );
    }

    #[test]
    fn a_held_file_is_refused_to_the_next() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("state.json");
        let held = hold(&path).unwrap();
        assert!(hold(&path).unwrap_err().to_string().contains("in use"));
        drop(held);
        hold(&path).unwrap();
        std::os::unix::fs::symlink(&path, place.path().join("link")).unwrap();
        for other in [place.path(), &place.path().join("link")] {
            let error = hold(other).unwrap_err().to_string();
            assert!(error.contains("not a regular file"), "{error}");
        }
        assert!(!place.path().join("link.lock").exists());
    }
}
