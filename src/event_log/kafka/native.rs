//! Hands events to librdkafka by a handle of their topic, and without a copy of their values: the `rdkafka`
//! crate names the topic with each event, for which the client takes the lock that its threads share, and
//! copies name and value. Waits for what became of them: the crate's `poll` sits out its time also when
//! something comes. And asks the brokers of the topic over the connection that is there: the crate's
//! `AdminClient` opens one of its own.

#![expect(unsafe_code, reason = "the C interface of librdkafka")]

use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rdkafka::IntoOpaque as _;
use rdkafka::bindings::{
    RD_KAFKA_EVENT_ERROR, rd_kafka_ConfigEntry_name, rd_kafka_ConfigEntry_value,
    rd_kafka_ConfigResource_configs, rd_kafka_ConfigResource_destroy, rd_kafka_ConfigResource_new,
    rd_kafka_DescribeConfigs, rd_kafka_DescribeConfigs_result_resources, rd_kafka_ResourceType_t,
    rd_kafka_event_DescribeConfigs_result, rd_kafka_event_destroy, rd_kafka_event_error,
    rd_kafka_event_error_string, rd_kafka_event_message_next, rd_kafka_event_t,
    rd_kafka_event_type, rd_kafka_header_add, rd_kafka_headers_destroy, rd_kafka_headers_new,
    rd_kafka_headers_t, rd_kafka_producev, rd_kafka_queue_destroy, rd_kafka_queue_get_main,
    rd_kafka_queue_new, rd_kafka_queue_poll, rd_kafka_queue_t, rd_kafka_topic_destroy,
    rd_kafka_topic_name, rd_kafka_topic_new, rd_kafka_topic_t, rd_kafka_vtype_t as Part,
};
use rdkafka::error::{IsError as _, KafkaError, RDKafkaErrorCode as Code};
use rdkafka::producer::{BaseProducer, Producer as _, ProducerContext};

use crate::event::{Headers, MicroBatch};

/// A batch that was handed over, and is kept until each of its events is reported.
#[derive(Debug)]
pub(super) struct Sent {
    batch: Arc<MicroBatch>,
    /// Events of which there is no report yet.
    open: AtomicUsize,
}

impl Sent {
    /// A batch of which nothing is reported.
    pub(super) fn new(batch: &Arc<MicroBatch>) -> Arc<Sent> {
        Arc::new(Sent {
            batch: Arc::clone(batch),
            open: AtomicUsize::new(batch.len()),
        })
    }

    /// Number of its events.
    pub(super) fn events(&self) -> usize {
        self.batch.len()
    }

    /// Whether all of them are reported.
    pub(super) fn is_reported(&self) -> bool {
        self.open.load(Ordering::Acquire) == 0
    }

    /// Counts one event as reported.
    pub(super) fn report(&self) {
        self.open.fetch_sub(1, Ordering::Release);
    }
}

/// What a producer is told.
pub(super) trait Listener: ProducerContext<DeliveryOpaque = Arc<Sent>> {
    /// What became of an event.
    fn report(&self, sent: &Sent, failure: Option<Code>);
}

/// A client that appends to one topic.
pub(super) struct TopicProducer<C: Listener> {
    /// Both live as long as this: they are given back in `drop`, before the client ends.
    topic: *mut rd_kafka_topic_t,
    reports: *mut rd_kafka_queue_t,
    client: BaseProducer<C>,
}

// SAFETY: librdkafka locks what its handles point to; any thread may use them.
unsafe impl<C: Listener> Send for TopicProducer<C> {}

impl<C: Listener> TopicProducer<C> {
    /// None if the client does not take such a name of a topic.
    pub(super) fn new(client: BaseProducer<C>, topic: &str) -> Option<Self> {
        let name = CString::new(topic).ok()?;
        // SAFETY: the client lives, and the name ends with a null byte. Without settings of its own the
        // topic has those of the client.
        unsafe {
            let native = client.client().native_ptr();
            let topic = rd_kafka_topic_new(native, name.as_ptr(), ptr::null_mut());
            (!topic.is_null()).then(|| TopicProducer {
                topic,
                reports: rd_kafka_queue_get_main(native),
                client,
            })
        }
    }

    /// The client, for everything but sending.
    pub(super) fn client(&self) -> &BaseProducer<C> {
        &self.client
    }

    /// Tells the listener what there is to say, and waits for it for so long; false if nothing came.
    pub(super) fn listen(&self, patience: Duration) -> bool {
        let wait = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
        let listener = self.client.client().context();
        // SAFETY: the queue lives, and the event until it is destroyed. An event without messages, or that
        // is no error, says so. Each message has the opaque that it was sent with, and is met once.
        unsafe {
            let event = rd_kafka_queue_poll(self.reports, wait);
            if event.is_null() {
                return false;
            }
            while let Some(message) = rd_kafka_event_message_next(event).as_ref() {
                let sent = Arc::<Sent>::from_ptr(message._private);
                let failure = message.err.is_error().then(|| message.err.into());
                listener.report(&sent, failure);
            }
            if rd_kafka_event_type(event) == RD_KAFKA_EVENT_ERROR {
                let error = KafkaError::Global(rd_kafka_event_error(event).into());
                let reason = CStr::from_ptr(rd_kafka_event_error_string(event)).to_string_lossy();
                listener.error(error, reason.trim());
            }
            rd_kafka_event_destroy(event);
        }
        true
    }

