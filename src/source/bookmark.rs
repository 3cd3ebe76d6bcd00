//! Where a walk over a source began, and where the next one will continue: what `fetch --state` keeps.

use std::fs::File;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::pagination::{Paging, Position, Resume};
use crate::durable;
use crate::error::{Error, Result, file_error};
use crate::run::Run;

/// The content of the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    version: u32,
    dataset: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<String>,
    next: Position,
    /// Records of the next page that were taken, from its first.
    #[serde(default, skip_serializing_if = "is_zero")]
    done: u64,
    /// What identifies these, in their order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last: Option<String>,
    /// What identifies the first records of the source, each for itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    first: Option<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde asks for it
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// Who updates the file once the records before the bookmark are safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SavedBy {
    /// This run, which writes the records to a file.
    Us,
    /// The reader of the pipe, with `--commit-state`.
    Reader,
}

/// The bookmark; without a file it lasts for this run only.
#[derive(Debug)]
pub struct Bookmark {
    path: Option<PathBuf>,
    dataset: String,
    /// The seed of the walk.
    pub seed: Option<String>,
    next: Option<Resume>,
    is_resumed: bool,
    /// Keeps other runs from updating the file.
    _held: Option<File>,
}

impl Bookmark {
    /// Reads the file, if there is one. A requested seed must equal that of the file.
    pub fn open(
        path: Option<&Path>,
        saved_by: SavedBy,
        dataset: &str,
        seed: Option<&str>,
        run: &Run,
    ) -> Result<Self> {
        let mut bookmark = Bookmark {
            path: path.map(Path::to_path_buf),
            dataset: dataset.into(),
            seed: seed.map(str::to_string),
            next: None,
            is_resumed: false,
            _held: None,
        };
        let Some(path) = path else {
            return Ok(bookmark);
        };
        if saved_by == SavedBy::Us {
            bookmark._held = Some(durable::hold(path)?);
        }
        match std::fs::read(path) {
            Ok(bytes) => bookmark.read(path, &bytes)?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                run.info(format!(
                    "{} does not exist yet, so this is a first run",
                    path.display()
                ));
            }
            Err(e) => return Err(file_error("read", path, &e)),
        }
        Ok(bookmark)
    }

    fn read(&mut self, path: &Path, bytes: &[u8]) -> Result<()> {
        let wrong = |what: String| {
            Error::invalid(format!("{}: {what}", path.display()))
                .hint("move the file away to start again")
        };
        let saved: Saved = serde_json::from_slice(bytes)
            .map_err(|e| wrong(format!("not a state file of rtp fetch: {e}")))?;
        if saved.version != 1 {
            return Err(wrong(format!(
                "unsupported version {}; expected 1",
                saved.version
            )));
        }
        if saved.dataset != self.dataset {
            return Err(wrong(format!(
                "it belongs to the dataset {}, not {}",
                saved.dataset, self.dataset
            )));
        }
        if let Some(seed) = self.seed.take().filter(|s| Some(s) != saved.seed.as_ref()) {
            let other = saved.seed.as_deref().unwrap_or("none");
            return Err(wrong(format!("it was made with seed {other}, not {seed}")));
        }
        self.seed = saved.seed;
        self.is_resumed = true;
        self.next = Some(Resume {
            position: saved.next,
            done: saved.done,
            last: saved.last,
            first: saved.first,
        });
        Ok(())
    }

    /// Where the walk begins: at the bookmark, or else at this page, numbered as the source numbers its pages.
    pub fn start(&self, paging: &Paging, page: Option<u64>) -> Result<Resume> {
        match (&self.next, &self.path) {
            (Some(next), _) if paging.fits(&next.position) => Ok(next.clone()),
            (Some(_), Some(path)) => Err(Error::invalid(format!(
                "{} does not match the source's pagination style",
                path.display()
            ))),
            _ => paging.start(page).map(Resume::from),
        }
    }

    /// Whether it continues a walk of an earlier run.
    pub fn is_resumed(&self) -> bool {
        self.is_resumed
    }

    /// Moves on; returns the bookmark as JSON, if one is kept.
    pub fn move_to(&mut self, next: &Resume) -> Result<Option<String>> {
        self.next = Some(next.clone());
        self.json()
    }

    /// Saves in the file how far the walk has come. The records before that must be safe.
    pub fn save(&self) -> Result<()> {
        match (&self.path, self.json()?) {
            (Some(path), Some(json)) => durable::replace(path, format!("{json}\n").as_bytes()),
            _ => Ok(()),
        }
    }

    fn json(&self) -> Result<Option<String>> {
        let (Some(_), Some(next)) = (&self.path, &self.next) else {
            return Ok(None);
        };
        let saved = Saved {
            version: 1,
            dataset: self.dataset.clone(),
            seed: self.seed.clone(),
            next: next.position.clone(),
            done: next.done,
            last: next.last.clone(),
            first: next.first.clone(),
        };
        let json = serde_json::to_string(&saved);
        json.map(Some).map_err(Error::internal)
    }
}
