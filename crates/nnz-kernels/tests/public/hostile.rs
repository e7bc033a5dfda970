//! Every public function with invalid shapes, strides and indices: it answers right or panics, and touches nothing outside of
//! its slices. The gate runs this in release under the address sanitizer, where nothing else catches a product that wraps.

use std::panic::{AssertUnwindSafe, catch_unwind};

use nnz_kernels::{
    Attention, Bitmask, Blocked, Bsr, Buffer, Compiled, Conv, Csc, Csr, Dense, Ell, Encoding, Expanded, Isa, NOfM,
    Operator, Plan, Single, Sliced, Start, Tiled, Tuning, bags, bags_gradient, elementwise, gemm, gradients_at,
    max_pool, padded, rows, spmm_sparse, top_zero_gradients, top_zero_gradients_tiled,
};
use proptest::prelude::*;
use proptest::sample::select;

/// Result of a call, unless it panics.
fn answer<R>(f: impl FnOnce() -> R) -> Option<R> {
    catch_unwind(AssertUnwindSafe(f)).ok()
}

/// Extents: small ones, and ones so large that products with them wrap, often to something small. None between, which could
/// be allocated.
fn extent() -> impl Strategy<Value = usize> {
    let small = 0usize..6;
    let large = select(vec![
        1 << 50,
        1 << 58,
        (1 << 58) + 1,
        1 << 61,
        (1 << 61) + 1,
        1 << 62,
        (1 << 62) + 1,
        1 << 63,
        (1 << 63) + 1,
        usize::MAX / 3 + 1,
        usize::MAX - 1,
        usize::MAX,
    ]);
    prop_oneof![6 => small, 1 => select(vec![7, 8, 16, 17, 33, 64, 65]), 2 => large]
}

/// Numbers of a slice that a wrapped product asks for, now and then one more or less.
fn length<const N: usize>(extents: [usize; N], off: isize) -> usize {
    let wrapped = extents.into_iter().fold(1, usize::wrapping_mul);
    if wrapped > 1 << 16 { 64 } else { wrapped.saturating_add_signed(off) }
}

fn numbers(n: usize) -> Vec<f64> {
    (0..n).map(|i| (i * 37 % 19) as f64 - 9.0).collect()
}

fn off() -> impl Strategy<Value = isize> {
    prop_oneof![12 => Just(0isize), 1 => Just(1), 1 => Just(-1)]
}

/// A sparse structure that may be broken in one place.
#[derive(Clone, Debug)]
struct Structure {
    rows: usize,
    cols: usize,
    starts: Vec<usize>,
    columns: Vec<u32>,
    t_starts: Vec<usize>,
    t_rows: Vec<u32>,
    t_entries: Vec<u32>,
}

impl Structure {
    fn csr(&self) -> Csr<'_> {
        Csr { rows: self.rows, cols: self.cols, starts: &self.starts, columns: &self.columns }
    }

    fn csc(&self) -> Csc<'_> {
        Csc { starts: &self.t_starts, rows: &self.t_rows, entries: &self.t_entries }
    }

    /// Whether the rows are compressed rows.
    fn whole(&self) -> bool {
        let Self { rows, cols, starts, columns, .. } = self;
        u32::try_from(*cols).is_ok()
            && Some(starts.len()) == rows.checked_add(1)
            && starts[0] == 0
            && starts[*rows] == columns.len()
            && starts.windows(2).all(|w| w[0] <= w[1])
            && columns.iter().all(|&c| (c as usize) < *cols)
            && starts.windows(2).all(|w| columns[w[0]..w[1]].windows(2).all(|c| c[0] < c[1]))
    }

    /// y = x Wᵀ by plain loops.
    fn plain(&self, values: &[f64], batch: usize, x: &[f64]) -> Vec<f64> {
        let row = |b: usize, r: usize| {
            let of = self.starts[r]..self.starts[r + 1];
            of.map(|e| values[e] * x[b * self.cols + self.columns[e] as usize]).sum::<f64>()
        };
        (0..batch).flat_map(|b| (0..self.rows).map(move |r| (b, r))).map(|(b, r)| row(b, r)).collect()
    }
}

