//! Another API's dataset through the whole pipeline, without any Rust code for it: every value
//! in both stores is compared with the API's own JSON.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::types::Value as Stored;
use serde_json::value::RawValue;

use crate::common::{Mock, Place, Ran};

const DATASET: &str = include_str!("../products.toml");
const PRODUCTS: usize = 1_234;
const AS_OF: &str = "2026-01-02T03:04:05.678Z";

/// The pagination of each walk over the products, instead of the dataset's own.
const WALKS: [(&str, &str); 5] = [
    ("/products", CURSOR),
    ("/products/linked", "style = \"link\"\n"),
    (
        "/products/offset",
        "style = \"offset\"\nparam = \"offset\"\n",
    ),
    (
        "/products/next",
        "style = \"next-url\"\nnext = \"/meta/next\"\n",
    ),
    ("/products/loop", CURSOR),
];
const CURSOR: &str = "style = \"cursor\"\nparam = \"cursor\"\nnext = \"/meta/next_cursor\"\n";

/// A product as the API sends it; numbers and arrays as written.
#[derive(serde::Deserialize)]
struct Product<'a> {
    id: i64,
    sku: String,
    title: String,
    #[serde(borrow)]
    tags: Option<&'a RawValue>,
    variants: &'a RawValue,
    price: &'a RawValue,
    weight_kg: Option<f64>,
    in_stock: bool,
    quantity: Option<i64>,
    lot: Option<String>,
    released: Option<String>,
    updated_at: String,
    #[serde(borrow)]
    vendor: Vendor<'a>,
}

#[derive(serde::Deserialize)]
struct Vendor<'a> {
    name: String,
    country: Option<String>,
    #[serde(borrow)]
    api_token: &'a str,
}

#[derive(serde::Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    data: Items<'a>,
}

#[derive(serde::Deserialize)]
struct Items<'a> {
    #[serde(borrow)]
    items: Vec<Product<'a>>,
}

const COLUMNS: &str = "id, sku, label, tags, variants, price, weight_kg, in_stock, quantity, lot, released, \
                       updated_at, vendor, seen_at";

impl Product<'_> {
    /// What the columns of a readable view must show, in their order.
    fn row(&self) -> Vec<Stored> {
        let text = |text: &str| Stored::Text(text.into());
        let optional = |value: Option<Stored>| value.unwrap_or(Stored::Null);
        let time = |text: &str| {
            let instant: jiff::Timestamp = text.parse().unwrap();
            Stored::Text(format!("{instant:.3}"))
        };
        let country = self.vendor.country.as_ref();
        vec![
            Stored::Integer(self.id),
            text(&self.sku),
            text(&format!("{} ({})", self.title, self.sku)),
            optional(self.tags.map(|tags| text(tags.get()))),
            text(self.variants.get()),
            // Decimals are compared without trailing zeros.
            text(self.price.get().trim_end_matches('0').trim_end_matches('.')),
            optional(self.weight_kg.map(Stored::Real)),
            Stored::Integer(self.in_stock.into()),
            optional(self.quantity.map(Stored::Integer)),
            optional(self.lot.as_deref().map(text)),
            optional(self.released.as_deref().map(text)),
            time(&self.updated_at),
            optional(country.map(|country| text(&format!("{}, {country}", self.vendor.name)))),
            time(AS_OF),
        ]
    }
}

/// The API's own pages, by its offset walk.
async fn pages(mock: &Mock) -> Vec<String> {
    let mut pages = Vec::new();
    for offset in (0..PRODUCTS).step_by(250) {
        let url = format!("{}/products/offset?limit=250&offset={offset}", mock.url);
        pages.push(reqwest::get(url).await.unwrap().text().await.unwrap());
    }
    pages
}

fn products(pages: &[String]) -> Vec<Product<'_>> {
    let items = |page| serde_json::from_str::<Page<'_>>(page).unwrap().data.items;
    pages.iter().flat_map(|page| items(page)).collect()
}

/// The rows of a view by id.
fn rows(file: &Path, view: &str) -> BTreeMap<i64, Vec<Stored>> {
    let db = rusqlite::Connection::open(file).unwrap();
    let mut select = db
        .prepare(&format!("SELECT {COLUMNS} FROM {view}"))
        .unwrap();
    let width = select.column_count();
    let rows = select.query_map([], |row| {
        let values = (0..width).map(|i| row.get(i));
        Ok((row.get(0)?, values.collect::<rusqlite::Result<_>>()?))
    });
    rows.unwrap().map(|row| row.unwrap()).collect()
}

