//! A partition that should deliver events and does not, without an error of the client: it has no leader, or each answer
//! is larger than the client accepts, so that it disconnects and asks again.

use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer as _;

use super::KafkaConsumer;
use super::assignment::Owned;
use crate::error::Result;
use crate::servers::kafka::SHORT_TIMEOUT;

/// After this long without an event, the end or an error of a partition, its leader is asked.
const SILENCE: Duration = Duration::from_secs(5);

/// A member that does not look for this long cannot know what it would have heard.
const LOOKS_AWAY: Duration = Duration::from_secs(3);

impl KafkaConsumer {
    /// Called after each poll: asks about a partition that is silent. Only if nothing more was waiting, because what waits
    /// may be of that partition.
    pub(super) fn ask_if_silent(&mut self, is_drained: bool) -> Result<()> {
        let now = Instant::now();
        let looked = self.looked.replace(now);
        if !is_drained || looked.is_none_or(|at| now - at > LOOKS_AWAY) {
            self.owned.values_mut().for_each(|owned| owned.heard = now);
            return Ok(());
        }
        let is_silent = |o: &Owned| o.leaves.is_none() && !o.is_set_back && now - o.heard > SILENCE;
        let Some((partition, owned)) = self.owned.iter_mut().find(|(_, owned)| is_silent(owned))
        else {
            return Ok(());
        };
        let (partition, position) = (*partition, owned.position);
        owned.heard = now; // asked once in a while
        let marks = self
            .client()?
            .fetch_watermarks(&self.topic, partition, SHORT_TIMEOUT);
        let why = match self.driven("read the ends of", marks) {
            Ok((_, high)) if high == position => {
                self.troubles.partition_is_well(partition);
                return Ok(());
            }
            // A new leader may not know the end yet; if it lasts, events are gone.
            Ok((_, high)) if high < position => {
                format!("the next event should have offset {position}, but it ends at {high}")
            }
            Ok((_, high)) => match self.membership.health.too_large(SILENCE + LOOKS_AWAY) {
                Some(reason) => return self.stop_at(partition, position, &reason),
                None => format!("nothing arrives from offset {position} on, but it ends at {high}"),
            },
            Err(e) if e.is_retriable() => e.to_string(),
            Err(e) => return Err(e),
        };
        self.troubles.add_silent(partition, position, why);
        // It is asked again soon, so that a short outage is not taken for a long one; the others wait their turn, because
        // each question may take a second, and commits wait for it.
        let soon = now
            .checked_sub(SILENCE)
            .map_or(now, |before| before + SHORT_TIMEOUT);
        for (other, owned) in &mut self.owned {
            owned.heard = match *other == partition {
                true => soon,
                false => owned.heard.max(soon),
            };
        }
        Ok(())
    }
}