/// One wrong number in a structure.
#[derive(Clone, Copy, Debug)]
enum Broken {
    No,
    Rows(usize),
    Cols(usize),
    Start(usize, usize),
    Column(usize, u32),
    Swap(usize, usize),
    TStart(usize, usize),
    TRow(usize, u32),
    TEntry(usize, u32),
    TSwap(usize, usize),
}

fn structure() -> impl Strategy<Value = Structure> {
    let index = || prop_oneof![4 => 0u32..80, 1 => select(vec![9999, 65_535, 65_536, 1 << 31, u32::MAX - 1, u32::MAX])];
    let place = || prop_oneof![3 => 0usize..90, 1 => extent()];
    let broken = prop_oneof![
        4 => Just(Broken::No),
        1 => extent().prop_map(Broken::Rows),
        1 => extent().prop_map(Broken::Cols),
        1 => (any::<usize>(), place()).prop_map(|(i, v)| Broken::Start(i, v)),
        2 => (any::<usize>(), index()).prop_map(|(i, v)| Broken::Column(i, v)),
        2 => (any::<usize>(), any::<usize>()).prop_map(|(i, j)| Broken::Swap(i, j)),
        1 => (any::<usize>(), place()).prop_map(|(i, v)| Broken::TStart(i, v)),
        1 => (any::<usize>(), index()).prop_map(|(i, v)| Broken::TRow(i, v)),
        1 => (any::<usize>(), index()).prop_map(|(i, v)| Broken::TEntry(i, v)),
        1 => (any::<usize>(), any::<usize>()).prop_map(|(i, j)| Broken::TSwap(i, j)),
    ];
    // Wider than a block, so that an index outside of its block is far away.
    let cols = prop_oneof![3 => 0usize..70, 1 => select(vec![400usize, 3000])];
    (0usize..20, cols, 0u64..50, 0u64..100, broken).prop_map(|(rows, cols, percent, seed, broken)| {
        let active = |r: usize, c: usize| {
            let mix = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ ((r * 4099 + c) as u64 + 1);
            (mix.wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 33) % 100 < percent
        };
        let (mut starts, mut columns) = (vec![0], Vec::new());
        for r in 0..rows {
            columns.extend((0..cols).filter(|&c| active(r, c)).map(|c| c as u32));
            starts.push(columns.len());
        }
        let (t_starts, t_rows, t_entries) = Csr { rows, cols, starts: &starts, columns: &columns }.transpose();
        let mut s = Structure { rows, cols, starts, columns, t_starts, t_rows, t_entries };
        fn set<T>(of: &mut [T], i: usize, to: T) {
            let n = of.len();
            if n > 0 {
                of[i % n] = to;
            }
        }
        let n = s.columns.len().max(1);
        match broken {
            Broken::No => {}
            Broken::Rows(n) => s.rows = n,
            Broken::Cols(n) => s.cols = n,
            Broken::Start(i, v) => set(&mut s.starts, i, v),
            Broken::Column(i, v) => set(&mut s.columns, i, v),
            Broken::Swap(i, j) if !s.columns.is_empty() => s.columns.swap(i % n, j % n),
            Broken::TStart(i, v) => set(&mut s.t_starts, i, v),
            Broken::TRow(i, v) => set(&mut s.t_rows, i, v),
            Broken::TEntry(i, v) => set(&mut s.t_entries, i, v),
            Broken::TSwap(i, j) if !s.t_rows.is_empty() => s.t_rows.swap(i % n, j % n),
            Broken::Swap(..) | Broken::TSwap(..) => {}
        }
        s
    })
}

fn same(what: &str, got: &[f64], want: &[f64]) -> Result<(), TestCaseError> {
    prop_assert_eq!(got.len(), want.len(), "{}", what);
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        prop_assert!((g - w).abs() <= 1e-9 * w.abs().max(1.0), "{} at {}: {} for {}", what, i, g, w);
    }
    Ok(())
}

