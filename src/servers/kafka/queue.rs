//! What a consumer receives from librdkafka, event by event. The `rdkafka` crate does not report at which offset a
//! partition ends, which is the only sign of what a transaction leaves there, nor where an error is, and panics at a
//! header whose name is not UTF-8. Also the id of a topic, which the crate does not ask for.

#![expect(unsafe_code, reason = "the C interface of librdkafka")]

use std::ffi::{CStr, CString, c_char};
use std::marker::PhantomData;
use std::ptr;
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::bindings::{
    RD_KAFKA_EVENT_ERROR, RD_KAFKA_EVENT_FETCH, RD_KAFKA_EVENT_REBALANCE, rd_kafka_DescribeTopics,
    rd_kafka_DescribeTopics_result_topics, rd_kafka_TopicCollection_destroy,
    rd_kafka_TopicCollection_of_topic_names, rd_kafka_TopicDescription_error,
    rd_kafka_TopicDescription_topic_id, rd_kafka_Uuid_least_significant_bits,
    rd_kafka_Uuid_most_significant_bits, rd_kafka_error_code, rd_kafka_event_DescribeTopics_result,
    rd_kafka_event_destroy, rd_kafka_event_error, rd_kafka_event_error_string,
    rd_kafka_event_message_next, rd_kafka_event_t, rd_kafka_event_topic_partition,
    rd_kafka_event_topic_partition_list, rd_kafka_event_type, rd_kafka_fatal_error,
    rd_kafka_header_get_all, rd_kafka_message_headers, rd_kafka_message_t,
    rd_kafka_message_timestamp, rd_kafka_queue_destroy, rd_kafka_queue_get_consumer,
    rd_kafka_queue_new, rd_kafka_queue_poll, rd_kafka_queue_t, rd_kafka_resp_err_t,
    rd_kafka_topic_partition_destroy,
};
use rdkafka::client::{Client, ClientContext};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{IsError as _, KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use uuid::Uuid;

use crate::record::event::Headers;

/// The events of a consumer.
pub(super) struct Queue<C: ConsumerContext + 'static> {
    queue: *mut rd_kafka_queue_t,
    client: Arc<BaseConsumer<C>>,
}

// SAFETY: librdkafka locks what its handles point to; any thread may use them.
unsafe impl<C: ConsumerContext> Send for Queue<C> {}
// SAFETY: as above.
unsafe impl<C: ConsumerContext> Sync for Queue<C> {}

/// An event of the client.
pub(super) enum Heard<'a> {
    /// A message.
    Message(Message<'a>),
    /// Everything in a partition before this offset was read.
    End(i32, i64),
    /// The group has assigned partitions to this member, or revoked them.
    Given(Vec<i32>),
    Taken(Vec<i32>),
    /// An error, in place of a message or from the client.
    Failed(Failure),
    /// Something that does not matter here.
    Other,
}

/// An error of the client.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) code: Code,
    /// The client's own words.
    pub(super) reason: String,
    /// The partition that it is about, and the offset; none if it is about the group or the client.
    pub(super) place: Option<(i32, i64)>,
}

impl<C: ConsumerContext> Queue<C> {
    /// The queue of a member of a group; none for a client without one.
    pub(super) fn of(client: &Arc<BaseConsumer<C>>) -> Option<Self> {
        // SAFETY: the client lives, here as long as the queue.
        let queue = unsafe { rd_kafka_queue_get_consumer(client.client().native_ptr()) };
        (!queue.is_null()).then(|| Queue {
            queue,
            client: Arc::clone(client),
        })
    }

    /// The client.
    pub(super) fn client(&self) -> &Arc<BaseConsumer<C>> {
        &self.client
    }

