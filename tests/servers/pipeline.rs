//! The stages together, on servers that require TLS and passwords: recorded users of the API arrive with every
//! field correct.

use std::path::Path;
use std::process::Command;

use futures_util::TryStreamExt;
use openssl::ssl::{SslConnector, SslMethod};
use postgres_openssl::MakeTlsConnector;
use scylla::client::session_builder::SessionBuilder;

use crate::common::{Mock, Place};
use crate::stack::{Access, Server, server};

const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/randomuser");
const CHECK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/check_users.py");

/// TLS that trusts the server's own authority.
fn tls(server: &Server) -> SslConnector {
    let mut tls = SslConnector::builder(SslMethod::tls_client()).unwrap();
    tls.set_ca_file(server.folder.join("tls/ca.pem")).unwrap();
    tls.build()
}

/// Every row of the real-time table as a line of JSON, as the server itself writes it.
async fn realtime_rows(server: &Server) -> String {
    let address = server.address("RTP_REALTIME_STORE");
    let node = address.split(['@', '?']).nth(1).unwrap();
    let session = SessionBuilder::new()
        .known_node(node)
        .user("cassandra", "cassandra")
        .tls_context(Some(tls(server).context().to_owned()))
        .build()
        .await
        .unwrap();
    let rows = session.query_iter("SELECT JSON * FROM realtime.users", ());
    let rows = rows.await.unwrap().rows_stream::<(String,)>().unwrap();
    let rows: Vec<(String,)> = rows.try_collect().await.unwrap();
    rows.into_iter().map(|(row,)| row + "\n").collect()
}

/// Like [`realtime_rows`], for the batch table.
fn batch_rows(server: &Server) -> String {
    let address = server.address("RTP_BATCH_STORE").split('?').next();
    let mut config: postgres::Config = address.unwrap().parse().unwrap();
    let password = std::fs::read_to_string(server.address("RTP_POSTGRES_PASSWORD_FILE"));
    config.password(password.unwrap().trim());
    let mut client = config.connect(MakeTlsConnector::new(tls(server))).unwrap();
    let rows = client.query("SELECT row_to_json(u)::text FROM batch_users u", &[]);
    let rows = rows.unwrap();
    rows.iter()
        .map(|row| row.get::<_, String>(0) + "\n")
        .collect()
}

/// The servers' addresses and passwords, as lines of a script.
fn exports(servers: &[&Server]) -> String {
    let own = |server: &Server| {
        let provided = server.environment.iter();
        let provided = provided.filter(|(name, _)| server.provides(name));
        let lines = provided.map(|(name, value)| format!("export {name}='{value}'\n"));
        lines.collect::<String>()
    };
    servers.iter().copied().map(own).collect()
}

/// Kafka, Cassandra and PostgreSQL, requiring TLS and passwords.
fn guarded() -> Option<[&'static Server; 3]> {
    let servers = ["kafka", "cassandra", "postgres"].map(|name| server(name, Access::Guarded));
    let [kafka, cassandra, postgres] = servers;
    Some([kafka?, cassandra?, postgres?])
}

#[test]
fn another_dataset_needs_no_line_of_code_on_any_server() {
    let Some(servers) = guarded() else { return };
    let mock = Mock::start(&["--products", "2000"]);
    let place = Place::new();
    place.write("products.toml", include_str!("../products.toml"));
    let exports = exports(&servers);
    let ran = place.bash(&format!(
        "{exports}
         export RTP_DATASET=products.toml
         rtp init
         rtp fetch --api {}/products --count 2000 --trailer --out p.ndjson
         rtp produce --require-complete p.ndjson
         rtp stream --until-end --group products
         rtp load-batch --require-complete p.ndjson
         rtp verify
         rtp heartbeat --once --group products",
        mock.url
    ));
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let equal = "equal: 2000 rows in ";
    assert!(ran.stderr.contains(equal), "{}", ran.stderr);
    // Verify must be able to fail.
    let ran = place.bash(&format!(
        "{exports}
         sed -n '1s/\"label\":\"/&Another /p' p.ndjson | rtp load-batch --dataset products.toml --mode upsert
         rtp verify --dataset products.toml"
    ));
    assert_eq!(ran.status, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("label"), "{}", ran.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn recorded_users_arrive_with_every_field_right_through_tls_and_passwords() {
    let Some(servers) = guarded() else { return };
    let [_, cassandra, postgres] = servers;
    let place = Place::new();
    let ran = place.bash(&format!(
        "{}
         rtp init
         rtp fetch --api 'file://{SAMPLE}' --as-of 2026-11-01 --trailer --out u.ndjson
         rtp produce --require-complete u.ndjson
         rtp stream --until-end
         rtp load-batch --require-complete u.ndjson
         rtp verify --series",
        exports(&servers)
    ));
    assert_eq!(ran.status, 0, "{}", ran.stderr);

    place.write("realtime.ndjson", realtime_rows(cassandra).await);
    let rows = tokio::task::block_in_place(|| batch_rows(postgres));
    place.write("batch.ndjson", rows);
    let (right, said) = check(place.root());
    assert!(right, "{said}");
    // The check itself must be able to fail.
    let rows = std::fs::read_to_string(place.path("batch.ndjson")).unwrap();
    place.write(
        "batch.ndjson",
        rows.replacen("\"post_code\":\"", "\"post_code\":\" ", 1),
    );
    let (right, said) = check(place.root());
    assert!(!right && said.contains(" post_code: expected "), "{said}");
}

fn check(folder: &Path) -> (bool, String) {
    let out = Command::new("python3")
        .args([CHECK, SAMPLE, "realtime.ndjson", "batch.ndjson"])
        .arg("2026-11-01T00:00:00.000Z")
        .current_dir(folder)
        .output()
        .unwrap();
    let said = [out.stdout, out.stderr].concat();
    (out.status.success(), String::from_utf8(said).unwrap())
}