proptest! {
    #[test]
    fn sparse_formats_refuse_or_are_right(s in structure(), batch in select(vec![0usize, 1, 3, 9, 70]), eights in any::<bool>()) {
        let whole = s.whole();
        let values: Vec<f64> = numbers(s.columns.len());
        let x = if whole { numbers(batch * s.cols) } else { numbers(64) };
        let want = if whole { s.plain(&values, batch, &x) } else { Vec::new() };
        let tiles = |y: &mut Tiled<f64>| {
            let mut rows = vec![0.0; want.len()];
            y.to_rows(&mut rows);
            rows
        };
        // Memory for an unchecked shape is never requested.
        let size = |n: usize| if whole { n } else { 8 };
        let (xt, mut yt) = (Tiled::from_rows(size(batch), size(s.cols), &numbers(size(batch) * size(s.cols))),
            Tiled::zeros(size(batch), size(s.rows)));
        let mut flat = vec![0.0; want.len()];

        let plan = answer(|| Plan::new(s.csr(), s.csc()));
        let transposed = answer(|| s.csr().transpose()).is_some_and(|(a, b, c)| (a, b, c) == (s.t_starts.clone(), s.t_rows.clone(), s.t_entries.clone()));
        prop_assert_eq!(plan.is_some(), whole && transposed, "a plan is made of a matrix and its transpose alone");
        if let Some(plan) = plan {
            let (mut by_plan, mut packed) = (values.clone(), values.clone());
            plan.by_rows().scatter(&values, &mut by_plan);
            plan.pack(&by_plan, &mut packed);
            plan.forward(&packed, &xt, None, &mut yt);
            same("plan", &tiles(&mut yt), &want)?;
            let (mut dx, mut dw) = (Tiled::zeros(batch, s.cols), values.clone());
            let g = Tiled::from_rows(batch, s.rows, &numbers(batch * s.rows));
            plan.backward(&by_plan, &xt, &g, Some(&mut dx), &mut dw);
            plan.backward_relu(&by_plan, &xt, &g, Some(&mut dx), &mut dw);
            // Operands of another shape are refused.
            prop_assert!(answer(|| plan.forward(&packed, &Tiled::zeros(batch, s.cols + 1), None, &mut Tiled::zeros(batch, s.rows))).is_none());
            prop_assert!(answer(|| plan.forward(&packed, &xt, None, &mut Tiled::zeros(batch + 1, s.rows))).is_none());
            prop_assert!(answer(|| plan.forward(&packed, &xt, Some(&numbers(s.rows + 1)), &mut Tiled::zeros(batch, s.rows))).is_none());
            prop_assert!(answer(|| plan.backward(&by_plan, &xt, &g, None, &mut numbers(values.len() + 1))).is_none());
        }
        for wild in [0, 1, 7, 65_536, 65_537, usize::MAX] {
            let t = Tuning { forward_rows: wild, forward_cols: 5, backward_rows: 5, backward_cols: wild.max(1) };
            let plan = answer(|| Plan::tuned(s.csr(), s.csc(), t));
            prop_assert_eq!(plan.is_some(), whole && transposed && (1..=65_536).contains(&wild));
            let each: Vec<u32> = (0..s.columns.len() as u32).map(|e| e ^ 5).collect();
            let numbered = answer(|| Plan::of_rows_numbered(s.csr(), t, &each));
            prop_assert_eq!(numbered.is_some(), whole && (1..=65_536).contains(&wild));
            if let (Some(plan), Some((same, moved))) = (plan, numbered) {
                prop_assert_eq!(plan.by_rows().gather(&moved), each.clone());
                prop_assert!(plan == same, "rows alone give the plan that rows and columns do");
            }
            prop_assert!(answer(|| Plan::of_rows_numbered(s.csr(), t, &[&each[..], &[0]].concat())).is_none());
        }
        let compiled = answer(|| Compiled::new(s.csr(), s.csc(), &values));
        prop_assert_eq!(compiled.is_some(), whole && transposed);

        let blocked = answer(|| Blocked::new(s.csr(), &values));
        prop_assert_eq!(blocked.is_some(), whole);
        if let Some(b) = blocked {
            b.forward(&xt, None, false, &mut yt);
            same("blocked", &tiles(&mut yt), &want)?;
        }
        let singles: [(&str, Option<Single<f64>>); 3] = [
            ("sliced", answer(|| Single::Sliced(Sliced::new(s.csr(), &values)))),
            ("expanded", answer(|| Single::Expanded(Expanded::new(s.csr(), &values)))),
            ("single", answer(|| Single::new(s.csr(), &values))),
        ];
        for (name, single) in singles {
            prop_assert_eq!(single.is_some(), whole, "{}", name);
            if let Some(single) = single {
                single.apply(batch, &x, None, &mut flat);
                same(name, &flat, &want)?;
                for wild in [usize::MAX, 1 << 62, batch + 1] {
                    prop_assert!(want.is_empty() || answer(|| single.apply(wild, &x, None, &mut flat.clone())).is_none());
                }
            }
        }
        prop_assert_eq!(answer(|| Single::rounded(s.csr(), &values)).is_some(), whole);
        let dense = answer(|| Dense::new(s.csr(), &values));
        prop_assert_eq!(dense.is_some(), whole);
        if let Some(d) = dense {
            d.forward(&xt, None, &mut yt);
            same("dense", &tiles(&mut yt), &want)?;
        }
        let masks = answer(|| Bitmask::new(s.csr()).decode());
        prop_assert_eq!(masks, whole.then(|| (s.starts.clone(), s.columns.clone())));
        let (high, wide) = if eights { (1, 1) } else { (2, 2) };
        if let Some(Some(op)) = answer(|| Bsr::new(s.csr(), high, wide, &values)) {
            prop_assert!(whole);
            op.forward(&xt, None, &mut yt);
            same("bsr", &tiles(&mut yt), &want)?;
            let (mut dx, mut dw) = (Tiled::zeros(batch, s.cols), values.clone());
            let g = Tiled::from_rows(batch, s.rows, &numbers(batch * s.rows));
            op.backward(&xt, &g, Some(&mut dx), &mut dw);
        }
        for (n, m) in [(1, 1), (2, 4), (0, 0), (usize::MAX, 4), (1, usize::MAX)] {
            answer(|| NOfM::new(s.csr(), n, m).map(|e| e.decode()));
            answer(|| Bsr::new(s.csr(), n, m, &values));
        }
        answer(|| Ell::new(s.csr()).map(|e| e.decode()));

        let g = numbers(batch.min(9) * if whole { s.rows } else { 8 });
        let few = batch.min(9);
        let x = &x[..x.len().min(few * if whole { s.cols } else { 8 })];
        let top = answer(|| top_zero_gradients(s.csr(), few, x, &g, 10));
        prop_assert!(whole || top.is_none());
        if let Some(top) = top {
            let at = |p: u64| (p as usize / s.cols, p as usize % s.cols);
            prop_assert!(top.iter().map(|t| at(t.0)).all(|(r, c)| !s.columns[s.starts[r]..s.starts[r + 1]].contains(&(c as u32))));
            let (xt, gt) = (Tiled::from_rows(few, s.cols, x), Tiled::from_rows(few, s.rows, &g));
            prop_assert_eq!(&top_zero_gradients_tiled(s.csr(), &xt, &gt, 10), &top);
            for wild in [u64::MAX, u64::MAX / 3, (s.rows * s.cols) as u64] {
                prop_assert!(answer(|| gradients_at(&[wild], &xt, &gt)).is_none());
            }
        }
    }

    #[test]
    fn sparse_inputs_refuse_or_are_right(s in structure(), w in structure(), width in extent(), change in off()) {
        let values = numbers(s.columns.len());
        let (table, bias) = (numbers(length([s.cols, width], change)), numbers(width.min(70)));
        let mut y = numbers(length([s.rows, width], 0));
        if answer(|| bags(s.csr(), Some(&values), &table, width, Some(&bias), &mut y)).is_some() {
            for b in 0..s.rows {
                for i in 0..width {
                    let of = s.starts[b]..s.starts[b + 1];
                    let want = bias[i] + of.map(|e| values[e] * table[s.columns[e] as usize * width + i]).sum::<f64>();
                    prop_assert!((y[b * width + i] - want).abs() < 1e-9);
                }
            }
        }
        let g = numbers(length([s.rows, width], change));
        answer(|| bags_gradient(s.csr(), Some(&values), width, &g));
        let mut y = numbers(length([s.rows, w.rows], change));
        answer(|| spmm_sparse(w.csr(), w.csc(), &numbers(w.columns.len()), s.csr(), None, None, &mut y));
    }

    #[test]
    fn products_refuse_or_are_right(
        m in extent(), n in extent(), k in 0usize..7, sa in (extent(), extent()), sb in (extent(), extent()), ldc in extent(),
        lens in (0usize..300, 0usize..300, 0usize..300), change in off(), fits in any::<bool>(),
    ) {
        // Half of them with strides and slices of the shape, so that not everything is refused.
        let (sa, sb, ldc) = if fits { ((k, 1), (n, 1), n) } else { (sa, sb, ldc) };
        let lens = if fits { (length([m, k], change), length([k, n], 0), length([m, n], 0)) } else { lens };
        let (a, b, mut c) = (numbers(lens.0), numbers(lens.1), numbers(lens.2));
        if answer(|| gemm(m, n, k, &a, sa, &b, sb, Start::Zero, &mut c, ldc)).is_some() {
            for (i, j) in (0..m.min(70)).flat_map(|i| (0..n.min(70)).map(move |j| (i, j))) {
                if m == 0 || n == 0 {
                    break;
                }
                let want: f64 = (0..k).map(|q| a[i * sa.0 + q * sa.1] * b[q * sb.0 + j * sb.1]).sum();
                prop_assert!((c[i * ldc + j] - want).abs() < 1e-9, "[{}, {}]", i, j);
            }
        }
        answer(|| gemm(m, n, k, &a, sa, &b, sb, Start::Bias(&numbers(n.min(70))), &mut c, ldc));
    }

    #[test]
    fn attention_refuses_or_is_right(
        batch in 0usize..3, queries in prop_oneof![extent(), Just(100usize)], keys in extent(), groups in 0usize..3, share in 1usize..3,
        width in extent(), value_width in extent(), causal in any::<bool>(), change in off(),
    ) {
        let heads = groups * share;
        let a = Attention { batch, queries, keys, heads, groups, width, value_width, causal, seen: &[] };
        let (q, k) = (numbers(length([batch, queries, heads, width], change)), numbers(length([batch, keys, groups, width], 0)));
        let v = numbers(length([batch, keys, groups, value_width], 0));
        let mut y = numbers(length([batch, queries, heads, value_width], 0));
        let mut sums = numbers(length([batch, heads, queries], 0));
        let answered = answer(|| a.forward(&q, &k, &v, &mut y, &mut sums)).is_some();
        let fits = |n: usize, of: [usize; 4]| of.iter().all(|&n| n < 1 << 10) && n == of.iter().product::<usize>();
        let valid = groups > 0
            && fits(q.len(), [batch, queries, heads, width])
            && fits(k.len(), [batch, keys, groups, width])
            && fits(v.len(), [batch, keys, groups, value_width])
            && fits(y.len(), [batch, queries, heads, value_width])
            && fits(sums.len(), [batch, heads, queries, 1]);
        prop_assert_eq!(answered, valid, "{:?}", a);
        if answered {
            for (b, i, h, c) in (0..batch).flat_map(|b| (0..queries).flat_map(move |i| (0..heads).flat_map(move |h| (0..value_width).map(move |c| (b, i, h, c))))) {
                let g = h / share;
                let score = |j: usize| {
                    let dot = |w: usize| q[((b * queries + i) * heads + h) * width + w] * k[((b * keys + j) * groups + g) * width + w];
                    (0..width).map(dot).sum::<f64>() / (width.max(1) as f64).sqrt()
                };
                let seen: Vec<usize> = (0..keys).filter(|j| !causal || j + queries <= i + keys).collect();
                let top = seen.iter().map(|&j| score(j)).fold(f64::NEG_INFINITY, f64::max);
                let total: f64 = seen.iter().map(|&j| (score(j) - top).exp()).sum();
                let sum: f64 = seen.iter().map(|&j| (score(j) - top).exp() * v[((b * keys + j) * groups + g) * value_width + c]).sum();
                let want = if seen.is_empty() { 0.0 } else { sum / total };
                let got = y[((b * queries + i) * heads + h) * value_width + c];
                prop_assert!((got - want).abs() < 1e-6, "{:?} [{}, {}, {}, {}]: {} for {}", a, b, i, h, c, got, want);
            }
            let (mut dq, mut dk, mut dv) = (q.clone(), k.clone(), v.clone());
            let g = y.clone();
            a.backward((&q, &k, &v), (&y, &sums), &g, (&mut dq, &mut dk, &mut dv));
            prop_assert!(dq.iter().chain(&dk).chain(&dv).all(|d| d.is_finite()));
        }
    }

    #[test]
    fn convolutions_refuse_or_are_right(
        batch in 0usize..3, size in [extent(), extent(), extent()], channels in extent(), filters in extent(),
        kernel in [extent(), extent(), extent()], stride in [extent(), extent(), extent()], padding in [extent(), extent(), extent()],
        dilation in [extent(), extent(), extent()], groups in 0usize..4, small in 0u8..8, change in off(),
    ) {
        // One kind of extent at a time may be wrong; all together are refused for one of them.
        let tame = |bit: u8, of: [usize; 3], least: usize| of.map(|n| if small == bit { n } else { (n % 4).max(least) });
        let (size, kernel) = (tame(0, size, 0), tame(1, kernel, 1));
        let (stride, padding, dilation) = (tame(2, stride, 1), tame(3, padding, 0), tame(4, dilation, 1));
        let one = |bit: u8, n: usize| if small == bit { n } else { n % 5 };
        let (channels, filters) = (one(5, channels), one(6, filters));
        let c = Conv { batch, size, channels, filters, kernel, stride, padding, dilation, groups };
        let Some(out) = answer(|| c.output()) else { return Ok(()) };
        let cin = channels.checked_div(groups).unwrap_or(0);
        let x = numbers(length([batch, size[0], size[1], size[2], channels], change));
        let w = numbers(length([filters, kernel[0], kernel[1], kernel[2], cin], 0));
        let mut y = numbers(length([batch, out[0], out[1], out[2], filters], 0));
        let answered = answer(|| c.forward(&x, &w, None, &mut y)).is_some();
        let fits = |n: usize, of: [usize; 5]| of.iter().all(|&n| n < 1 << 10) && n == of.iter().product::<usize>();
        let valid = groups > 0
            && [channels % groups, filters % groups] == [0; 2]
            && [kernel, stride, dilation, padding].concat().iter().all(|&n| n < 1 << 10)
            && [kernel, stride, dilation].concat().iter().all(|&n| n > 0)
            && fits(x.len(), [batch, size[0], size[1], size[2], channels])
            && fits(w.len(), [filters, kernel[0], kernel[1], kernel[2], cin])
            && fits(y.len(), [batch, out[0], out[1], out[2], filters]);
        prop_assert!(answered || !valid, "{:?} is refused", c);
        if answered {
            let cout = filters / groups;
            for i in 0..y.len() {
                let (f, p) = (i % filters, i / filters);
                let at = [p / (out[1] * out[2]) % out[0], p / out[2] % out[1], p % out[2]];
                let (b, area) = (p / out.iter().product::<usize>(), kernel.iter().product::<usize>());
                let mut want = 0.0;
                for e in 0..area {
                    let of = [e / (kernel[1] * kernel[2]), e / kernel[2] % kernel[1], e % kernel[2]];
                    let from: [Option<usize>; 3] = std::array::from_fn(|d| {
                        (at[d] * stride[d] + of[d] * dilation[d]).checked_sub(padding[d]).filter(|&q| q < size[d])
                    });
                    let [Some(z), Some(h), Some(v)] = from else { continue };
                    for ch in 0..cin {
                        let pixel = ((b * size[0] + z) * size[1] + h) * size[2] + v;
                        want += x[pixel * channels + f / cout * cin + ch] * w[(f * area + e) * cin + ch];
                    }
                }
                prop_assert!((y[i] - want).abs() < 1e-9, "{:?} at {}: {} for {}", c, i, y[i], want);
            }
            let (mut dx, mut dw) = (x.clone(), w.clone());
            c.backward_input(&y, &w, &mut dx);
            c.backward_weight(&x, &y, &mut dw);
        } else {
            answer(|| c.backward_input(&y, &w, &mut x.clone()));
            answer(|| c.backward_weight(&x, &y, &mut w.clone()));
        }
        let mut y = numbers(length([batch, out[0], out[1], out[2], channels], 0));
        let mut at = vec![0; y.len()];
        if answer(|| max_pool(&c, &x, &mut y, &mut at)).is_some() {
            prop_assert!(at.iter().zip(&y).all(|(&i, &v)| x[i as usize] == v));
        }
    }

    #[test]
    fn functions_of_rows_refuse_or_answer(n in 0usize..200, cols in extent(), other in off(), mean in 0usize..20) {
        let (x, g) = (numbers(n), numbers(n.saturating_add_signed(other)));
        let (gain, rate) = (numbers(cols.min(70)), numbers(mean));
        answer(|| rows::softmax(&mut x.clone(), cols));
        answer(|| rows::softmax_backward(&x, &g, cols, &mut x.clone()));
        let wide = |n: usize| if cols > 1 << 40 { n.max(1) } else { n };
        let x = &x[..wide(n).min(x.len())];
        if !(x.is_empty() && cols > 1 << 40) {
            answer(|| rows::column_moments(x, cols));
            answer(|| rows::column_sums([x, &g], [&gain], cols, |[a, b], [c]| a * b + c));
            answer(|| rows::two_column_sums([x], [], cols, |[a], []| a, |[a], []| a * a));
            answer(|| rows::layer_norm_sums(x, &g, &rate, &rate, cols));
        }
        answer(|| rows::map_columns([x, &g], [&gain], cols, &mut x.to_vec(), |[a, b], [c]| a + b + c));
        answer(|| rows::update_columns(&mut x.to_vec(), [&g], [&gain], cols, |t, [a], [c]| t + a + c));
        answer(|| rows::layer_norm(x, &gain, &gain, 1e-5, &mut g.clone(), &mut rate.clone(), &mut rate.clone()));
        answer(|| rows::layer_norm_backward(x, &g, &gain, &rate, &rate, &mut x.to_vec()));
        answer(|| elementwise::zip(x, &g, &mut x.to_vec(), |a, b| a + b));
        answer(|| elementwise::step([&mut x.to_vec(), &mut g.clone()], x, |[a, b], g| [a + g, b]));
    }

    #[test]
    fn tiles_refuse_or_hold_what_they_say(batch in extent(), features in extent(), change in off()) {
        let rows = numbers(length([batch, features], change));
        let tiled = answer(|| Tiled::from_rows(batch, features, &rows));
        if let Some(t) = tiled {
            prop_assert_eq!(t.as_slice().len(), padded(batch) * features);
            let mut back = vec![0.0; rows.len()];
            t.to_rows(&mut back);
            prop_assert_eq!(&back, &rows);
            answer(|| t.sum_batch(&mut numbers(features.min(100))));
            answer(|| t.tile(usize::MAX / 64 + 1).len());
            answer(|| t.width(usize::MAX / 64 + 1));
            answer(|| t.tile(t.tiles()).len());
        } else {
            answer(|| Tiled::<f32>::any(batch, features));
        }
        answer(|| Buffer::<f64>::any(batch.wrapping_mul(features)));
    }
}

