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

#[cfg(test)]
mod tests {
    use rdkafka::Offset;
    use rdkafka::config::FromClientConfigAndContext;
    use rdkafka::error::RDKafkaErrorCode as Code;
    use rdkafka::mocking::MockCluster;

    use super::*;
    use crate::servers::address::Address;
    use crate::servers::kafka;

    #[test]
    fn a_commit_that_is_refused_for_one_partition_is_a_failure() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("events", 2, 1).unwrap();
        let mut config = kafka::config(&Address::default()).unwrap();
        config
            .set("bootstrap.servers", cluster.bootstrap_servers())
            .set("group.id", "group");
        let client = BaseConsumer::from_config_and_context(&config, Membership::default());
        let mut committer = Committer::start(Arc::new(client.unwrap()));
        let mut commit = |partitions: &[i32]| {
            let mut list = TopicPartitionList::new();
            for partition in partitions {
                list.add_partition_offset("events", *partition, Offset::Offset(1))
                    .unwrap();
            }
            let offsets = partitions.iter().map(|p| (*p, 1)).collect();
            committer.commit(&offsets, &list, Duration::from_secs(60))
        };
        assert!(commit(&[0, 1]).unwrap().is_ok());
        for partitions in [[0, 7], [7, 0]] {
            let refused = commit(&partitions).unwrap().unwrap_err();
            let code = refused.rdkafka_error_code();
            assert_eq!(code, Some(Code::UnknownTopicOrPartition), "{refused:?}");
        }
        assert!(commit(&[1]).unwrap().is_ok());
        committer.end().unwrap();
    }
}
