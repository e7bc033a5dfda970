//! nnz: neural networks that are sparse all the way down.
//!
//! Re-exports of the crates, and [`REGISTRY`], which lists the methods of every room. Each room answers one question
//! with several methods, one file per method.
#![forbid(unsafe_code)]

pub use nnz_codes as codes;
pub use nnz_core as core;
pub use nnz_data as data;
pub use nnz_engine as engine;
pub use nnz_foreign as foreign;
pub use nnz_lab as lab;
pub use nnz_routes as routes;
pub use nnz_shape as shape;
pub use nnz_sparse as sparse;

use nnz_codes::{features, memory};
use nnz_routes::experts;
use nnz_shape::{geometry, graph, topology};
use nnz_sparse::{kernels, prune, rewire, structured, tickets};

/// Every method, room by room.
pub const REGISTRY: nnz_core::Registry = nnz_core::Registry(&[
    prune::METHODS,
    tickets::METHODS,
    rewire::METHODS,
    structured::METHODS,
    experts::METHODS,
    features::METHODS,
    memory::METHODS,
    topology::METHODS,
    geometry::METHODS,
    graph::METHODS,
    kernels::METHODS,
]);

/// The layers of every room, which networks in recipes and files name. Programs make them known
/// ([`make_known`](nnz_engine::Layers::make_known)) before they read any.
pub fn layers() -> nnz_engine::Layers {
    nnz_engine::Layers::new().with::<experts::Experts>().with::<nnz_foreign::onnx::GraphNet>()
}

/// The README's example is run as a test.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;

/// The method in the guide compiles and computes what the guide says.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/src/adding-a-method.md")]
struct Guide;

/// The examples on the page of words compile and do what it says.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/src/words.md")]
struct Words;
