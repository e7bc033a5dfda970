//! Which mask can train from (or at) initialization?

nnz_core::methods![random_pruning, snip, grasp, synflow, imp];
