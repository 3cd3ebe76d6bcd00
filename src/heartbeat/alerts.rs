//! Tells a webhook when the verdict turns bad and when it recovers, once each.

use std::fs::File;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Check, Round, Status};
use crate::durable;
use crate::error::{Error, Result, file_error};
use crate::heartbeat::webhook::{Webhook, WebhookUrl};

/// What the webhook was last told, in memory or in the `--state` file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Told {
    /// Whether a firing alert was delivered and not yet resolved.
    firing: bool,
    /// Since when the verdict has been bad, RFC 3339.
    since: Option<String>,
}

/// A webhook and what it was last told.
#[derive(Debug)]
pub struct Alerts {
    webhook: Webhook,
    state: Told,
    file: Option<(PathBuf, File)>,
}

/// The body of an alert; `text` is what chat webhooks show.
#[derive(Serialize)]
struct Alert<'a> {
    status: &'static str,
    text: String,
    command: &'static str,
    dataset: &'a str,
    since: &'a str,
    time: &'a str,
    run_id: &'a str,
    checks: &'a [Check],
}

impl Alerts {
    /// Alerts for a webhook; a state file stays reserved while the value lives.
    pub fn new(url: WebhookUrl, state: Option<&Path>) -> Result<Self> {
        let (state, file) = match state {
            None => (Told::default(), None),
            Some(path) => {
                let lock = durable::hold(path)?;
                (read(path)?, Some((path.to_path_buf(), lock)))
            }
        };
        Ok(Alerts {
            webhook: Webhook::new(url)?,
            state,
            file,
        })
    }

    /// Tells the webhook if the round changes what it was last told. A failed delivery changes nothing: the
    /// next round tries again.
    pub async fn after(&mut self, round: &Round) -> Result<()> {
        let is_bad = round.status > Status::Ok;
        let mut next = self.state.clone();
        if is_bad && next.since.is_none() {
            next.since = Some(round.time.clone());
        }
        let mut delivered = Ok(());
        if is_bad != next.firing {
            let since = next.since.as_deref().unwrap_or(&round.time);
            delivered = self.webhook.post(body(round, since)?).await;
            if delivered.is_ok() {
                next.firing = is_bad;
            }
        }
        if !is_bad && !next.firing {
            next.since = None;
        }
        self.keep(next)?;
        delivered
    }

    fn keep(&mut self, next: Told) -> Result<()> {
        if next == self.state {
            return Ok(());
        }
        if let Some((path, _)) = &self.file {
            let mut json = serde_json::to_vec(&next).map_err(Error::internal)?;
            json.push(b'\n');
            durable::replace(path, &json)?;
        }
        self.state = next;
        Ok(())
    }
}

fn read(path: &Path) -> Result<Told> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| {
            Error::invalid(format!(
                "{} is not a state file of rtp heartbeat: {e}",
                path.display()
            ))
            .hint("delete it to start without a state")
        }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Told::default()),
        Err(e) => Err(file_error("read", path, &e)),
    }
}

fn body(round: &Round, since: &str) -> Result<String> {
    let bad: Vec<String> = round
        .checks
        .iter()
        .filter(|c| c.status > Status::Ok)
        .map(|c| {
            let detail = c.detail.as_deref().unwrap_or_default();
            format!("{} {}: {detail}", c.check, c.status.name())
        })
        .collect();
    let (status, what) = match bad.is_empty() {
        true => (
            "resolved",
            format!("all checks are ok again; they were not since {since}"),
        ),
        false => ("firing", bad.join("; ")),
    };
    let alert = Alert {
        status,
        text: format!("rtp heartbeat of {}, {status}: {what}", round.dataset),
        command: "heartbeat",
        dataset: &round.dataset,
        since,
        time: &round.time,
        run_id: &round.run_id,
        checks: &round.checks,
    };
    serde_json::to_string(&alert).map_err(Error::internal)
}
