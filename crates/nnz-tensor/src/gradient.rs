use crate::{Real, Tensor};
use nnz_kernels::elementwise;

/// The gradient of a parameter: of all its entries, or of the rows that a step used.
#[derive(Clone, Debug, PartialEq)]
pub enum Gradient<T> {
    /// All entries, in the shape of the parameter.
    Dense(Tensor<T>),
    /// Some rows (entries along the first axis), zero elsewhere.
    Rows {
        /// Indices of those rows, ascending, each once.
        rows: Vec<u32>,
        /// `[rows, ..]`, the other axes those of the parameter.
        values: Tensor<T>,
    },
}

impl<T: Real> Gradient<T> {
    /// Zero everywhere: no rows, for a parameter of `shape`.
    pub fn zero(shape: &[usize]) -> Self {
        let rest = shape.get(1..).unwrap_or_default();
        Self::Rows { rows: Vec::new(), values: Tensor::zeros(&[&[0], rest].concat()) }
    }

    /// Expands to all entries, for a parameter of `shape`.
    pub fn dense(self, shape: &[usize]) -> Tensor<T> {
        match self {
            Self::Dense(all) => all,
            Self::Rows { rows, values } => {
                let mut all = Tensor::zeros(shape);
                add_rows(&mut all, &rows, &values);
                all
            }
        }
    }

    /// The stored entries.
    pub fn values(&self) -> &Tensor<T> {
        match self {
            Self::Dense(values) | Self::Rows { values, .. } => values,
        }
    }

    /// The stored entries, to write.
    pub fn values_mut(&mut self) -> &mut Tensor<T> {
        match self {
            Self::Dense(values) | Self::Rows { values, .. } => values,
        }
    }

    /// Sums rows from several places, each ascending; a row that several have is summed in their order.
    pub(crate) fn merged(mut parts: Vec<(Vec<u32>, Tensor<T>)>, shape: &[usize]) -> Self {
        if parts.len() < 2 {
            let part = parts.pop();
            return part.map_or_else(|| Self::zero(shape), |(rows, values)| Self::Rows { rows, values });
        }
        let places =
            parts.iter().enumerate().flat_map(|(p, (rows, _))| rows.iter().enumerate().map(move |(i, &r)| (r, p, i)));
        let mut places: Vec<(u32, usize, usize)> = places.collect();
        places.sort_unstable();
        let groups: Vec<&[(u32, usize, usize)]> = places.chunk_by(|a, b| a.0 == b.0).collect();
        let rest = &shape[1..];
        let width: usize = rest.iter().product();
        let values = Tensor::written(&[&[groups.len()], rest].concat(), |to| {
            for (to, group) in to.chunks_exact_mut(width.max(1)).zip(&groups) {
                for (first, &(_, p, i)) in group.iter().enumerate() {
                    let from = &parts[p].1.data()[i * width..(i + 1) * width];
                    match first {
                        0 => to.copy_from_slice(from),
                        _ => to.iter_mut().zip(from).for_each(|(t, &f)| *t += f),
                    }
                }
            }
        });
        Self::Rows { rows: groups.iter().map(|g| g[0].0).collect(), values }
    }
}

/// `all[rows[i]] += values[i]`
pub(crate) fn add_rows<T: Real>(all: &mut Tensor<T>, rows: &[u32], values: &Tensor<T>) {
    let width = values.len().checked_div(rows.len()).unwrap_or(0);
    let to = all.data_mut();
    for (&row, from) in rows.iter().zip(values.data().chunks_exact(width.max(1))) {
        elementwise::update_by(&mut to[row as usize * width..][..width], from, |a, b| a + b);
    }
}
