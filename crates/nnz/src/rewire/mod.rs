//! How does a sparse topology change while it trains?

methods![set, rigl, srigl, sr_ste, decay_masks, bdwp, s2ft, grass];

pub use bdwp::{cycles, multiply_adds};
pub use s2ft::{Adapter, co_permute};
