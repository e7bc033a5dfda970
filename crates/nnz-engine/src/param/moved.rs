/// How many connections one edit made and removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// New connections.
    pub born: usize,
    /// Removed connections.
    pub died: usize,
}

impl std::ops::AddAssign for Moved {
    fn add_assign(&mut self, other: Self) {
        self.born += other.born;
        self.died += other.died;
    }
}
