//! Passes events to librdkafka through a handle of their topic, and without copying their values and headers: the
//! `rdkafka` crate names the topic with each event, for which the client takes the lock that its threads share,
//! and copies everything. Waits for their delivery reports: the crate's `poll` waits its full time even if
//! something arrives.

#![expect(unsafe_code, reason = "the C interface of librdkafka")]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ffi::{CStr, CString, c_char, c_void};
use std::mem::ManuallyDrop;
use std::ptr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::bindings::{
    RD_KAFKA_EVENT_DR, RD_KAFKA_EVENT_ERROR, RD_KAFKA_MSG_F_PARTITION, RD_KAFKA_PURGE_F_INFLIGHT,
    RD_KAFKA_PURGE_F_QUEUE, rd_kafka_conf_interceptor_add_on_new, rd_kafka_conf_set_events,
    rd_kafka_conf_t, rd_kafka_event_destroy, rd_kafka_event_error, rd_kafka_event_error_string,
    rd_kafka_event_message_next, rd_kafka_event_type, rd_kafka_header_add,
    rd_kafka_headers_destroy, rd_kafka_headers_new, rd_kafka_headers_t,
    rd_kafka_interceptor_add_on_send, rd_kafka_message_detach_headers, rd_kafka_message_headers,
    rd_kafka_message_set_headers, rd_kafka_message_t, rd_kafka_produce_batch, rd_kafka_purge,
    rd_kafka_queue_destroy, rd_kafka_queue_get_main, rd_kafka_queue_poll, rd_kafka_queue_t,
    rd_kafka_resp_err_t, rd_kafka_t, rd_kafka_topic_destroy, rd_kafka_topic_new, rd_kafka_topic_t,
};
use rdkafka::client::{Client, ClientContext};
use rdkafka::error::{IsError as _, KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::types::RDKafkaType;

use crate::record::event::{EventBatch, Headers};

/// Maximum number of events handed over at once.
const MAX_CALL_EVENTS: usize = 1024;

/// The name under which librdkafka knows the functions that it calls.
const NAME: &CStr = c"rtp";

/// How long to wait for a client that ends to give back the events that nobody needs any more.
const ENDING: Duration = Duration::from_secs(5);

/// Pause between two checks whether it has.
const REPORT_POLL: Duration = Duration::from_millis(100);

/// A batch whose events were handed over, and what they point to.
struct Sent {
    batch: Arc<EventBatch>,
    /// Number of events that were handed over.
    taken: Cell<usize>,
    /// Number of events that were reported.
    reported: Cell<usize>,
    /// Header lists that its events share.
    shared: RefCell<Vec<List>>,
    /// Those that are being handed over.
    next: RefCell<Next>,
}

/// Events with the same headers that are handed over in one call.
struct Next {
    messages: *const rd_kafka_message_t,
    count: usize,
    /// The number of the first event that the client has begun to take.
    first: Option<usize>,
    headers: List,
    /// The same for the first of them only.
    own_headers: List,
}

type List = *mut rd_kafka_headers_t;

impl Sent {
    fn new(batch: &Arc<EventBatch>) -> Rc<Sent> {
        Rc::new(Sent {
            batch: Arc::clone(batch),
            taken: Cell::new(0),
            reported: Cell::new(0),
            shared: RefCell::default(),
            next: RefCell::new(Next {
                messages: ptr::null(),
                count: 0,
                first: None,
                headers: ptr::null_mut(),
                own_headers: ptr::null_mut(),
            }),
        })
    }

    fn is_taken(&self) -> bool {
        self.taken.get() == self.batch.len()
    }

    fn is_reported(&self) -> bool {
        self.reported.get() == self.batch.len()
    }

    /// The next events that have the same headers, in librdkafka's form.
    fn next(&self, messages: &mut Vec<rd_kafka_message_t>) {
        messages.clear();
        let mut events = self.batch.iter_from(self.taken.get()).peekable();
        let same = events.peek().map_or(&[][..], |event| event.headers);
        let parts = |bytes: Option<&[u8]>| {
            bytes.map_or((ptr::null_mut(), 0), |b| {
                (b.as_ptr().cast_mut().cast(), b.len())
            })
        };
        for event in events
            .take_while(|event| event.headers == same)
            .take(MAX_CALL_EVENTS)
        {
            let (payload, len) = parts(event.value);
            let (key, key_len) = parts(event.key);
            messages.push(rd_kafka_message_t {
                err: rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR,
                rkt: ptr::null_mut(),
                partition: if event.key.is_some() { -1 } else { 0 },
                payload,
                len,
                key,
                key_len,
                offset: 0,
                _private: ptr::from_ref(self).cast_mut().cast(),
            });
        }
        let list = headers(same);
        self.shared.borrow_mut().push(list);
        let next = &mut *self.next.borrow_mut();
        next.end();
        *next = Next {
            messages: messages.as_ptr(),
            count: messages.len(),
            first: None,
            headers: list,
            own_headers: headers(same),
        };
    }
}

impl Next {
    /// The headers of the event that the client is taking.
    ///
    /// If the client gives up an event in the same call, because the topic does not exist, it frees the event with
    /// its headers, so the headers of the first event must not be shared. If the first is taken, so are the
    /// others, because the topic is locked meanwhile (librdkafka 2.12, rdkafka_msg.c, `rd_kafka_produce_batch`).
    fn headers(&mut self) -> List {
        // SAFETY: the messages are there until the call returns.
        let is_open = |i: usize| !unsafe { (*self.messages.add(i)).err }.is_error();
        match self.first {
            None => {
                self.first = (0..self.count).find(|i| is_open(*i));
                std::mem::replace(&mut self.own_headers, ptr::null_mut())
            }
            Some(first) if is_open(first) => self.headers,
            Some(_) => ptr::null_mut(),
        }
    }

    /// Frees the headers that no event has received.
    fn end(&mut self) {
        end(std::mem::replace(&mut self.own_headers, ptr::null_mut()));
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        self.next.get_mut().end();
        // The client no longer has any event of this batch.
        self.shared.take().into_iter().for_each(end);
    }
}

/// Called when a client is created: registers the next function.
unsafe extern "C" fn on_new(
    client: *mut rd_kafka_t,
    _: *const rd_kafka_conf_t,
    _: *mut c_void,
    _: *mut c_char,
    _: usize,
) -> rd_kafka_resp_err_t {
    let none = ptr::null_mut();
    // SAFETY: the client lives, and asks for this now.
    unsafe { rd_kafka_interceptor_add_on_send(client, NAME.as_ptr(), Some(on_send), none) }
}

/// Called for an event that the client takes: gives it its headers, for which `rd_kafka_produce_batch` has no
/// parameter.
unsafe extern "C" fn on_send(
    _: *mut rd_kafka_t,
    message: *mut rd_kafka_message_t,
    _: *mut c_void,
) -> rd_kafka_resp_err_t {
    // SAFETY: the message has the address of its batch, which is being handed over. It has no headers so far.
    unsafe {
        let sent = &*(*message)._private.cast::<Sent>();
        rd_kafka_message_set_headers(message, sent.next.borrow_mut().headers());
    }
    rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
}

/// Events that were not taken, and why the first was not.
#[derive(Debug, Default)]
pub(super) struct Failures {
    pub(super) count: u64,
    pub(super) reason: Option<Code>,
}

/// A client that appends to one topic.
///
/// What it is handed, the values and the headers that events share, points into the batches here, each of which
/// stays until all its events are reported. Requests point there, too, where their own memory has no room; librdkafka
/// reports an event only after the last request with it was answered or given up, and reads neither from then on
/// (2.12: rd_kafka_handle_Produce, and rd_kafka_broker_handle_purge_queues, which disconnects if a request was half sent).
/// The headers are taken from each event before librdkafka, which would otherwise own them, frees it with them; so each
/// event must be reported, also those that were accepted.
pub(super) struct TopicProducer<C: ClientContext> {
    /// Both live as long as this: they are given back in `drop`, before the client ends.
    topic: *mut rd_kafka_topic_t,
    reports: *mut rd_kafka_queue_t,
    client: ManuallyDrop<Client<C>>,
    /// The batches that are not settled, in the order of arrival.
    sent: VecDeque<Rc<Sent>>,
    /// Number of reports since the start.
    reported: Cell<u64>,
    failures: RefCell<Failures>,
    /// Space for the events that are being handed over.
    messages: RefCell<Vec<rd_kafka_message_t>>,
}

// SAFETY: librdkafka locks what its handles point to; any thread may use them. It hands on the addresses of
// the batches without looking, so that only the thread that has this one uses them.
unsafe impl<C: ClientContext> Send for TopicProducer<C> {}

impl<C: ClientContext> TopicProducer<C> {
    /// A client with these settings, which must ask for a report of every event, and not by callbacks.
    pub(super) fn new(config: &ClientConfig, context: C, topic: &str) -> KafkaResult<Self> {
        let no_topic = || KafkaError::Global(Code::InvalidTopic);
        let name = CString::new(topic).map_err(|_| no_topic())?;
        let native = config.create_native_config()?;
        // SAFETY: the configuration lives, and so do the name and the function.
        unsafe {
            let none = ptr::null_mut();
            rd_kafka_conf_interceptor_add_on_new(native.ptr(), NAME.as_ptr(), Some(on_new), none);
            let kinds = RD_KAFKA_EVENT_DR | RD_KAFKA_EVENT_ERROR;
            rd_kafka_conf_set_events(native.ptr(), kinds);
        }
        let client = Client::new(config, native, RDKafkaType::RD_KAFKA_PRODUCER, context)?;
        // SAFETY: the client lives, and the name ends with a null byte. Without settings of its own the
        // topic has those of the client.
        let topic =
            unsafe { rd_kafka_topic_new(client.native_ptr(), name.as_ptr(), ptr::null_mut()) };
        if topic.is_null() {
            return Err(no_topic());
        }
        Ok(TopicProducer {
            topic,
            // SAFETY: the client lives.
            reports: unsafe { rd_kafka_queue_get_main(client.native_ptr()) },
            client: ManuallyDrop::new(client),
            sent: VecDeque::new(),
            reported: Cell::new(0),
            failures: RefCell::default(),
            messages: RefCell::default(),
        })
    }

    /// The client, for everything but sending.
    pub(super) fn client(&self) -> &Client<C> {
        &self.client
    }

    /// Handles the next client event, waiting for it this long; false if there was none.
    pub(super) fn listen(&self, patience: Duration) -> bool {
        let wait = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the queue lives, and the event until it is destroyed. An event without messages, or that
        // is no error, says so. Each message was sent with the address of a batch that is in `sent`, for it
        // has this event open; headers that it shares are taken from it before it is destroyed.
        unsafe {
            let event = rd_kafka_queue_poll(self.reports, wait);
            if event.is_null() {
                return false;
            }
            loop {
                let message = rd_kafka_event_message_next(event).cast_mut();
                if message.is_null() {
                    break;
                }
                let sent = &*(*message)._private.cast::<Sent>();
                let mut list = ptr::null_mut();
                rd_kafka_message_headers(message, &raw mut list);
                if sent.shared.borrow().contains(&list) {
                    rd_kafka_message_detach_headers(message, &raw mut list);
                }
                self.report(sent, (*message).err);
            }
            if rd_kafka_event_type(event) == RD_KAFKA_EVENT_ERROR {
                let error = KafkaError::Global(rd_kafka_event_error(event).into());
                let reason = CStr::from_ptr(rd_kafka_event_error_string(event)).to_string_lossy();
                self.client.context().error(error, reason.trim());
            }
            rd_kafka_event_destroy(event);
        }
        true
    }

    /// Number of events reported since the start.
    pub(super) fn reported(&self) -> u64 {
        self.reported.get()
    }

    /// Whether there is a report of everything but the last `behind` batches.
    pub(super) fn is_settled(&self, behind: usize) -> bool {
        let older = self.sent.len().saturating_sub(behind);
        self.sent.iter().take(older).all(|sent| sent.is_reported())
    }

    /// Releases the batches that are completely reported, up to the first that is not. Returns their number of
    /// events, and the failures since the last call.
    pub(super) fn settle(&mut self) -> (u64, Failures) {
        let mut events = 0;
        while let Some(sent) = self.sent.front().filter(|sent| sent.is_reported()) {
            events += sent.batch.len() as u64;
            self.sent.pop_front();
        }
        (events, self.failures.take())
    }

    /// Whether all events of the batches so far are handed over.
    pub(super) fn is_taken(&self) -> bool {
        self.sent.back().is_none_or(|sent| sent.is_taken())
    }

    /// Starts a batch; `send` hands over its events.
    pub(super) fn begin(&mut self, batch: &Arc<EventBatch>) {
        self.sent.push_back(Sent::new(batch));
    }

    /// Puts the remaining events of the last batch into the client's queue, until the queue is full, which is an
    /// error. An event without a key goes to partition 0.
    pub(super) fn send(&self) -> Result<(), Code> {
        let messages = &mut *self.messages.borrow_mut();
        while let Some(sent) = self.sent.back().filter(|sent| !sent.is_taken()) {
            sent.next(messages);
            // SAFETY: the topic and the messages live. Their keys are copied before the call returns; their
            // values, to which requests may point, and the headers that `on_send` gives them, belong to a batch that
            // nobody changes, and that is kept until they are reported. Its address comes back with the reports.
            unsafe {
                let count = i32::try_from(messages.len()).unwrap_or(i32::MAX);
                let own = RD_KAFKA_MSG_F_PARTITION; // each has its own; values are neither copied nor freed
                rd_kafka_produce_batch(self.topic, -1, own, messages.as_mut_ptr(), count);
            }
            let is_taken = |message: &rd_kafka_message_t| !message.err.is_error();
            let taken = messages
                .iter()
                .rposition(is_taken)
                .map_or(0, |last| last + 1);
            sent.taken.set(sent.taken.get() + taken);
            for message in messages[..taken].iter().filter(|m| !is_taken(m)) {
                self.report(sent, message.err);
            }
            if let Some(message) = messages.get(taken) {
                return Err(message.err.into());
            }
        }
        Ok(())
    }

    /// Counts an event as reported.
    fn report(&self, sent: &Sent, error: rd_kafka_resp_err_t) {
        sent.reported.set(sent.reported.get() + 1);
        self.reported.set(self.reported.get() + 1);
        if error.is_error() {
            let failures = &mut *self.failures.borrow_mut();
            failures.count += 1;
            failures.reason.get_or_insert(error.into());
        }
    }

    /// Whether the client has an event that is not reported.
    fn has_open(&self) -> bool {
        let is_open = |sent: &Rc<Sent>| sent.reported.get() < sent.taken.get();
        self.sent.iter().any(is_open)
    }
}

impl<C: ClientContext> Drop for TopicProducer<C> {
    fn drop(&mut self) {
        if self.has_open() {
            // SAFETY: the client lives. What it gives up is reported as a failure.
            unsafe {
                let all = RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT;
                rd_kafka_purge(self.client.native_ptr(), all);
            }
            let deadline = Instant::now() + ENDING;
            while self.has_open() && Instant::now() < deadline {
                self.listen(REPORT_POLL);
            }
        }
        // SAFETY: neither is used again, and the client lives still.
        unsafe {
            rd_kafka_topic_destroy(self.topic);
            rd_kafka_queue_destroy(self.reports);
        }
        match self.has_open() {
            // SAFETY: it is not used again.
            false => unsafe { ManuallyDrop::drop(&mut self.client) },
            // The client may still read them, and would free their headers, so neither is freed before the process ends.
            true => std::mem::forget(std::mem::take(&mut self.sent)),
        }
    }
}

fn end(headers: List) {
    if !headers.is_null() {
        // SAFETY: it was made by `headers`, and nobody else has it.
        unsafe { rd_kafka_headers_destroy(headers) };
    }
}

/// Null for none.
fn headers(encoded: &[u8]) -> List {
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
