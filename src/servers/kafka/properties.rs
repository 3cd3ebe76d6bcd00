//! Asks the brokers about the properties of a topic over an existing connection: the `rdkafka` crate's `AdminClient` opens
//! one of its own.

#![expect(unsafe_code, reason = "the C interface of librdkafka")]

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::ptr;
use std::time::Duration;

use rdkafka::bindings::{
    rd_kafka_ConfigEntry_name, rd_kafka_ConfigEntry_value, rd_kafka_ConfigResource_configs,
    rd_kafka_ConfigResource_destroy, rd_kafka_ConfigResource_error, rd_kafka_ConfigResource_new,
    rd_kafka_ConfigResource_t, rd_kafka_DescribeConfigs, rd_kafka_DescribeConfigs_result_resources,
    rd_kafka_ResourceType_t, rd_kafka_event_DescribeConfigs_result, rd_kafka_event_destroy,
    rd_kafka_event_error, rd_kafka_event_t, rd_kafka_queue_destroy, rd_kafka_queue_new,
    rd_kafka_queue_poll,
};
use rdkafka::client::{Client, ClientContext};
use rdkafka::error::{IsError as _, KafkaError, KafkaResult, RDKafkaErrorCode as Code};

/// The properties of a topic, by name, as they apply to it, whether set or by default. Those that have no value are not
/// there.
pub(super) type Properties = BTreeMap<String, String>;

/// Asks for the properties of a topic, and waits this long for the answer.
pub(super) fn properties<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    patience: Duration,
) -> KafkaResult<Properties> {
    let failed = |code| KafkaError::AdminOp(code);
    let name = CString::new(topic).map_err(|_| failed(Code::InvalidTopic))?;
    let wait = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the client and the name live. The queue, the resource and the event are destroyed once each, after the last
    // use of what they own.
    unsafe {
        let kind = rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC;
        let mut resource = rd_kafka_ConfigResource_new(kind, name.as_ptr());
        let queue = rd_kafka_queue_new(client.native_ptr());
        let client = client.native_ptr();
        rd_kafka_DescribeConfigs(client, &raw mut resource, 1, ptr::null(), queue);
        let event = rd_kafka_queue_poll(queue, wait);
        let answer = match event.is_null() {
            true => Err(Code::OperationTimedOut),
            false => answer(event),
        };
        if !event.is_null() {
            rd_kafka_event_destroy(event);
        }
        rd_kafka_queue_destroy(queue);
        rd_kafka_ConfigResource_destroy(resource);
        answer.map_err(failed)
    }
}

/// Whether the brokers do not tell this user, or nobody: they may do everything else nevertheless.
pub(super) fn is_secret(error: &KafkaError) -> bool {
    matches!(
        error,
        KafkaError::AdminOp(
            Code::TopicAuthorizationFailed
                | Code::ClusterAuthorizationFailed
                | Code::UnsupportedFeature
                | Code::UnsupportedVersion
        )
    )
}

/// The first resource of an answer.
///
/// # Safety
/// `event` is an event that lives.
unsafe fn answer(event: *mut rd_kafka_event_t) -> Result<Properties, Code> {
    // SAFETY: the result is part of the event, and null if it is one of another kind. The array lives as long as it does
    // and has the length told.
    unsafe {
        let error = rd_kafka_event_error(event);
        if error.is_error() {
            return Err(error.into());
        }
        let result = rd_kafka_event_DescribeConfigs_result(event);
        if result.is_null() {
            return Err(Code::BadMessage);
        }
        let mut count = 0;
        let resources = rd_kafka_DescribeConfigs_result_resources(result, &raw mut count);
        if count == 0 {
            return Err(Code::UnknownTopicOrPartition);
        }
        let error = rd_kafka_ConfigResource_error(*resources);
        match error.is_error() {
            true => Err(error.into()),
            false => Ok(entries(*resources)),
        }
    }
}

/// # Safety
/// `resource` is part of an answer that lives.
unsafe fn entries(resource: *const rd_kafka_ConfigResource_t) -> Properties {
    let mut properties = Properties::new();
    let mut count = 0;
    // SAFETY: the array lives as long as the resource and has the length told; names end with a null byte, and so do
    // values, or are null.
    unsafe {
        let entries = rd_kafka_ConfigResource_configs(resource, &raw mut count);
        for i in 0..count {
            let entry = *entries.add(i);
            let name = CStr::from_ptr(rd_kafka_ConfigEntry_name(entry)).to_string_lossy();
            let value = rd_kafka_ConfigEntry_value(entry);
            if !value.is_null() {
                let value = CStr::from_ptr(value).to_string_lossy();
                properties.insert(name.into_owned(), value.into_owned());
            }
        }
    }
    properties
}
