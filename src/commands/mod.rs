//! One command, one file: its `Args` (whose doc comments are the help), `run`, helpers in call order.

pub mod mock_api;
