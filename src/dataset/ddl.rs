//! What the tables of all stores have in common: quoted names, columns in SQL, and a script of their statements.

use super::{Dataset, Field};

/// Quotes an identifier for CQL and SQL.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The definition in SQL of a field's column of this type.
pub fn column(field: &Field, column_type: &str) -> String {
    let null = if field.required { " NOT NULL" } else { "" };
    format!("{} {column_type}{null}", quoted(&field.name))
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