fn check_store(place: &Place, file: &str, view: &str, products: &[Product<'_>]) {
    let rows = rows(&place.path(file), view);
    assert_eq!(rows.len(), products.len(), "{view}");
    for product in products {
        assert_eq!(rows[&product.id], product.row(), "{view}");
    }
}

fn ok(ran: &Ran) -> [u64; 5] {
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    ran.counts()
}

#[tokio::test]
async fn every_walk_carries_every_value_to_both_stores() {
    let mock = Mock::start(&["--products", &PRODUCTS.to_string()]);
    let pages = pages(&mock).await;
    let products = products(&pages);
    assert_eq!(products.len(), PRODUCTS);
    // The hard cases are there.
    assert!(products.iter().all(|p| p.id > 1 << 53));
    assert!(
        products
            .iter()
            .any(|p| p.price.get() == "12345678901234567890.1234")
    );
    assert!(products.iter().any(|p| p.quantity.is_some_and(|q| q < 0)));

    for (path, style) in WALKS {
        let place = Place::new();
        let mut dataset = DATASET.replace(CURSOR, style);
        if path == "/products/linked" {
            dataset = dataset.replace("\"/data/items\"", "\"\"");
        }
        place.write("products.toml", dataset);
        let rtp = |args: &[&str]| place.rtp(&[&["--dataset", "products.toml"], args].concat(), b"");
        let api = format!("{}{path}", mock.url);
        let fetch = [
            "fetch",
            "--api",
            &api,
            "--as-of",
            AS_OF,
            "--out",
            "day.ndjson",
        ];
        let heartbeat = ["heartbeat", "--max-lag", "0", "--format", "json"];
        let fetched = rtp(&fetch);
        if path == "/products/loop" {
            assert_eq!(fetched.status, 4, "{}", fetched.stderr);
            assert!(!place.path("day.ndjson").exists());
            continue;
        }

        let all = PRODUCTS as u64;
        assert_eq!(ok(&fetched)[..2], [all, all], "{path}");
        assert_eq!(rtp(&["init"]).status, 0);
        assert_eq!(ok(&rtp(&["produce", "day.ndjson"]))[1], all);
        assert_eq!(lag(&rtp(&heartbeat), 1), all);
        assert_eq!(ok(&rtp(&["stream", "--until-end"]))[1], all);
        assert_eq!(lag(&rtp(&heartbeat), 0), 0);
        assert_eq!(ok(&rtp(&["load-batch", "day.ndjson"]))[1], all);
        check_store(&place, ".rtp/realtime.db", "products", &products);
        check_store(&place, ".rtp/batch.db", "all_products", &products);
        let days = "SELECT count(*) FROM products_by_day WHERE day = substr(updated_at, 1, 10) || 'T00:00:00Z'";
        assert_eq!(place.query(".rtp/realtime.db", days), all.to_string());
        let verified = rtp(&["verify", "--require-records"]);
        assert_eq!(verified.status, 0, "{}", verified.stderr);

        // A second time, nothing changes.
        assert_eq!(ok(&rtp(&["produce", "day.ndjson"]))[1], all);
        assert_eq!(ok(&rtp(&["stream", "--until-end"])), [all, 0, 0, 0, all]);
        assert_eq!(ok(&rtp(&["load-batch", "day.ndjson"]))[1..], [0, 0, 0, all]);
        let raw = rtp(&["fetch", "--api", &api, "--raw", "--out", "raw.ndjson"]);
        assert_eq!(ok(&raw)[1], all);
        no_secret_in_any_file(&place, &products);
    }
}

/// The lag reported by a heartbeat, which ends with this status.
fn lag(ran: &Ran, status: i32) -> u64 {
    assert_eq!(ran.status, status, "{}", ran.stderr);
    let round: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(round["dataset"], "products");
    round["checks"][0]["lag_records"].as_u64().unwrap()
}

fn no_secret_in_any_file(place: &Place, products: &[Product<'_>]) {
    let token = products[0].vendor.api_token.as_bytes();
    assert!(token.starts_with(b"tok_"));
    let mut files = Vec::new();
    for folder in [place.root().to_path_buf(), place.path(".rtp")] {
        files.extend(
            std::fs::read_dir(folder)
                .unwrap()
                .map(|e| e.unwrap().path()),
        );
    }
    for file in files.iter().filter(|file| file.is_file()) {
        let bytes = std::fs::read(file).unwrap();
        let found = bytes.windows(4).any(|w| w == b"tok_");
        assert!(!found, "{}", file.display());
    }
}

#[test]
fn verify_names_what_differs_by_the_datasets_own_columns() {
    let mock = Mock::start(&["--products", "50"]);
    let place = Place::new();
    place.write("products.toml", DATASET);
    let script = format!(
        "export RTP_DATASET=products.toml
         rtp init
         rtp fetch --api {}/products --trailer --as-of {AS_OF} | tee day.ndjson | rtp produce --require-complete
         rtp stream --until-end
         rtp load-batch --require-complete day.ndjson",
        mock.url
    );
    let ran = place.bash(&script);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let batch = rusqlite::Connection::open(place.path(".rtp/batch.db")).unwrap();
    let first: i64 = batch
        .query_row("SELECT min(id) FROM all_products", [], |row| row.get(0))
        .unwrap();
    let changed = batch.execute(
        "UPDATE all_products_rows SET price = '12345678901234567890.1235', in_stock = 1 - in_stock WHERE id = ?1",
        [first],
    );
    assert_eq!(changed.unwrap(), 1);
    let removed = batch.execute(
        "DELETE FROM all_products_rows WHERE id > ?1 AND id < ?1 + 8000",
        [first],
    );
    assert_eq!(removed.unwrap(), 1);

    let args = ["--dataset", "products.toml", "verify", "--output", "-"];
    let ran = place.rtp(&args, b"");
    assert_eq!(ran.status, 1, "{}", ran.stderr);
    let mut found: Vec<(String, String, String)> = ran
        .stdout
        .lines()
        .map(|line| {
            let difference: serde_json::Value = serde_json::from_str(line).unwrap();
            let text = |name: &str| match &difference[name] {
                serde_json::Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            (text("kind"), text("key"), text("column"))
        })
        .collect();
    found.sort();
    let expected = [
        ("changed", first, "in_stock"),
        ("changed", first, "price"),
        ("missing", first + 7_919, "null"),
    ]
    .map(|(kind, key, column)| (kind.to_string(), key.to_string(), column.to_string()));
    assert_eq!(found, expected);
}
