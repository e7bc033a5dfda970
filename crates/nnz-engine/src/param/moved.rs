/// How many connections one edit made and removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// New connections.
    pub grown: usize,
    /// Removed connections.
    pub pruned: usize,
}

impl std::ops::AddAssign for Moved {
    fn add_assign(&mut self, other: Self) {
        self.grown += other.grown;
        self.pruned += other.pruned;
    }
}
