//! Which mask can train from (or at) initialization?

methods![random_pruning, snip, grasp, synflow, imp];
