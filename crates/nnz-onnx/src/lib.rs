//! Networks as graphs of operators, in ONNX's form: read from a file or built from a checkpoint of a known architecture, run on
//! the kernels of nnz, and written.
//!
//! [`Graph`] is the network, [`Session`] runs it, [`Graph::matrices`] lists the weights that can be pruned, [`GraphNet`] is a layer of
//! the engine that trains them. Graphs come from
//! ONNX files ([`Graph::open`]), or from weights with the names of a known architecture ([`build`]). A missing operator is
//! refused by name; nothing is computed approximately. Nothing that a file claims is allocated before it is checked.
#![forbid(unsafe_code)]

pub mod build;
mod graph;
mod matrices;
mod net;
mod ops;
mod proto;
mod session;
mod value;

pub use graph::{Attribute, Body, Constant, DType, Graph, Node, OPSET, Port};
pub use matrices::Matrix;
pub use net::GraphNet;
pub use ops::KNOWN;
pub use session::{Advice, Budget, Layer, Session, State};
pub use value::{Array, Floats, Value};

use std::path::{Path, PathBuf};

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A network that cannot be read, built or run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file.
    #[error("{}: {why}", .path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// The defect, and the remedy.
        why: String,
    },
    /// An operator that is missing, or cannot do what the node asks for.
    #[error("{}: {op} `{node}`: {why}", .path.display())]
    Node {
        /// The network.
        path: PathBuf,
        /// The operator.
        op: String,
        /// The node's name, or that of its output.
        node: String,
        /// The reason.
        why: String,
    },
    /// Weights of another program.
    #[error(transparent)]
    Formats(#[from] nnz_formats::Error),
    /// An input that does not fit.
    #[error("{0}")]
    Refused(String),
}

impl Error {
    pub(crate) fn file(path: &Path, why: impl ToString) -> Self {
        Self::File { path: path.into(), why: why.to_string() }
    }

    pub(crate) fn node(path: &Path, node: &Node, why: impl ToString) -> Self {
        Self::Node { path: path.into(), op: node.op.clone(), node: node.label().into(), why: why.to_string() }
    }
}
