//! Commits on a thread of its own, because the client waits for the brokers' answer forever.

use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::KafkaResult;

use super::membership::Membership;
use crate::ports::event_log::Offsets;

/// The thread, and the requests to it.
pub(super) struct Committer {
    lists: mpsc::Sender<TopicPartitionList>,
    answers: mpsc::Receiver<KafkaResult<()>>,
    /// The requests that are not answered yet.
    asked: Option<Offsets>,
    thread: JoinHandle<()>,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Silent {
    /// It has not come yet: ask again.
    Waiting,
    /// The thread has ended.
    Ended,
}

impl Committer {
    pub(super) fn start(client: Arc<BaseConsumer<Membership>>) -> Self {
        let (lists, asks) = mpsc::channel();
        let (answer, answers) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            for list in asks {
                let committed = client.commit(&list, CommitMode::Sync);
                if answer.send(committed).is_err() {
                    return;
                }
            }
        });
        Committer {
            lists,
            answers,
            asked: None,
            thread,
        }
    }

    /// Commits the offsets in the list, and waits this long for the answer. If an earlier call ran out of time, its
    /// answer is awaited first; if that is a failure, it is the answer.
    pub(super) fn commit(
        &mut self,
        offsets: &Offsets,
        list: &TopicPartitionList,
        patience: Duration,
    ) -> Result<KafkaResult<()>, Silent> {
        loop {
            if self.asked.is_none() {
                self.lists.send(list.clone()).map_err(|_| Silent::Ended)?;
                self.asked = Some(offsets.clone());
            }
            let answer = match self.answers.recv_timeout(patience) {
                Ok(answer) => answer,
                Err(mpsc::RecvTimeoutError::Timeout) => return Err(Silent::Waiting),
                Err(mpsc::RecvTimeoutError::Disconnected) => return Err(Silent::Ended),
            };
            let asked = self.asked.take();
            if answer.is_err() || asked.as_ref() == Some(offsets) {
                return Ok(answer);
            }
        }
    }

    /// Ends the thread, which holds the client as well, once it has its answer.
    pub(super) fn end(self) -> std::thread::Result<()> {
        drop(self.lists);
        self.thread.join()
    }
}
