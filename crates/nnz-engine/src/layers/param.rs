use crate::Real;
use nnz_core::{LayerRole, Rng, Shape};
use serde::{Deserialize, Serialize};

/// Role of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A matrix or kernel `[out, in]`: counted by density, prunable, decayed.
    Weight,
    /// A bias, gain or offset.
    Vector,
    /// An embedding: rows of numbers, not counted by density.
    Table,
    /// Saved with the model but not trained: running statistics.
    Buffer,
    /// Connections that come with the data and are not trained: edges of a graph, features of its nodes.
    Structure,
}

impl Role {
    /// Whether an optimizer updates it.
    pub fn trained(self) -> bool {
        !matches!(self, Self::Buffer | Self::Structure)
    }
}

/// Initialization. Fans count the connections that exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Init {
    /// Variance 2 / fan-in of the row (He et al. 2015, arXiv:1502.01852).
    #[default]
    He,
    /// Variance 1 / fan-in of the row (LeCun et al. 1998).
    Lecun,
    /// Variance 2 / (fan-in of the row + fan-out of the column) (Glorot & Bengio 2010).
    Glorot,
    /// Standard deviation 0.02.
    Small,
    /// Zero.
    Zero,
    /// One.
    One,
}

impl Init {
    /// Whether it is the default, for serde.
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Standard deviation of an entry with the given fans.
    pub fn deviation(self, fan_in: usize, fan_out: usize) -> f64 {
        match self {
            Self::He => (2.0 / fan_in.max(1) as f64).sqrt(),
            Self::Lecun => (1.0 / fan_in.max(1) as f64).sqrt(),
            Self::Glorot => (2.0 / (fan_in + fan_out).max(1) as f64).sqrt(),
            Self::Small => 0.02,
            Self::Zero | Self::One => 0.0,
        }
    }

    /// Draws `count` values of a parameter that is not a matrix.
    pub(crate) fn plain<T: Real>(self, count: usize, rng: &mut Rng) -> Vec<T> {
        let mean = if self == Self::One { 1.0 } else { 0.0 };
        let deviation = self.deviation(1, 1);
        (0..count).map(|_| if deviation == 0.0 { T::of(mean) } else { T::of(deviation * rng.normal()) }).collect()
    }
}

/// One parameter before it has values.
#[derive(Clone, Debug, PartialEq)]
pub struct ParamSpec {
    /// Name and extent; a vector is `[rows, 1]`.
    pub shape: Shape,
    /// Its role.
    pub role: Role,
    /// Its initialization.
    pub init: Init,
}

impl ParamSpec {
    /// `NAME.weight`, `[outputs, inputs · kernel]`.
    pub fn weight(name: &str, outputs: usize, inputs: usize, kernel: [usize; 2], init: Init) -> Self {
        let cols = inputs.saturating_mul(kernel[0]).saturating_mul(kernel[1]);
        let shape = Shape { kernel, ..Shape::matrix(&format!("{name}.weight"), outputs, cols) };
        Self { shape, role: Role::Weight, init }
    }

    /// The same with a role in the network.
    pub fn acting(mut self, role: LayerRole) -> Self {
        self.shape.role = role;
        self
    }

    /// `NAME.PART`, a vector.
    pub fn vector(name: &str, part: &str, len: usize, init: Init) -> Self {
        Self { shape: Shape::matrix(&format!("{name}.{part}"), len, 1), role: Role::Vector, init }
    }

    /// `NAME.PART`, a vector that is not trained.
    pub fn buffer(name: &str, part: &str, len: usize, init: Init) -> Self {
        Self { role: Role::Buffer, ..Self::vector(name, part, len, init) }
    }

    /// `NAME.weight`, a table.
    pub fn table(name: &str, rows: usize, cols: usize) -> Self {
        Self { shape: Shape::matrix(&format!("{name}.weight"), rows, cols), role: Role::Table, init: Init::Small }
    }

    /// `NAME.PART`, connections that come with the data.
    pub fn structure(name: &str, part: &str, rows: usize, cols: usize) -> Self {
        Self { shape: Shape::matrix(&format!("{name}.{part}"), rows, cols), role: Role::Structure, init: Init::One }
    }

    /// Extents of its dense values.
    pub fn dims(&self) -> Vec<usize> {
        match self.role {
            Role::Weight | Role::Table | Role::Structure => vec![self.shape.rows, self.shape.cols],
            Role::Vector | Role::Buffer => vec![self.shape.rows],
        }
    }
}
