//! A format from outside the crate behind the same trait.

use nnz_kernels::{Compiled, Csc, Csr, Operator, Tiled};

/// W has its entries on one diagonal: entry i is at row i, column i + shift.
struct Diagonal {
    cols: usize,
    shift: usize,
    values: Vec<f32>,
}

impl Operator<f32> for Diagonal {
    fn format(&self) -> &'static str {
        "diagonal"
    }

    fn rows(&self) -> usize {
        self.values.len()
    }

    fn cols(&self) -> usize {
        self.cols
    }

    fn nnz(&self) -> usize {
        self.values.len()
    }

    fn bytes(&self) -> usize {
        4 * self.values.len()
    }

    fn set_values(&mut self, values: &[f32]) {
        self.values.copy_from_slice(values);
    }

    fn forward(&self, x: &Tiled<f32>, bias: Option<&[f32]>, y: &mut Tiled<f32>) {
        for t in 0..x.tiles() {
            let width = x.width(t);
            for (r, line) in y.tile_mut(t).chunks_exact_mut(width).enumerate() {
                let from = &x.tile(t)[(r + self.shift) * width..][..width];
                let b = bias.map_or(0.0, |b| b[r]);
                line.iter_mut().zip(from).for_each(|(y, x)| *y = self.values[r] * x + b);
            }
        }
    }

    fn backward(&self, x: &Tiled<f32>, g: &Tiled<f32>, mut dx: Option<&mut Tiled<f32>>, dw: &mut [f32]) {
        dw.fill(0.0);
        for t in 0..x.tiles() {
            let width = x.width(t);
            let mut dx = dx.as_deref_mut().map(|dx| dx.tile_mut(t));
            dx.iter_mut().for_each(|dx| dx.fill(0.0));
            for (r, line) in g.tile(t).chunks_exact(width).enumerate() {
                let at = (r + self.shift) * width..(r + self.shift + 1) * width;
                dw[r] += line.iter().zip(&x.tile(t)[at.clone()]).map(|(g, x)| g * x).sum::<f32>();
                if let Some(dx) = &mut dx {
                    dx[at].iter_mut().zip(line).for_each(|(d, g)| *d = self.values[r] * g);
                }
            }
        }
    }
}

#[test]
fn a_format_from_outside_is_an_operator_like_any_other() {
    let (rows, cols, shift, batch) = (5, 8, 2, 70);
    let starts: Vec<usize> = (0..=rows).collect();
    let columns: Vec<u32> = (0..rows as u32).map(|r| r + shift as u32).collect();
    let t_starts: Vec<usize> = (0..=cols).map(|c: usize| c.saturating_sub(shift).min(rows)).collect();
    let entries: Vec<u32> = (0..rows as u32).collect();
    let csr = Csr { rows, cols, starts: &starts, columns: &columns };
    let csc = Csc { starts: &t_starts, rows: &entries, entries: &entries };
    let values: Vec<f32> = (0..rows).map(|i| 1.0 + i as f32).collect();
    let operators: [Box<dyn Operator<f32>>; 2] =
        [Box::new(Compiled::new(csr, csc, &values)), Box::new(Diagonal { cols, shift, values: vec![0.0; rows] })];
    let number = |n: usize| (0..n).map(|i| (i * 37 % 19) as f32 - 9.0).collect::<Vec<_>>();
    let (x, g) =
        (Tiled::from_rows(batch, cols, &number(batch * cols)), Tiled::from_rows(batch, rows, &number(batch * rows)));
    let bias = number(rows);
    let answers = operators.map(|mut op| {
        op.set_values(&values);
        let (mut y, mut dx, mut dw) = (Tiled::zeros(batch, rows), Tiled::zeros(batch, cols), vec![0.0; op.nnz()]);
        op.forward(&x, Some(&bias), &mut y);
        op.backward(&x, &g, Some(&mut dx), &mut dw);
        let (mut ys, mut dxs) = (vec![0.0; batch * rows], vec![0.0; batch * cols]);
        y.to_rows(&mut ys);
        dx.to_rows(&mut dxs);
        (ys, dxs, dw)
    });
    assert_eq!(answers[0], answers[1]);
}
