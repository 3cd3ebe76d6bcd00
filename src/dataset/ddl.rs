//! What the tables of all stores have in common: quoted names, and a script of their statements.

use super::Dataset;

/// Quotes an identifier for CQL and SQL.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The statements as one script, with a line that says where it comes from; comments stay comments.
pub fn script(dataset: &Dataset, statements: &[String]) -> String {
    let mut out = format!(
        "-- Derived from the dataset {} by `rtp init --dry-run`; do not edit.\n",
        dataset.name
    );
    for statement in statements {
        out.push('\n');
        out.push_str(statement);
        out.push_str(match statement.starts_with("--") {
            true => "\n",
            false => ";\n",
        });
    }
    out
}
