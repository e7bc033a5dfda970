//! Which structured sparse or low-rank family replaces a dense matrix?

methods![dlrt];
