//! A parameter that loses or gains units.

use super::storage::PolicyRef;
use super::{Moved, Param};
use crate::{Error, Real, Result, Tensor};
use nnz_core::Topology;

/// Which dimension of a tensor an axis is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Along {
    /// The outputs of a weight.
    Rows,
    /// The inputs of a weight, repeated for each position of a kernel or pixel.
    Cols,
    /// The entries of a vector.
    Entries,
}

impl<T: Real> Param<T> {
    /// Removes rows, columns or entries with their units and appends those of `grown` new ones; columns repeat
    /// the units of their axis. New connections get their initial values from `first`, given fan-in and fan-out; state is
    /// zero, and tensors after the first `slots` start at the value.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn resize(
        &mut self,
        along: Along,
        keep: &[bool],
        grown: usize,
        mut first: impl FnMut(usize, usize) -> T,
        storage: PolicyRef,
        state: &mut [Tensor<T>],
        slots: usize,
    ) -> Result<Moved> {
        let units = keep.len();
        let place: Vec<usize> =
            keep.iter().scan(0, |next, &k| Some(std::mem::replace(next, *next + usize::from(k)))).collect();
        let stay = keep.iter().filter(|k| **k).count();
        let left = stay + grown;
        if along == Along::Entries {
            let fresh: Vec<T> = (0..grown).map(|_| first(1, 1)).collect();
            for (at, tensor) in std::iter::once(&mut self.value).chain(state).enumerate() {
                let kept = tensor.data().iter().zip(keep).filter(|(_, k)| **k).map(|(v, _)| *v);
                let new = fresh.iter().map(|&v| if (1..=slots).contains(&at) { T::ZERO } else { v });
                *tensor = Tensor::new(&[left], kept.chain(new).collect());
            }
            self.shape.rows = left;
            return Ok(Moved { grown: 0, pruned: 0 });
        }
        let old = self.by_rows();
        let (rows, cols) = match along {
            Along::Cols => (self.shape.rows, self.shape.cols / units * left),
            _ => (left, self.shape.cols),
        };
        let to = |p: u64| -> Option<u64> {
            let (r, c) = ((p / self.shape.cols as u64) as usize, (p % self.shape.cols as u64) as usize);
            let (r, c) = match along {
                Along::Rows => (keep[r].then(|| place[r])?, c),
                _ => (r, keep[c % units].then(|| c / units * left + place[c % units])?),
            };
            Some((r * cols + c) as u64)
        };
        // Destination of each connection, with its old entry or its initial value.
        let moved = old.topology.positions().enumerate().filter_map(|(at, p)| Some((to(p)?, Ok(at))));
        let mut all: Vec<(u64, std::result::Result<usize, T>)> = moved.collect();
        let survivors = all.len();
        let new = |p: &u64| match along {
            Along::Rows => *p >= (stay * cols) as u64,
            _ => *p % left as u64 >= stay as u64,
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
