use nnz_core::Topology;
use nnz_kernels::{Csr, Plan, Rows, Tuning};

/// The connections of one weight, compiled for the kernels. Checked once, here; steps trust it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connections(Plan);

impl Connections {
    /// Compiles a topology. O(nnz).
    pub fn new(topology: &Topology) -> Self {
        Self::with_order(topology).0
    }

    /// Also returns, for each value, the connection it belongs to, in the topology's order. O(nnz).
    pub fn with_order(topology: &Topology) -> (Self, Vec<u32>) {
        let (rows, cols) = (topology.rows(), topology.cols());
        let csr = Csr { rows, cols, starts: topology.starts(), columns: topology.columns() };
        let (plan, entries) = Plan::of_rows(csr, Tuning::of(rows, cols, topology.nnz()));
        (Self(plan), entries)
    }

    /// Also returns `numbers`, one for each connection in the topology's order, in the order of the values. O(nnz).
    pub fn with_numbers(topology: &Topology, numbers: &[u32]) -> (Self, Vec<u32>) {
        let (rows, cols) = (topology.rows(), topology.cols());
        let csr = Csr { rows, cols, starts: topology.starts(), columns: topology.columns() };
        let (plan, numbers) = Plan::of_rows_numbered(csr, Tuning::of(rows, cols, topology.nnz()), numbers);
        (Self(plan), numbers)
    }

    /// The plan; values, gradients and optimizer state are stored in its order.
    pub fn plan(&self) -> &Plan {
        &self.0
    }

    /// Returns the topology, row by row. O(nnz).
    pub fn topology(&self) -> Topology {
        self.rows().0
    }

    /// `row * cols + col` of every value.
    pub fn positions(&self) -> Vec<usize> {
        let (topology, order) = self.rows();
        let mut positions = vec![0; order.len()];
        order.iter().zip(topology.positions()).for_each(|(&at, p)| positions[at as usize] = p as usize);
        positions
    }

    /// Returns the topology, row by row, and the position of each value. O(nnz).
    pub fn rows(&self) -> (Topology, Vec<u32>) {
        let Rows { starts, columns, order } = self.0.by_rows();
        let topology = Topology::new(self.0.rows(), self.0.cols(), starts, columns);
        (topology.expect("a plan has a valid structure"), order)
    }
}