    /// A property of the topic as its brokers have it; none if they do not tell this user, or not in time.
    pub(super) fn property(&self, name: &str, patience: Duration) -> Option<String> {
        let client = self.client.client().native_ptr();
        let wait = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the client, the topic's handle and with it its name live. The queue, the resource and
        // the event are destroyed once each, after the last use of what they own.
        unsafe {
            let mut resource = rd_kafka_ConfigResource_new(
                rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC,
                rd_kafka_topic_name(self.topic),
            );
            let queue = rd_kafka_queue_new(client);
            rd_kafka_DescribeConfigs(client, &raw mut resource, 1, ptr::null(), queue);
            let event = rd_kafka_queue_poll(queue, wait);
            let value = property_in(event, name);
            if !event.is_null() {
                rd_kafka_event_destroy(event);
            }
            rd_kafka_queue_destroy(queue);
            rd_kafka_ConfigResource_destroy(resource);
            value
        }
    }

    /// Puts event `i` of a batch into the client's queue; its report brings the batch back. One without a
    /// key goes to partition 0.
    pub(super) fn send(&self, sent: &Arc<Sent>, i: usize) -> Result<(), Code> {
        let event = sent.batch.get(i).ok_or(Code::InvalidArgument)?;
        let opaque = Arc::clone(sent).into_ptr();
        let headers = headers(event.headers);
        let partition = if event.key.is_some() { -1 } else { 0 };
        let (key, key_length) = parts(event.key);
        let (value, value_length) = parts(event.value);
        // SAFETY: each part is followed by what rdkafka.h says it takes. The key is copied before the call
        // returns. The value is in a batch that nobody changes, of which the event holds a share by its
        // opaque until it is reported. The headers are the client's if the call succeeds.
        let error = unsafe {
            rd_kafka_producev(
                self.client.client().native_ptr(),
                Part::RD_KAFKA_VTYPE_RKT,
                self.topic,
                Part::RD_KAFKA_VTYPE_PARTITION,
                partition,
                Part::RD_KAFKA_VTYPE_MSGFLAGS,
                0, // neither copied nor freed
                Part::RD_KAFKA_VTYPE_KEY,
                key,
                key_length,
                Part::RD_KAFKA_VTYPE_VALUE,
                value,
                value_length,
                Part::RD_KAFKA_VTYPE_TIMESTAMP,
                event.timestamp,
                Part::RD_KAFKA_VTYPE_OPAQUE,
                opaque,
                Part::RD_KAFKA_VTYPE_HEADERS,
                headers,
                Part::RD_KAFKA_VTYPE_END,
            )
        };
        if !error.is_error() {
            return Ok(());
        }
        // SAFETY: both are ours still, and not used again.
        unsafe {
            drop(Arc::<Sent>::from_ptr(opaque));
            if !headers.is_null() {
                rd_kafka_headers_destroy(headers);
            }
        }
        Err(error.into())
    }
}

impl<C: Listener> Drop for TopicProducer<C> {
    fn drop(&mut self) {
        // SAFETY: neither is used again, and the client lives until its field is dropped.
        unsafe {
            rd_kafka_topic_destroy(self.topic);
            rd_kafka_queue_destroy(self.reports);
        }
    }
}

/// A property of the first resource in an answer.
///
/// # Safety
/// `event` is null, or an event that lives.
unsafe fn property_in(event: *mut rd_kafka_event_t, name: &str) -> Option<String> {
    if event.is_null() {
        return None;
    }
    // SAFETY: the result is part of the event, and null if it is one of another kind. Both arrays live as
    // long as it does and have the lengths told; names end with a null byte, and so do values, or are null.
    unsafe {
        let result = rd_kafka_event_DescribeConfigs_result(event);
        if result.is_null() {
            return None;
        }
        let mut count = 0;
        let resources = rd_kafka_DescribeConfigs_result_resources(result, &raw mut count);
        if count == 0 {
            return None;
        }
        let entries = rd_kafka_ConfigResource_configs(*resources, &raw mut count);
        for i in 0..count {
            let entry = *entries.add(i);
            if CStr::from_ptr(rd_kafka_ConfigEntry_name(entry)).to_bytes() == name.as_bytes() {
                let value = rd_kafka_ConfigEntry_value(entry);
                let text = (!value.is_null()).then(|| CStr::from_ptr(value))?;
                return text.to_str().ok().map(str::to_string);
            }
        }
        None
    }
}

fn parts(bytes: Option<&[u8]>) -> (*const c_void, usize) {
    bytes.map_or((ptr::null(), 0), |b| (b.as_ptr().cast(), b.len()))
}

/// Null for none.
fn headers(encoded: &[u8]) -> *mut rd_kafka_headers_t {
    if encoded.is_empty() {
        return ptr::null_mut();
    }
    // SAFETY: names and values are copied, with the lengths given.
    unsafe {
        let headers = rd_kafka_headers_new(1); // it grows
        for (name, value) in Headers::parts(encoded) {
            let name_length = name.len().cast_signed();
            let value_length = value.len().cast_signed();
            let (name, value) = (name.as_ptr().cast::<c_char>(), value.as_ptr().cast());
            // It fails only for a list that is read-only.
            rd_kafka_header_add(headers, name, name_length, value, value_length);
        }
        headers
    }
}
