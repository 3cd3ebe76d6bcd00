//! Hands events to librdkafka by a handle of their topic: the `rdkafka` crate names the topic with each
//! event, for which the client takes the lock that its threads share, and copies the name. And asks the
//! brokers of the topic over the connection that is there: the crate's `AdminClient` opens one of its own.

#![expect(unsafe_code, reason = "the C interface of librdkafka")]

use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr;
use std::time::Duration;

use rdkafka::IntoOpaque as _;
use rdkafka::bindings::{
    RD_KAFKA_MSG_F_COPY, rd_kafka_ConfigEntry_name, rd_kafka_ConfigEntry_value,
    rd_kafka_ConfigResource_configs, rd_kafka_ConfigResource_destroy, rd_kafka_ConfigResource_new,
    rd_kafka_DescribeConfigs, rd_kafka_DescribeConfigs_result_resources, rd_kafka_ResourceType_t,
    rd_kafka_event_DescribeConfigs_result, rd_kafka_event_destroy, rd_kafka_event_t,
    rd_kafka_header_add, rd_kafka_headers_destroy, rd_kafka_headers_new, rd_kafka_headers_t,
    rd_kafka_producev, rd_kafka_queue_destroy, rd_kafka_queue_new, rd_kafka_queue_poll,
    rd_kafka_topic_destroy, rd_kafka_topic_name, rd_kafka_topic_new, rd_kafka_topic_t,
    rd_kafka_vtype_t as Part,
};
use rdkafka::error::{IsError as _, RDKafkaErrorCode as Code};
use rdkafka::producer::{BaseProducer, Producer as _, ProducerContext};

use crate::event::{Event, Headers};

/// A client that appends to one topic.
pub(super) struct TopicProducer<C: ProducerContext<DeliveryOpaque = usize>> {
    /// Lives as long as this: it is given back in `drop`, before the client ends.
    topic: *mut rd_kafka_topic_t,
    client: BaseProducer<C>,
}

// SAFETY: librdkafka locks what its handles point to; any thread may use them.
unsafe impl<C: ProducerContext<DeliveryOpaque = usize>> Send for TopicProducer<C> {}

impl<C: ProducerContext<DeliveryOpaque = usize>> TopicProducer<C> {
    /// None if the client does not take such a name of a topic.
    pub(super) fn new(client: BaseProducer<C>, topic: &str) -> Option<Self> {
        let name = CString::new(topic).ok()?;
        // SAFETY: the client lives, and the name ends with a null byte. Without settings of its own the
        // topic has those of the client.
        let topic = unsafe {
            rd_kafka_topic_new(client.client().native_ptr(), name.as_ptr(), ptr::null_mut())
        };
        (!topic.is_null()).then_some(TopicProducer { topic, client })
    }

    /// The client, for everything but sending.
    pub(super) fn client(&self) -> &BaseProducer<C> {
        &self.client
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

    /// Copies an event into the client's queue; its report will carry `opaque`. One without a key goes to
    /// partition 0.
    pub(super) fn send(&self, event: Event<'_>, opaque: usize) -> Result<(), Code> {
        let headers = headers(event.headers);
        let partition = if event.key.is_some() { -1 } else { 0 };
        let (key, key_length) = parts(event.key);
        let (value, value_length) = parts(event.value);
        // SAFETY: each part is followed by what rdkafka.h says it takes. Key and value are copied before
        // the call returns; the headers are the client's if it succeeds.
        let error = unsafe {
            rd_kafka_producev(
                self.client.client().native_ptr(),
                Part::RD_KAFKA_VTYPE_RKT,
                self.topic,
                Part::RD_KAFKA_VTYPE_PARTITION,
                partition,
                Part::RD_KAFKA_VTYPE_MSGFLAGS,
                RD_KAFKA_MSG_F_COPY,
                Part::RD_KAFKA_VTYPE_KEY,
                key,
                key_length,
                Part::RD_KAFKA_VTYPE_VALUE,
                value,
                value_length,
                Part::RD_KAFKA_VTYPE_TIMESTAMP,
                event.timestamp,
                Part::RD_KAFKA_VTYPE_OPAQUE,
                opaque.into_ptr(),
                Part::RD_KAFKA_VTYPE_HEADERS,
                headers,
                Part::RD_KAFKA_VTYPE_END,
            )
        };
        if !error.is_error() {
            return Ok(());
        }
        if !headers.is_null() {
            // SAFETY: they are ours still, and not used again.
            unsafe { rd_kafka_headers_destroy(headers) };
        }
        Err(error.into())
    }
}

impl<C: ProducerContext<DeliveryOpaque = usize>> Drop for TopicProducer<C> {
    fn drop(&mut self) {
        // SAFETY: the handle is not used again, and the client lives until its field is dropped.
        unsafe { rd_kafka_topic_destroy(self.topic) };
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
        for (name, value) in Headers::read(encoded) {
            let name_length = name.len().cast_signed();
            let value_length = value.len().cast_signed();
            let (name, value) = (name.as_ptr().cast::<c_char>(), value.as_ptr().cast());
            // It fails only for a list that is read-only.
            rd_kafka_header_add(headers, name, name_length, value, value_length);
        }
        headers
    }
}