    /// Passes the next event to `hear`, waiting for it this long; none if there was none.
    pub(super) fn next<T>(&self, wait: Duration, hear: impl FnOnce(Heard<'_>) -> T) -> Option<T> {
        let wait = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the queue lives.
        let event = unsafe { rd_kafka_queue_poll(self.queue, wait) };
        if event.is_null() {
            return None;
        }
        let event = ClientEvent(event);
        Some(hear(self.read(&event)))
    }

    fn read<'e>(&self, event: &'e ClientEvent) -> Heard<'e> {
        // SAFETY: the event lives, and so does what it owns. Each function is for events of its kind, as asked for.
        unsafe {
            match rd_kafka_event_type(event.0) {
                RD_KAFKA_EVENT_FETCH => {
                    let message = rd_kafka_event_message_next(event.0);
                    match message.is_null() {
                        true => Heard::Other,
                        false => Heard::Message(Message(message, PhantomData)),
                    }
                }
                RD_KAFKA_EVENT_REBALANCE => {
                    let list = rd_kafka_event_topic_partition_list(event.0);
                    let count = usize::try_from((*list).cnt).unwrap_or(0);
                    let partitions = (0..count)
                        .map(|i| (*(*list).elems.add(i)).partition)
                        .collect();
                    match rd_kafka_event_error(event.0) {
                        rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                            Heard::Given(partitions)
                        }
                        _ => Heard::Taken(partitions),
                    }
                }
                RD_KAFKA_EVENT_ERROR => self.failed(event),
                _ => Heard::Other,
            }
        }
    }

    /// # Safety
    /// The event is an error.
    unsafe fn failed(&self, event: &ClientEvent) -> Heard<'static> {
        // SAFETY: the event lives; its reason ends with a null byte. What partition it is about is ours to end.
        unsafe {
            let error = rd_kafka_event_error(event.0);
            let place = rd_kafka_event_topic_partition(event.0);
            let at = (!place.is_null()).then(|| ((*place).partition, (*place).offset));
            if !place.is_null() {
                rd_kafka_topic_partition_destroy(place);
            }
            match (error, at) {
                (rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__PARTITION_EOF, Some((partition, end))) => {
                    return Heard::End(partition, end);
                }
                (rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__PARTITION_EOF, None) => {
                    return Heard::Other;
                }
                _ => {}
            }
            let reason = CStr::from_ptr(rd_kafka_event_error_string(event.0)).to_string_lossy();
            let reason = reason.trim().to_string();
            let context = self.client.client().context();
            context.error(KafkaError::Global(error.into()), &reason);
            match error.is_error() {
                false => Heard::Other,
                true => Heard::Failed(Failure {
                    code: self.cause(error).into(),
                    reason,
                    place: at,
                }),
            }
        }
    }

    /// The error that made the client unusable, in place of the one that only says so.
    fn cause(&self, error: rd_kafka_resp_err_t) -> rd_kafka_resp_err_t {
        match error {
            rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__FATAL => {
                let client = self.client.client().native_ptr();
                // SAFETY: the client lives. No text is asked for.
                match unsafe { rd_kafka_fatal_error(client, ptr::null_mut(), 0) } {
                    rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => error,
                    cause => cause,
                }
            }
            other => other,
        }
    }
}

impl<C: ConsumerContext> Drop for Queue<C> {
    fn drop(&mut self) {
        // SAFETY: it is not used again, and the client lives still.
        unsafe { rd_kafka_queue_destroy(self.queue) };
    }
}

/// An event that is destroyed on drop.
struct ClientEvent(*mut rd_kafka_event_t);

impl Drop for ClientEvent {
    fn drop(&mut self) {
        // SAFETY: nothing that it owns is used again.
        unsafe { rd_kafka_event_destroy(self.0) };
    }
}

/// A message, as long as its event lives.
pub(super) struct Message<'a>(*const rd_kafka_message_t, PhantomData<&'a ClientEvent>);

impl<'a> Message<'a> {
    pub(super) fn partition(&self) -> i32 {
        // SAFETY: the message lives.
        unsafe { (*self.0).partition }
    }

    pub(super) fn offset(&self) -> i64 {
        // SAFETY: the message lives.
        unsafe { (*self.0).offset }
    }

    /// In milliseconds since 1970 UTC; 0 without one.
    pub(super) fn timestamp(&self) -> i64 {
        let mut kind =
            rdkafka::bindings::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message lives.
        let at = unsafe { rd_kafka_message_timestamp(self.0, &raw mut kind) };
        at.max(0)
    }