/// A former bug: columns that do not ascend were read outside of x.
#[test]
fn columns_that_do_not_ascend_are_refused() {
    let columns: Vec<u32> = std::iter::once(9999).chain(0..1999).collect();
    let (nnz, starts) = (columns.len(), [0, columns.len()]);
    let csr = Csr { rows: 1, cols: 10_000, starts: &starts, columns: &columns };
    assert!(answer(|| csr.transpose()).is_none());
    assert!(answer(|| Blocked::new(csr, &vec![1.0f32; nnz])).is_none());
}

/// A wrapped product made these pass their checks of length.
#[test]
fn shapes_whose_product_wraps_are_refused() {
    let keys = (1 << 62) + 1;
    let a = Attention {
        batch: 1,
        queries: 1,
        keys,
        heads: 1,
        groups: 1,
        width: 4,
        value_width: 4,
        causal: false,
        seen: &[],
    };
    assert!(answer(|| a.forward(&[1.0f32; 4], &[1.0; 4], &[1.0; 4], &mut [0.0; 4], &mut [0.0; 1])).is_none());
    let size = [1, 1, (1 << 62) + 1];
    let ones = [1; 3];
    let c = Conv {
        batch: 1,
        size,
        channels: 4,
        filters: 4,
        kernel: ones,
        stride: ones,
        padding: [0; 3],
        dilation: ones,
        groups: 1,
    };
    assert!(answer(|| c.forward(&[1.0f32; 4], &[1.0; 16], None, &mut [0.0; 4])).is_none());
    assert!(answer(|| Tiled::<f32>::zeros(64, 1 << 58)).is_none());
    assert!(answer(|| Buffer::<f32>::any(usize::MAX)).is_none());
}

/// Only instruction sets that the machine has can be named.
#[test]
fn instruction_sets_are_those_of_the_machine() {
    assert!(Isa::available().contains(&Isa::best()) && Isa::available().contains(&Isa::PORTABLE));
}
