//! The published datasets' layouts, on tiny generated data.
#![allow(clippy::unwrap_used)]

mod fetch;
mod records;
mod support;
