//! What travels and what is stored: events, rows, and the way from one to the other. Pure: no I/O, no clock.

pub mod event;
pub mod json;
pub mod reject;
pub mod row;
pub mod transform;
pub mod value;
