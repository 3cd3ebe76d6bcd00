//! How the dataset's types are stored in Cassandra.

use scylla::cluster::metadata::{ColumnType, NativeType};

use scylla::frame::response::result::ColumnSpec;
use scylla::serialize::SerializationError;
use scylla::serialize::row::{RowSerializationContext, SerializeRow};
use scylla::serialize::writers::{CellOverflowError, CellWriter, RowWriter, WrittenCellProof};

use super::decimal;
use crate::dataset::{Field, FieldType};
use crate::error::{Error, Result};
use crate::record::value::Value;

/// The type of a column in CQL.
pub(super) fn column_type(kind: FieldType) -> &'static str {
    match kind {
        FieldType::Text => "text",
        FieldType::Uuid => "uuid",
        FieldType::Int => "int",
        FieldType::BigInt => "bigint",
        FieldType::Double => "double",
        FieldType::Decimal => "decimal",
        FieldType::Boolean => "boolean",
        FieldType::Timestamp => "timestamp",
        FieldType::Date => "date",
    }
}

/// Checks that columns have the types of the dataset's fields.
pub(super) fn check_types<'s>(
    table: &str,
    fields: &[Field],
    columns: impl Iterator<Item = &'s ColumnSpec<'s>>,
) -> Result<()> {
    for (field, column) in fields.iter().zip(columns) {
        let expected = ColumnType::Native(native(field.kind));
        if *column.typ() != expected {
            return Err(Error::invalid(format!(
                "column {} of {table} has type {:?}, but the dataset says {}",
                field.name,
                column.typ(),
                field.kind.name()
            )));
        }
    }
    Ok(())
}

fn native(kind: FieldType) -> NativeType {
    match kind {
        FieldType::Text => NativeType::Text,
        FieldType::Uuid => NativeType::Uuid,
        FieldType::Int => NativeType::Int,
        FieldType::BigInt => NativeType::BigInt,
        FieldType::Double => NativeType::Double,
        FieldType::Decimal => NativeType::Decimal,
        FieldType::Boolean => NativeType::Boolean,
        FieldType::Timestamp => NativeType::Timestamp,
        FieldType::Date => NativeType::Date,
    }
}

/// Day 0 of Cassandra's dates is 2^31 days before 1970.
const EPOCH: u32 = 1 << 31;

/// Writes a value in the format of a column of this type.
pub(super) fn write<'b>(
    value: &Value<'_>,
    kind: FieldType,
    cell: CellWriter<'b>,
) -> Result<WrittenCellProof<'b>, CellOverflowError> {
    match value {
        Value::Null => Ok(cell.set_null()),
        Value::Text(text) => cell.set_value(text.as_bytes()),
        Value::Uuid(uuid) => cell.set_value(uuid.as_bytes()),
        Value::Int(n) => match (kind, i32::try_from(*n)) {
            (FieldType::Int, Ok(n)) => cell.set_value(&n.to_be_bytes()),
            _ => cell.set_value(&n.to_be_bytes()),
        },
        Value::Double(n) => cell.set_value(&n.to_be_bytes()),
        Value::Decimal(text) => {
            let mut stored = Vec::with_capacity(16);
            decimal::encode(text, &mut stored);
            cell.set_value(&stored)
        }
        Value::Boolean(b) => cell.set_value(&[u8::from(*b)]),
        Value::Timestamp(ms) => cell.set_value(&ms.to_be_bytes()),
        Value::Date(days) => {
            cell.set_value(&days.cast_unsigned().wrapping_add(EPOCH).to_be_bytes())
        }
    }
}

/// Converts the content of a column to its field's type; none if it does not fit.
pub(super) fn read<'f>(field: &Field, stored: Option<&'f [u8]>) -> Option<Value<'f>> {
    let Some(bytes) = stored else {
        return Some(Value::Null);
    };
    Some(match field.kind {
        FieldType::Text => Value::Text(std::str::from_utf8(bytes).ok()?.into()),
        FieldType::Uuid => Value::Uuid(uuid::Uuid::from_slice(bytes).ok()?),
        FieldType::Int => Value::Int(i32::from_be_bytes(bytes.try_into().ok()?).into()),
        FieldType::BigInt => Value::Int(i64::from_be_bytes(bytes.try_into().ok()?)),
        FieldType::Double => {
            let n = f64::from_be_bytes(bytes.try_into().ok()?);
            Value::Double(n.is_finite().then_some(n + 0.0)?) // -0 is 0
        }
        FieldType::Decimal => Value::from_text(field, decimal::decode(bytes)?.into()).ok()?,
        FieldType::Boolean => match bytes {
            [0] => Value::Boolean(false),
            [1] => Value::Boolean(true),
            _ => return None,
        },
        FieldType::Timestamp => Value::Timestamp(i64::from_be_bytes(bytes.try_into().ok()?)),
        FieldType::Date => {
            let day = u32::from_be_bytes(bytes.try_into().ok()?);
            Value::Date(day.wrapping_sub(EPOCH).cast_signed())
        }
    })
}

/// Values bound to all placeholders of a statement.
#[derive(Debug)]
pub(super) struct Parameters<'a> {
    pub(super) values: Vec<Value<'a>>,
    pub(super) kinds: &'a [FieldType],
}

impl SerializeRow for Parameters<'_> {
    fn serialize(
        &self,
        _: &RowSerializationContext<'_>,
        writer: &mut RowWriter<'_>,
    ) -> Result<(), SerializationError> {
        for (value, kind) in self.values.iter().zip(self.kinds) {
            write(value, *kind, writer.make_cell_writer()).map_err(SerializationError::new)?;
        }
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}
