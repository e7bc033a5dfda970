//! How does a sparse topology change while it trains?

methods![set, rigl, srigl];
