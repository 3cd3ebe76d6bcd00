//! One command, one file: its `Args` (whose doc comments are the help), `run`, helpers in call order.

pub mod completions;
pub mod fetch;
pub mod heartbeat;
pub mod init;
pub mod load_batch;
pub mod man;
pub mod mock_api;
pub mod produce;
pub mod stream;
pub mod verify;
