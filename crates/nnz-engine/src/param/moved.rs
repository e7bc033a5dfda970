/// Numbers of connections that one edit grew and pruned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Grown connections.
    pub grown: usize,
    /// Pruned connections.
    pub pruned: usize,
}

impl std::ops::AddAssign for Moved {
    fn add_assign(&mut self, other: Self) {
        self.grown += other.grown;
        self.pruned += other.pruned;
    }
}
