//! Networks that others trained: language models block by block, ONNX graphs and checkpoints of known families, and adapters
//! between two networks of the same layers.
#![forbid(unsafe_code)]

pub mod adapter;
mod error;
pub mod llm;
pub mod onnx;
mod subject;

pub use error::{Error, Result};
