//! Speed of the sparse kernels against a dense product of the same shape, in one interleaved run.
//!
//! `cargo run --release -p nnz-kernels --features bench --example bench -- [ROWSxCOLS] [batch=128] [density=0.1,0.05,0.01] [threads=1] [rounds=15]
//! [tuning=forward_rows,forward_cols,backward_rows,backward_cols]... [baselines=1]`
//!
//! Every round runs every kernel once, so that a busy machine slows all of them alike; medians and the best of all
//! rounds are printed. `bound` is the speed of the same kernel on a layer whose activations fit the first-level cache.
//! `baselines=0` runs the dense product only in the first round, to compare tunings.

use std::hint::black_box;
use std::time::Instant;

use nnz_kernels::{Csc, Csr, Plan, Sliced, Start, TILE, Tiled, Tuning, gemm, top_zero_gradients_tiled};

struct Layer {
    rows: usize,
    cols: usize,
    starts: Vec<usize>,
    columns: Vec<u32>,
    by_column: (Vec<usize>, Vec<u32>, Vec<u32>),
}

struct Random(u64);

impl Random {
    fn unit(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1 << 24) as f32
    }

    fn many(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.unit() - 0.5).collect()
    }
}

impl Layer {
    fn new(rows: usize, cols: usize, density: f32, random: &mut Random) -> Self {
        let (mut starts, mut columns) = (vec![0], Vec::new());
        for _ in 0..rows {
            columns.extend((0..cols as u32).filter(|_| random.unit() < density));
            starts.push(columns.len());
        }
        let mut t_starts = vec![0; cols + 1];
        columns.iter().for_each(|&c| t_starts[c as usize + 1] += 1);
        (0..cols).for_each(|c| t_starts[c + 1] += t_starts[c]);
        let (mut next, mut t_rows, mut entries) = (t_starts.clone(), vec![0; columns.len()], vec![0; columns.len()]);
        for r in 0..rows {
            for k in starts[r]..starts[r + 1] {
                let slot = &mut next[columns[k] as usize];
                (t_rows[*slot], entries[*slot]) = (r as u32, k as u32);
                *slot += 1;
            }
        }
        Self { rows, cols, starts, columns, by_column: (t_starts, t_rows, entries) }
    }

    fn csr(&self) -> Csr<'_> {
        Csr { rows: self.rows, cols: self.cols, starts: &self.starts, columns: &self.columns }
    }

    fn csc(&self) -> Csc<'_> {
        Csc { starts: &self.by_column.0, rows: &self.by_column.1, entries: &self.by_column.2 }
    }
}

/// Kernels measured; numbers are tunings.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    DenseForward,
    DenseBackward,
    BoundForward,
    BoundBackward,
    SlicedForward,
    ToTiles,
    FromTiles,
    Growth,
    Compile(usize),
    Forward(usize),
    Backward(usize),
    Pack(usize),
}

/// A kernel with its work and its times.
struct Arm {
    kind: Kind,
    name: &'static str,
    flop: f64,
    repeat: usize,
    seconds: Vec<f64>,
}

impl Arm {
    fn new(kind: Kind, name: &'static str, flop: f64) -> Self {
        Self { kind, name, flop, repeat: 1, seconds: Vec::new() }
    }

    fn median(&self) -> f64 {
        let mut s = self.seconds.clone();
        s.sort_by(f64::total_cmp);
        s[s.len() / 2]
    }

    fn best(&self) -> f64 {
        self.seconds.iter().copied().fold(f64::INFINITY, f64::min)
    }

    fn rate(&self) -> f64 {
        self.flop / self.median() / 1e9
    }
}

/// Runs every arm once per round; without `baselines` only tiles and plans after the first.
fn race(arms: &mut [Arm], rounds: usize, baselines: bool, mut run: impl FnMut(Kind)) {
    use Kind::*;
    for arm in arms.iter_mut() {
        run(arm.kind);
        let start = Instant::now();
        run(arm.kind);
        arm.repeat = (1e-3 / start.elapsed().as_secs_f64()).ceil().clamp(1.0, 1e4) as usize;
    }
    for round in 0..rounds {
        for arm in arms.iter_mut() {
            let baseline = [DenseForward, DenseBackward, Growth].contains(&arm.kind);
            if round > 0 && baseline && !baselines {
                continue;
            }
            run(arm.kind); // warms the caches for this arm
            let start = Instant::now();
            (0..arm.repeat).for_each(|_| run(arm.kind));
            arm.seconds.push(start.elapsed().as_secs_f64() / arm.repeat as f64);
        }
    }
}

