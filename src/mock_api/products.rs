//! Products with everything that is hard to carry through a pipeline, and five pagination styles.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::Amount;
use super::query::Query;
use super::reply::push_json;
use super::rng::Rng;

const DEFAULT_LIMIT: u64 = 100;
const MAX_LIMIT: u64 = 250;
/// Above 2^53, where a double loses the last digit.
const FIRST_ID: u64 = 9_007_199_254_740_993;

const NOUNS: &str = "Schlüsselbrett|Teekanne|Käsebrett|Smörgås-Teller|Garden chair|Büroklammer|Café crème|Lamp \"Nova\"|Kühltasche|Crêpe pan";
const STYLES: &str = "blau|grün|XXL 🎉|für Öl & Essig|☕ édition|Größe 3|mini|№ 7|👩‍🍳 pro|rot";
const TAGS: &str = "neu|küche|sale|bio|größe-l|outdoor|gift 🎁|summer";
const SIZES: &str = "S|M|L|XL";
const VENDORS: &str = "Müller & Söhne|Ærø Design|Čapek s.r.o.|Acme Inc.|Ünal Ltd.";
const COUNTRIES: &str = "DE|DK|CZ|US|TR";
const OFFSETS: &str = "Z|+01:00|-03:30|+05:45|-08:00";

/// How a client gets from one page to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Walk {
    /// `meta.next_cursor` is the next `cursor`.
    Cursor,
    /// The `Link` header names the next page; the body is a bare array.
    Linked,
    /// The client counts `offset` itself.
    Offset,
    /// `meta.next` is the next address.
    Next,
    /// Like `Cursor`, but broken: the cursor never changes.
    Loop,
}

/// The body of one page and its `Link` header, or what is wrong with the query.
pub(super) fn page(
    walk: Walk,
    query: &Query,
    total: u64,
    base: &str,
    amount: Amount,
) -> Result<(String, Option<String>), String> {
    let number = |key: &str, least: u64, default: u64| match query.get(key) {
        None => Ok(default),
        Some(text) => match text.parse::<u64>() {
            Ok(n) if n >= least => Ok(n),
            _ => Err(format!("invalid {key}")),
        },
    };
    let limit = number("limit", 1, DEFAULT_LIMIT)?.min(MAX_LIMIT);
    let start = match walk {
        Walk::Cursor | Walk::Next | Walk::Loop => match query.get("cursor") {
            None => 0,
            Some(cursor) => decode(cursor)
                .filter(|start| *start <= total)
                .ok_or("invalid cursor")?,
        },
        Walk::Linked => (number("page", 1, 1)? - 1).saturating_mul(limit),
        Walk::Offset => number("offset", 0, 0)?,
    };
    let start = start.min(total);
    let end = (start + limit).min(total);
    let kept = start + amount.of(end - start);
    let items: Vec<String> = (start..kept).map(record).collect();
    let items = items.join(",");

    let next = (end < total).then_some(end);
    let meta = match walk {
        Walk::Linked => {
            let last = total.div_ceil(limit).max(1);
            let to = |page: u64, rel: &str| {
                format!("<{base}/products/linked?limit={limit}&page={page}>; rel=\"{rel}\"")
            };
            let next = next.map(|end| to(end / limit + 1, "next"));
            let links: Vec<String> = next.into_iter().chain([to(last, "last")]).collect();
            return Ok((format!("[{items}]"), Some(links.join(", "))));
        }
        Walk::Cursor => format!("\"next_cursor\":{}", quoted(next.map(encode))),
        Walk::Loop => format!("\"next_cursor\":{}", quoted(Some(encode(limit.min(total))))),
        Walk::Offset => format!("\"offset\":{start},\"limit\":{limit}"),
        Walk::Next => {
            let to = |end| format!("{base}/products/next?limit={limit}&cursor={}", encode(end));
            format!("\"next\":{}", quoted(next.map(to)))
        }
    };
    let body =
        format!("{{\"data\":{{\"items\":[{items}]}},\"meta\":{{{meta},\"total\":{total}}}}}");
    Ok((body, None))
}

