//! A parameter that loses or gains units.

use super::storage::PolicyRef;
use super::{Moved, Param};
use crate::{Error, Real, Result, Tensor};
use nnz_core::Topology;

/// Which dimension of a parameter an axis lies along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Along {
    /// The rows of a weight, most often its outputs.
    Rows,
    /// The columns of a weight: its inputs, repeated for each position of a kernel or pixel.
    Cols,
    /// The entries of a vector.
    Entries,
}

impl<T: Real> Param<T> {
    /// Removes the rows, columns or entries that `stays` rejects and appends those of `grown` new units after each `units` of them:
    /// columns repeat the units of their axis. New connections get their initial values from `first`, given fan-in and fan-out;
    /// state is zero, and tensors after the first `slots` start at the value.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn resize(
        &mut self,
        along: Along,
        stays: &[bool],
        [units, grown]: [usize; 2],
        mut first: impl FnMut(usize, usize) -> T,
        storage: PolicyRef,
        state: &mut [Tensor<T>],
        slots: usize,
    ) -> Result<Moved> {
        let counts = stays.iter().scan(0, |next, &k| Some(std::mem::replace(next, *next + usize::from(k))));
        let place: Vec<usize> = counts.enumerate().map(|(i, before)| before + i / units * grown).collect();
        let left = stays.iter().filter(|k| **k).count() + stays.len() / units * grown;
        if along == Along::Entries {
            let fresh: Vec<T> = (0..grown).map(|_| first(1, 1)).collect();
            for (at, tensor) in std::iter::once(&mut self.value).chain(state).enumerate() {
                let kept = tensor.data().iter().zip(stays).filter(|(_, k)| **k).map(|(v, _)| *v);
                let new = fresh.iter().map(|&v| if (1..=slots).contains(&at) { T::ZERO } else { v });
                let data: Vec<T> = kept.chain(new).collect();
                *tensor = Tensor::new(&[data.len()], data);
            }
            self.shape.rows = self.value.len();
            return Ok(Moved { grown: 0, pruned: 0 });
        }
        let old = self.by_rows();
        let (rows, cols) = match along {
            Along::Cols => (self.shape.rows, left),
            _ => (left, self.shape.cols),
        };
        let to = |p: u64| -> Option<u64> {
            let (r, c) = ((p / self.shape.cols as u64) as usize, (p % self.shape.cols as u64) as usize);
            let (r, c) = match along {
                Along::Rows => (stays[r].then(|| place[r])?, c),
                _ => (r, stays[c].then(|| place[c])?),
            };
            Some((r * cols + c) as u64)
        };
        // Destination of each connection, with its old entry or its initial value.
        let moved = old.topology.positions().enumerate().filter_map(|(at, p)| Some((to(p)?, Ok(at))));
        let mut all: Vec<(u64, std::result::Result<usize, T>)> = moved.collect();
        let survivors = all.len();
        let period = (left / (stays.len() / units).max(1)) as u64;
        let new = |p: &u64| match along {
            Along::Rows => *p >= ((left - grown) * cols) as u64,
            _ => *p % period >= period - grown as u64,
        };
        if grown > 0 {
            all.extend((0..(rows * cols) as u64).filter(new).map(|p| (p, Err(first(cols, rows)))));
            all.sort_unstable_by_key(|e| e.0);
        }
        let carry = |tensor: &Tensor<T>, zero: bool| -> Vec<T> {
            let before = old.of(tensor);
            let value = |e: &(u64, std::result::Result<usize, T>)| match e.1 {
                Ok(at) => before[at],
                Err(v) => {
                    if zero {
                        T::ZERO
                    } else {
                        v
                    }
                }
            };
            all.iter().map(value).collect()
        };
        let tensors = std::iter::once(&self.value).chain(state.iter()).enumerate();
        let entries: Vec<Vec<T>> = tensors.map(|(at, t)| carry(t, (1..=slots).contains(&at))).collect();
        let topology = Topology::from_positions(rows, cols, all.iter().map(|e| e.0));
        if topology.nnz() == 0 {
            return Err(Error::Refused(format!("`{}` would lose its last connection", self.shape.name)));
        }
        (self.shape.rows, self.shape.cols) = (rows, cols);
        let storage = storage.resolve(&topology, &self.shape)?;
        let moved = Moved { grown: topology.nnz() - survivors, pruned: old.topology.nnz() - survivors };
        self.set(topology, storage, &entries, state);
        Ok(moved)
    }
}