fn main() {
    let (mut shape, mut batch, mut threads, mut rounds, mut baselines) = ((4096, 4096), 128, 1, 15, true);
    let (mut densities, mut tunings) = (vec![0.1f32, 0.05, 0.01], Vec::new());
    for arg in std::env::args().skip(1) {
        let number = |s: &str| s.parse::<usize>().unwrap_or_else(|e| panic!("{arg}: {e}"));
        match arg.split_once('=') {
            Some(("batch", v)) => batch = number(v),
            Some(("threads", v)) => threads = number(v),
            Some(("rounds", v)) => rounds = number(v),
            Some(("baselines", v)) => baselines = number(v) > 0,
            Some(("density", v)) => densities = v.split(',').map(|d| d.parse().expect("a density")).collect(),
            Some(("tuning", v)) => {
                let n: Vec<usize> = v.split(',').map(number).collect();
                let [forward_rows, forward_cols, backward_rows, backward_cols] = n[..] else { panic!("{arg}: four") };
                tunings.push(Tuning { forward_rows, forward_cols, backward_rows, backward_cols });
            }
            _ => {
                let (r, c) = arg.split_once('x').unwrap_or_else(|| panic!("{arg}: see the head of this file"));
                shape = (number(r), number(c));
            }
        }
    }
    nnz_kernels::threads::build_in_main(threads).expect("one pool");
    for density in densities {
        let layer_tunings = if tunings.is_empty() {
            vec![Tuning::of(shape.0, shape.1, (shape.0 as f32 * shape.1 as f32 * density) as usize)]
        } else {
            tunings.clone()
        };
        measure(shape, density, batch, threads, (rounds, baselines), &layer_tunings);
    }
}