fn quoted(text: Option<String>) -> String {
    text.map_or_else(|| "null".into(), |text| format!("\"{text}\""))
}

fn encode(start: u64) -> String {
    URL_SAFE_NO_PAD.encode(format!("after:{start}"))
}

fn decode(cursor: &str) -> Option<u64> {
    let bytes = URL_SAFE_NO_PAD.decode(cursor).ok()?;
    std::str::from_utf8(&bytes)
        .ok()?
        .strip_prefix("after:")?
        .parse()
        .ok()
}

/// The product with an index, always the same.
fn record(index: u64) -> String {
    let rng = &mut Rng::new(index);
    let mut out = format!(
        "{{\"id\":{},\"sku\":\"{}\",\"title\":",
        FIRST_ID + index * 7_919,
        rng.fill(&format!("@@@-{index:06}"))
    );
    let title = format!("{} {}", rng.pick(NOUNS), rng.pick(STYLES));
    push_json(&mut out, &title);
    if !rng.one_in(8) {
        let tags = list(rng, |rng| format!("\"{}\"", rng.pick(TAGS)));
        out.push_str(&format!(",\"tags\":[{tags}]"));
    }
    let variants = list(rng, |rng| {
        let size = rng.pick(SIZES);
        format!("{{\"size\":\"{size}\",\"price\":{}}}", price(rng))
    });
    out.push_str(&format!(
        ",\"variants\":[{variants}],\"price\":{}",
        price(rng)
    ));
    push_details(&mut out, rng);
    out.push_str(&format!(",\"vendor\":{{\"name\":\"{}\"", rng.pick(VENDORS)));
    if !rng.one_in(6) {
        out.push_str(&format!(",\"country\":\"{}\"", rng.pick(COUNTRIES)));
    }
    let token = rng.fill("tok_****************");
    out.push_str(&format!(",\"api_token\":\"{token}\"}}}}"));
    out
}

/// Weight, stock, lot and dates; many products lack some of these.
fn push_details(out: &mut String, rng: &mut Rng) {
    if !rng.one_in(10) {
        let weight = rng.below(50_000_000) as f64 / 1_000_000.0;
        out.push_str(&format!(",\"weight_kg\":{weight:?}"));
    }
    out.push_str(&format!(",\"in_stock\":{}", !rng.one_in(3)));
    if !rng.one_in(12) {
        let quantity = rng.below(5_000) as i64 - 50; // negative means back orders
        out.push_str(&format!(",\"quantity\":{quantity}"));
    }
    if !rng.one_in(7) {
        let lot = rng.fill("%%%%%%%%-%%%%-4%%%-a%%%-%%%%%%%%%%%%");
        out.push_str(&format!(",\"lot\":\"{lot}\""));
    }
    match rng.below(5) {
        0 => {}
        1 => out.push_str(",\"released\":null"),
        _ => out.push_str(&format!(",\"released\":\"{}\"", day(rng))),
    }
    let (hour, minute, ms) = (rng.below(24), rng.below(60), rng.below(1000));
    out.push_str(&format!(
        ",\"updated_at\":\"{}T{hour:02}:{minute:02}:{:02}.{ms:03}{}\"",
        day(rng),
        rng.below(60),
        rng.pick(OFFSETS)
    ));
}

/// Up to three results of `one`.
fn list(rng: &mut Rng, one: impl Fn(&mut Rng) -> String) -> String {
    let items: Vec<String> = (0..rng.below(4)).map(|_| one(rng)).collect();
    items.join(",")
}

/// A decimal, sometimes with more digits than a double holds.
fn price(rng: &mut Rng) -> String {
    match rng.one_in(25) {
        true => "12345678901234567890.1234".into(),
        false => format!("{}.{:02}", rng.below(500), rng.below(100)),
    }
}

fn day(rng: &mut Rng) -> String {
    format!(
        "{}-{:02}-{:02}",
        rng.between(2018, 2025),
        rng.between(1, 12),
        rng.between(1, 28)
    )
}
