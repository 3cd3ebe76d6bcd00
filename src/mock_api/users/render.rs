//! Writes a page of users: as JSON, compact or pretty, or as CSV.

use super::{COLUMNS, Datum, Notation, Request, User};
use crate::mock_api::reply::{JSON, push_json};

/// Content type and body of a page.
pub(super) fn page(request: &Request, users: impl Iterator<Item = User>) -> (&'static str, String) {
    match request.notation {
        Notation::Csv => ("text/csv; charset=utf-8", csv(request, users)),
        Notation::Json => (JSON, json(request, users)),
        Notation::Pretty => (JSON, pretty(&json(request, users))),
    }
}

fn json(request: &Request, users: impl Iterator<Item = User>) -> String {
    let (columns, end) = frame(request);
    let mut out = String::from("{\"results\":[");
    for (i, user) in users.enumerate() {
        if i > 0 {
            out.push(',');
        }
        for (column, before) in &columns {
            out.push_str(before);
            match &user[*column] {
                Datum::Text(text) => push_json(&mut out, text),
                Datum::Number(n) => out.push_str(&n.to_string()),
                Datum::Null => out.push_str("null"),
            }
        }
        out.push_str(&end);
    }
    out.push(']');
    if request.info {
        out.push_str(",\"info\":{\"seed\":");
        push_json(&mut out, &request.seed);
        out.push_str(&format!(
            ",\"results\":{},\"page\":{},\"version\":\"1.4\"}}",
            request.results, request.page
        ));
    }
    out.push('}');
    out
}

/// The shown columns, each with the JSON that precedes its value, and what ends a user.
fn frame(request: &Request) -> (Vec<(usize, String)>, String) {
    let mut columns = Vec::new();
    let mut open: Vec<&str> = Vec::new();
    let mut json = String::from("{");
    let mut separator = "";
    for (i, column) in COLUMNS
        .iter()
        .enumerate()
        .filter(|(i, _)| request.shown[*i])
    {
        let mut path: Vec<&str> = column.split('.').collect();
        let leaf = path.pop().unwrap_or_default();
        let common = open.iter().zip(&path).take_while(|(a, b)| a == b).count();
        json.extend(open.drain(common..).map(|_| '}'));
        for part in &path[common..] {
            json.push_str(&format!("{separator}\"{part}\":{{"));
            separator = "";
            open.push(part);
        }
        json.push_str(&format!("{separator}\"{leaf}\":"));
        columns.push((i, std::mem::take(&mut json)));
        separator = ",";
    }
    json.extend(open.iter().map(|_| '}'));
    json.push('}');
    (columns, json)
}

fn csv(request: &Request, users: impl Iterator<Item = User>) -> String {
    let header = COLUMNS.map(|column| Datum::Text(column.into()));
    let lines: Vec<String> = std::iter::once(header)
        .chain(users)
        .map(|user| {
            let cells: Vec<String> = user
                .iter()
                .zip(request.shown)
                .filter(|(_, shown)| *shown)
                .map(|(value, _)| cell(value))
                .collect();
            cells.join(",")
        })
        .collect();
    lines.join("\n")
}

fn cell(value: &Datum) -> String {
    match value {
        Datum::Text(text) if text.contains([',', '"', '\n', '\r']) => {
            format!("\"{}\"", text.replace('"', "\"\""))
        }
        Datum::Text(text) => text.to_string(),
        Datum::Number(n) => n.to_string(),
        Datum::Null => "null".into(), // like the real API
    }
}

/// Compact JSON with a line for each value and two spaces for each level.
fn pretty(json: &str) -> String {
    let mut out = String::with_capacity(json.len() * 3 / 2);
    let mut level = 0;
    let (mut quoted, mut escaped) = (false, false);
    let line = |out: &mut String, level: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n("  ", level));
    };
    let mut chars = json.chars().peekable();
    while let Some(c) = chars.next() {
        if quoted {
            out.push(c);
            quoted = escaped || c != '"';
            escaped = !escaped && c == '\\';
            continue;
        }
        match c {
            '{' | '[' => {
                out.push(c);
                match chars.next_if(|next| matches!(next, '}' | ']')) {
                    Some(end) => out.push(end),
                    None => {
                        level += 1;
                        line(&mut out, level);
                    }
                }
            }
            '}' | ']' => {
                level -= 1;
                line(&mut out, level);
                out.push(c);
            }
            ',' => {
                out.push(c);
                line(&mut out, level);
            }
            ':' => out.push_str(": "),
            c => {
                quoted = c == '"';
                out.push(c);
            }
        }
    }
    out
}
