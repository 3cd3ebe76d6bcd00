//! The way back for a client that has lost all its brokers.

#![expect(unsafe_code, reason = "the C interface of librdkafka")]

use std::ffi::CString;

use rdkafka::bindings::rd_kafka_brokers_add;
use rdkafka::client::{Client, ClientContext};

/// Tells a client once more which brokers to ask first.
///
/// A broker that comes back from a pause tells for a moment that there is no broker at all. With that,
/// librdkafka 2.12 drops all it has, the first ones included, starts over, and takes that back because it has
/// just been told something (rdkafka_metadata.c, `rd_kafka_metadata_decommission_unavailable_brokers`;
/// rdkafka_request.c, `rd_kafka_rebootstrap_tmr_stop`). From then on it asks nobody.
pub(super) fn again<C: ClientContext>(client: &Client<C>, brokers: &str) {
    let Ok(brokers) = CString::new(brokers) else {
        return; // it would not have been made with such an address
    };
    // SAFETY: the client lives, and the list ends with a null byte and is copied. Brokers that it has are
    // passed over.
    unsafe { rd_kafka_brokers_add(client.native_ptr(), brokers.as_ptr()) };
}