/// One layer's arms.
fn measure(
    (rows, cols): (usize, usize),
    density: f32,
    batch: usize,
    threads: usize,
    (rounds, baselines): (usize, bool),
    tunings: &[Tuning],
) {
    let mut random = Random(88_172_645_463_325_252);
    let layer = Layer::new(rows, cols, density, &mut random);
    let (csr, csc) = (layer.csr(), layer.csc());
    let values = random.many(csr.nnz());
    let (x, g) = (random.many(batch * cols), random.many(batch * rows));
    let (xt, gt) = (Tiled::from_rows(batch, cols, &x), Tiled::from_rows(batch, rows, &g));
    let flop = 2.0 * csr.nnz() as f64 * batch as f64;
    let w = random.many(rows * cols);
    let dense = 2.0 * (rows * cols * batch) as f64;
    let (mut y, mut dx, mut dw) = (vec![0.0; batch * rows], vec![0.0; batch * cols], vec![0.0; rows * cols]);

    // The same kernels with all activations of a tile in the first-level cache.
    let small = Layer::new(64, 64, 0.5, &mut random);
    let whole = Tuning { forward_rows: 64, forward_cols: 64, backward_rows: 64, backward_cols: 64 };
    let small_plan = Plan::tuned(small.csr(), small.csc(), whole);
    let small_values = random.many(small.csr().nnz());
    let small_x = Tiled::from_rows(TILE, 64, &random.many(TILE * 64));
    let small_flop = 100.0 * 2.0 * (small.csr().nnz() * TILE) as f64;
    let mut small_dw = small_values.clone();
    let (mut small_y, mut small_dx) = (Tiled::zeros(TILE, 64), Tiled::zeros(TILE, 64));

    let mut xt2 = xt.clone();
    let sliced = Sliced::new(csr, &values);
    let plans: Vec<Plan> = tunings.iter().map(|&t| Plan::tuned(csr, csc, t)).collect();
    let (mut yt, mut dxt) = (Tiled::zeros(batch, rows), Tiled::zeros(batch, cols));
    let (mut sparse_dw, mut packed) = (values.clone(), values.clone());

    use Kind::*;
    let mut arms = vec![
        Arm::new(DenseForward, "dense forward", dense),
        Arm::new(DenseBackward, "dense backward", 2.0 * dense),
        Arm::new(BoundForward, "bound forward", small_flop),
        Arm::new(BoundBackward, "bound backward", 2.0 * small_flop),
        Arm::new(ToTiles, "to tiles", 0.0),
        Arm::new(FromTiles, "from tiles", 0.0),
        Arm::new(Growth, "growth", 0.0),
    ];
    if batch <= 16 {
        arms.push(Arm::new(SlicedForward, "sliced forward", flop));
    }
    for i in 0..plans.len() {
        arms.push(Arm::new(Compile(i), "compile", 0.0));
        arms.push(Arm::new(Forward(i), "forward", flop));
        arms.push(Arm::new(Backward(i), "backward", 2.0 * flop));
        arms.push(Arm::new(Pack(i), "pack", 0.0));
    }
    race(&mut arms, rounds, baselines, |kind| match kind {
        DenseForward => gemm(batch, rows, cols, &x, (cols, 1), &w, (1, cols), Start::Zero, &mut y, rows),
        DenseBackward => {
            gemm(batch, cols, rows, &g, (rows, 1), &w, (cols, 1), Start::Zero, &mut dx, cols);
            gemm(rows, cols, batch, &g, (1, rows), &x, (cols, 1), Start::Zero, &mut dw, cols);
        }
        BoundForward => (0..100).for_each(|_| small_plan.forward(&small_values, &small_x, None, &mut small_y)),
        BoundBackward => (0..100).for_each(|_| {
            small_plan.backward(&small_values, &small_x, &small_x, Some(&mut small_dx), &mut small_dw);
        }),
        SlicedForward => sliced.apply(batch, &x, None, &mut y),
        ToTiles => xt2.copy_from_rows(&x),
        FromTiles => xt2.to_rows(&mut dx),
        Growth => drop(black_box(top_zero_gradients_tiled(csr, &xt, &gt, csr.nnz() / 10))),
        Compile(i) => drop(black_box(Plan::tuned(csr, csc, tunings[i]))),
        Forward(i) => plans[i].forward(&packed, &xt, None, &mut yt),
        Backward(i) => plans[i].backward(&values, &xt, &gt, Some(&mut dxt), &mut sparse_dw),
        Pack(i) => plans[i].pack(&values, &mut packed),
    });

    println!("{rows}x{cols} density {density} batch {batch} threads {threads}");
    let bound = [arms[2].rate(), arms[3].rate()];
    for (i, arm) in arms.iter().enumerate() {
        let ms = arm.median() * 1e3;
        print!("  {:<16} {ms:9.3} (best {:9.3}) ms", arm.name, arm.best() * 1e3);
        if arm.flop > 0.0 {
            print!("  {:6.1} (best {:5.1}) GFLOP/s", arm.rate(), arm.flop / arm.best() / 1e9);
        }
        if i >= 4 && arm.flop > 0.0 {
            let is_backward = arm.name.ends_with("backward");
            let dense = arms[usize::from(is_backward)].median();
            print!("  {:5.2}x dense", dense / arm.median());
            if threads == 1 {
                print!("  {:3.0}% of bound", 100.0 * arm.rate() / bound[usize::from(is_backward)]);
            }
        }
        println!();
    }
    let dense = arms[0].median() + arms[1].median();
    for (i, tuning) in tunings.iter().enumerate() {
        let arms = || arms.iter().filter(|a| [Forward(i), Backward(i), Pack(i)].contains(&a.kind));
        let step: f64 = arms().map(Arm::median).sum();
        let best: f64 = arms().map(Arm::best).sum();
        println!(
            "  step {:7.3} (best {:7.3}) ms  {:5.1} GFLOP/s  {:5.2}x dense  {tuning:?}",
            step * 1e3,
            best * 1e3,
            3.0 * flop / step / 1e9,
            dense / step
        );
    }
}
