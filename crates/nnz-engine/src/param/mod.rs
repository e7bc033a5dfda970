//! Parameters: values, where they lie, and what edits do to them.

mod layout;
mod moved;
mod resize;
mod storage;
mod value;

pub use layout::{Entries, Layout};
pub use moved::Moved;
pub(crate) use resize::Along;
pub use storage::{Crossovers, SPARSE_BELOW, Storage, StoragePolicy, Storing};
pub use value::Param;
