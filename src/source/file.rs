//! Saved response bodies as a source: `file:///path/page-01.json`, or a folder of them.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use url::Url;

use super::{Response, Source};
use crate::error::{Error, Result, file_error};
use crate::secret::shown;

/// Largest body accepted, in bytes; the same as over HTTP.
const MAX_BODY: u64 = super::http::MAX_BODY;

/// The files of one address in order, each naming the next one as a `Link` header would.
#[derive(Clone, Debug)]
pub struct FileSource {
    files: Vec<Url>,
}

impl FileSource {
    /// The file of a `file://` address, or the `*.json` files of a folder in the order of their names.
    pub fn open(address: &Url) -> Result<Self> {
        Ok(FileSource {
            files: files(address)?,
        })
    }

    /// The address of the first file.
    pub fn first(&self) -> Option<&Url> {
        self.files.first()
    }
}

fn files(address: &Url) -> Result<Vec<Url>> {
    let path = path(address)?;
    let fail = |e: &std::io::Error| file_error("read", &path, e);
    if !std::fs::metadata(&path).map_err(|e| fail(&e))?.is_dir() {
        return Ok(vec![address.clone()]);
    }
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(&path).map_err(|e| fail(&e))? {
        let file = entry.map_err(|e| fail(&e))?.path();
        if file.extension().is_some_and(|e| e == "json") && file.is_file() {
            files.push(file);
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(Error::invalid(format!(
            "there are no *.json files in {}",
            path.display()
        )));
    }
    files.iter().map(|file| address_of(file)).collect()
}

fn path(address: &Url) -> Result<PathBuf> {
    address.to_file_path().map_err(|()| {
        Error::invalid(format!(
            "{} does not name a file on this machine",
            shown(address)
        ))
    })
}

fn address_of(file: &Path) -> Result<Url> {
    let absolute = std::path::absolute(file).map_err(|e| file_error("find", file, &e))?;
    Url::from_file_path(&absolute)
        .map_err(|()| Error::invalid(format!("{} is not an absolute path", file.display())))
}

#[async_trait]
impl Source for FileSource {
    async fn get(&self, address: &Url) -> Result<Response> {
        let path = path(address)?;
        let size = tokio::fs::metadata(&path).await.map(|m| m.len());
        if size.map_err(|e| file_error("read", &path, &e))? > MAX_BODY {
            return Err(Error::refused(format!(
                "{} is larger than {MAX_BODY} bytes",
                path.display()
            )));
        }
        let bytes = tokio::fs::read(&path).await;
        let body = bytes.map_err(|e| file_error("read", &path, &e))?;
        let this = self.files.iter().position(|file| file == address);
        let next = this.and_then(|i| self.files.get(i + 1));
        Ok(Response {
            body,
            next_link: next.map(ToString::to_string),
        })
    }
}
