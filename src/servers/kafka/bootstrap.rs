//! Recovery for a client that has lost all its brokers.

#![expect(unsafe_code, reason = "the C interface of librdkafka")]

use std::ffi::CString;

use rdkafka::bindings::rd_kafka_brokers_add;
use rdkafka::client::{Client, ClientContext};

/// Tells a client again which brokers to ask first.
///
/// A broker that resumes after a pause reports for a moment that there are no brokers at all. On that,
/// librdkafka 2.12 drops all brokers that it knows, including the first ones, starts over, and cancels that because
/// it has just received an answer (rdkafka_metadata.c, `rd_kafka_metadata_decommission_unavailable_brokers`;
/// rdkafka_request.c, `rd_kafka_rebootstrap_tmr_stop`). From then on it asks nobody.
pub(super) fn again<C: ClientContext>(client: &Client<C>, brokers: &str) {
    let Ok(brokers) = CString::new(brokers) else {
        return; // the client would not have been created with such an address
    };
    // SAFETY: the client lives, and the list ends with a null byte and is copied. Brokers that the client
    // already has are ignored.
    unsafe { rd_kafka_brokers_add(client.native_ptr(), brokers.as_ptr()) };
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};

    use rdkafka::config::FromClientConfigAndContext;
    use rdkafka::consumer::{BaseConsumer, Consumer as _};

    use crate::servers::address::Address;
    use crate::servers::kafka::{self, Health, SHORT_TIMEOUT};

    const TOPIC: &str = "events";

    /// Topics that nobody asked for. The client drops its brokers before it looks at them, and takes back that
    /// it starts over after that: both happen only if the threads of its brokers end meanwhile.
    const OTHERS: i32 = 20_000;

    const API_VERSIONS: i16 = 18;
    const METADATA: i16 = 3;

    /// A broker that only tells what there is: itself and a topic of one partition, or no broker.
    struct Broker {
        port: u16,
        is_fenced: Arc<AtomicBool>,
    }

    impl Broker {
        fn start() -> Broker {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            let is_fenced = Arc::new(AtomicBool::new(false));
            let fenced = Arc::clone(&is_fenced);
            std::thread::spawn(move || {
                for connection in listener.incoming().map_while(Result::ok) {
                    let fenced = Arc::clone(&fenced);
                    std::thread::spawn(move || serve(connection, port, &fenced));
                }
            });
            Broker { port, is_fenced }
        }
    }

    /// Answers until the client goes.
    fn serve(mut connection: TcpStream, port: u16, is_fenced: &AtomicBool) -> Option<()> {
        loop {
            let mut length = [0; 4];
            connection.read_exact(&mut length).ok()?;
            let mut request = vec![0; usize::try_from(i32::from_be_bytes(length)).ok()?];
            connection.read_exact(&mut request).ok()?;
            let [k0, k1, v0, v1, correlation @ ..] = request.first_chunk::<8>()?;
            let version = i16::from_be_bytes([*v0, *v1]);
            let body = match i16::from_be_bytes([*k0, *k1]) {
                API_VERSIONS => versions(version),
                METADATA => metadata(port, is_fenced.load(Ordering::SeqCst)),
                other => panic!("a request of kind {other}"),
            };
            let answer = [&correlation[..], &body].concat();
            let length = u32::try_from(answer.len()).ok()?.to_be_bytes();
            connection
                .write_all(&[&length[..], &answer].concat())
                .ok()?;
        }
    }

    /// Both requests, Metadata in version 4. Of a version of ApiVersions that it does not know it says so in
    /// version 0, as brokers do.
    fn versions(asked: i16) -> Vec<u8> {
        let unsupported: i16 = if asked > 2 { 35 } else { 0 };
        let mut body = unsupported.to_be_bytes().to_vec();
        body.extend(2_i32.to_be_bytes());
        for (key, last) in [(METADATA, 4_i16), (API_VERSIONS, 0)] {
            for n in [key, 0, last] {
                body.extend(n.to_be_bytes());
            }
        }
        body
    }

    /// Version 4 of the answer.
    fn metadata(port: u16, is_fenced: bool) -> Vec<u8> {
        fn text(body: &mut Vec<u8>, text: &str) {
            body.extend(u16::try_from(text.len()).unwrap().to_be_bytes());
            body.extend(text.as_bytes());
        }
        fn int32(body: &mut Vec<u8>, n: i32) {
            body.extend(n.to_be_bytes());
        }
        let brokers = i32::from(!is_fenced);
        let mut body = Vec::new();
        int32(&mut body, 0); // throttled for
        int32(&mut body, brokers);
        if !is_fenced {
            int32(&mut body, 1); // its number
            text(&mut body, "127.0.0.1");
            int32(&mut body, i32::from(port));
            body.extend((-1_i16).to_be_bytes()); // no rack
        }
        text(&mut body, "cluster");
        int32(&mut body, if is_fenced { -1 } else { 1 }); // controller
        let others = if is_fenced { OTHERS } else { 0 };
        int32(&mut body, 1 + others); // topics
        for n in 0..=others {
            body.extend(0_i16.to_be_bytes());
            match n {
                0 => text(&mut body, TOPIC),
                _ => text(&mut body, &format!("{n:0200}")),
            }
            body.push(0); // not internal
            int32(&mut body, i32::from(n == 0)); // partitions
            if n == 0 {
                body.extend((if is_fenced { 5_i16 } else { 0 }).to_be_bytes()); // no leader
                int32(&mut body, 0);
                int32(&mut body, if is_fenced { -1 } else { 1 }); // leader
                for _ in ["replicas", "those in sync"] {
                    int32(&mut body, 1);
                    int32(&mut body, 1);
                }
            }
        }
        body
    }

    #[test]
    fn a_client_that_has_lost_all_brokers_finds_them_again() {
        let broker = Broker::start();
        let server = Address {
            hosts: vec![("127.0.0.1".into(), broker.port)],
            ..Address::default()
        };
        let health = Health::default();
        let config = kafka::config(&server).unwrap();
        let client = BaseConsumer::from_config_and_context(&config, health.clone()).unwrap();
        let ask = || kafka::asked(client.client(), &health, &server, TOPIC, SHORT_TIMEOUT);
        assert_eq!(ask().unwrap(), 1);

        broker.is_fenced.store(true, Ordering::SeqCst);
        let is_lost = (0..100).any(|_| ask().is_err());
        broker.is_fenced.store(false, Ordering::SeqCst);
        assert!(is_lost, "the client still asks: nothing is shown");

        let begun = Instant::now();
        let known = std::iter::repeat_with(ask)
            .find(|known| known.is_ok() || begun.elapsed() > Duration::from_secs(30));
        assert_eq!(known.unwrap().unwrap(), 1);
    }
}
