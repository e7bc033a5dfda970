//! Which weights can a trained net lose?

methods![magnitude, gmp, lamp, filter_pruning, sparsegpt, wgsef, transport_pruning];
