//! Parameters: values, their layouts, and the edits applied to them.

mod layout;
mod moved;
mod resize;
mod storage;
mod value;

pub use layout::{Entries, Layout};
pub use moved::Moved;
pub use resize::Along;
pub use storage::{PolicyRef, SPARSE_BELOW, SparseThresholds, Storage, StoragePolicy};
pub use value::Param;