    pub(super) fn key(&self) -> Option<&'a [u8]> {
        // SAFETY: the message lives, and its key has the length told.
        unsafe { bytes((*self.0).key.cast(), (*self.0).key_len) }
    }

    pub(super) fn value(&self) -> Option<&'a [u8]> {
        // SAFETY: as for the key.
        unsafe { bytes((*self.0).payload.cast(), (*self.0).len) }
    }

    /// The headers, byte for byte; an error if they are not what Kafka writes.
    pub(super) fn headers(&self) -> KafkaResult<Headers> {
        let mut headers = Headers::default();
        self.headers_into(&mut headers).map(|()| headers)
    }

    /// Like [`Message::headers`], in the place of others.
    pub(super) fn headers_into(&self, headers: &mut Headers) -> KafkaResult<()> {
        headers.clear();
        let mut list = ptr::null_mut();
        // SAFETY: the message lives, and with it the list, whose names end with a null byte and whose values have
        // the length told.
        unsafe {
            match rd_kafka_message_headers(self.0, &raw mut list) {
                rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__NOENT => return Ok(()),
                error if error.is_error() => {
                    return Err(KafkaError::MessageConsumption(error.into()));
                }
                _ => {}
            }
            for i in 0.. {
                let (mut name, mut value, mut length) = (ptr::null(), ptr::null(), 0);
                let there = rd_kafka_header_get_all(
                    list,
                    i,
                    &raw mut name,
                    &raw mut value,
                    &raw mut length,
                );
                if there.is_error() {
                    break;
                }
                let value = bytes(value.cast(), length).unwrap_or_default();
                headers.push_bytes(CStr::from_ptr(name).to_bytes(), value);
            }
        }
        Ok(())
    }
}

/// # Safety
/// The address is null, or points to this many bytes.
unsafe fn bytes<'a>(at: *const u8, length: usize) -> Option<&'a [u8]> {
    match at.is_null() {
        true => None,
        // SAFETY: as the caller says.
        false => Some(unsafe { slice::from_raw_parts(at, length) }),
    }
}

/// The id of a topic, which distinguishes it from others with the same name. None from brokers that are older than
/// topic ids (Kafka 2.8).
pub(super) fn topic_id<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    patience: Duration,
) -> KafkaResult<Option<Uuid>> {
    let failed = |code| Err(KafkaError::AdminOp(code));
    let Ok(name) = CString::new(topic) else {
        return failed(Code::InvalidTopic);
    };
    let wait = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the client and the name live. The queue, the collection and the event are destroyed once each, after
    // the last use of what they own. The description is part of the event; the error and the id are parts of it.
    unsafe {
        let mut names: [*const c_char; 1] = [name.as_ptr()];
        let topics = rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), 1);
        let queue = rd_kafka_queue_new(client.native_ptr());
        rd_kafka_DescribeTopics(client.native_ptr(), topics, ptr::null(), queue);
        let answer = ClientEvent(rd_kafka_queue_poll(queue, wait));
        rd_kafka_queue_destroy(queue);
        rd_kafka_TopicCollection_destroy(topics);
        if answer.0.is_null() {
            std::mem::forget(answer);
            return failed(Code::OperationTimedOut);
        }
        let error = rd_kafka_event_error(answer.0);
        if error.is_error() {
            return failed(error.into());
        }
        let result = rd_kafka_event_DescribeTopics_result(answer.0);
        let mut count = 0;
        if result.is_null() {
            return failed(Code::BadMessage);
        }
        let described = rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        if count == 0 {
            return failed(Code::UnknownTopicOrPartition);
        }
        let error = rd_kafka_error_code(rd_kafka_TopicDescription_error(*described));
        if error.is_error() {
            return failed(error.into());
        }
        let id = rd_kafka_TopicDescription_topic_id(*described);
        let id = Uuid::from_u64_pair(
            rd_kafka_Uuid_most_significant_bits(id).cast_unsigned(),
            rd_kafka_Uuid_least_significant_bits(id).cast_unsigned(),
        );
        Ok((!id.is_nil()).then_some(id))
    }
}
