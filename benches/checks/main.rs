//! Times the parts of a training step of sparse layers on two versions of the kernels, turn by turn, in processor seconds, and
//! prints a table. Both compute the same numbers, which is verified first.
//!
//!   checks ROUNDS THREADS

use rustix::time::{ClockId, clock_gettime};

/// Rows and columns, density, batch: those of the sparse race.
const CASES: [(usize, f64, usize); 11] = [
    (4096, 0.1, 128),
    (4096, 0.05, 128),
    (4096, 0.02, 128),
    (4096, 0.01, 128),
    (1024, 0.1, 128),
    (1024, 0.05, 128),
    (4096, 0.05, 32),
    (4096, 0.05, 8),
    (4096, 0.05, 1),
    (1024, 0.2, 128),
    (1024, 0.5, 128),
];

/// Compressed rows, and the same by columns.
struct Structure {
    side: usize,
    starts: Vec<usize>,
    columns: Vec<u32>,
    t_starts: Vec<usize>,
    t_rows: Vec<u32>,
    t_entries: Vec<u32>,
}

fn mix(n: u64) -> u64 {
    let z = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (z ^ (z >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 20
}

fn numbers(n: usize, seed: u64) -> Vec<f32> {
    (0..n as u64).map(|i| (mix(i ^ seed << 40) % 2001) as f32 / 1000.0 - 1.0).collect()
}

fn structure(side: usize, density: f64) -> Structure {
    let limit = (density * f64::from(1 << 24)) as u64;
    let (mut starts, mut columns) = (vec![0], Vec::new());
    for r in 0..side {
        columns.extend((0..side).filter(|&c| mix((r * side + c) as u64) % (1 << 24) < limit).map(|c| c as u32));
        starts.push(columns.len());
    }
    let csr = after::Csr { rows: side, cols: side, starts: &starts, columns: &columns };
    let (t_starts, t_rows, t_entries) = csr.transpose();
    Structure { side, starts, columns, t_starts, t_rows, t_entries }
}

const PARTS: [&str; 5] = ["compile", "forward", "backward", "pack", "step"];

/// A layer on one version of the kernels: a function that computes one of [`PARTS`], and one for the sum of its outputs.
macro_rules! side {
    ($name:ident, $version:ident) => {
        fn $name(s: &Structure, batch: usize) -> Box<dyn FnMut(&str) -> u64 + '_> {
            use $version::{Csc, Csr, Plan, Tiled};
            let n = s.side;
            let plan = move || {
                let csr = Csr { rows: n, cols: n, starts: &s.starts, columns: &s.columns };
                Plan::new(csr, Csc { starts: &s.t_starts, rows: &s.t_rows, entries: &s.t_entries })
            };
            let made = plan();
            let values = numbers(s.columns.len(), 1);
            let (mut packed, mut dw) = (values.clone(), values.clone());
            made.pack(&values, &mut packed);
            let x = Tiled::from_rows(batch, n, &numbers(batch * n, 2));
            let g = Tiled::from_rows(batch, n, &numbers(batch * n, 3));
            let (mut y, mut dx) = (Tiled::zeros(batch, n), Tiled::zeros(batch, n));
            Box::new(move |part: &str| {
                let all = part == "step";
                if part == "compile" {
                    return plan().bytes() as u64;
                }
                if all || part == "forward" {
                    made.forward(&packed, &x, None, &mut y);
                }
                if all || part == "backward" {
                    made.backward(&values, &x, &g, Some(&mut dx), &mut dw);
                }
                if all || part == "pack" {
                    made.pack(&values, &mut packed);
                }
                if part != "sum" {
                    return 0;
                }
                let (mut a, mut b) = (vec![0.0f32; batch * n], vec![0.0f32; batch * n]);
                y.to_rows(&mut a);
                dx.to_rows(&mut b);
                a.iter().chain(&b).chain(&dw).fold(7, |h, v| h.rotate_left(5).wrapping_mul(31) ^ u64::from(v.to_bits()))
            })
        }
    };
}
side!(old, before);
side!(new, after);

/// Processor seconds of all threads.
fn seconds() -> f64 {
    let t = clock_gettime(ClockId::ProcessCPUTime);
    t.tv_sec as f64 + t.tv_nsec as f64 / 1e9
}

fn median(mut list: Vec<f64>) -> f64 {
    list.sort_by(f64::total_cmp);
    list[list.len() / 2]
}

fn main() {
    let args: Vec<usize> = std::env::args().skip(1).map(|a| a.parse().expect("a number")).collect();
    let (rounds, threads) = (args[0], args[1]);
    rayon::ThreadPoolBuilder::new().num_threads(threads).use_current_thread().build_global().expect("the first pool");
    println!("| layer | density | batch | part | ms before | ms after | ratio of medians | ratio of the least |");
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    let mut steps = [Vec::new(), Vec::new()];
    for (case, (side, density, batch)) in CASES.into_iter().enumerate() {
        let s = structure(side, density);
        // Who gets memory first alternates.
        let mut arms = match case % 2 {
            0 => [old(&s, batch), new(&s, batch)],
            _ => {
                let second = new(&s, batch);
                [old(&s, batch), second]
            }
        };
        let sums = arms.each_mut().map(|run| {
            run("step");
            run("sum")
        });
        assert_eq!(sums[0], sums[1], "other numbers");
        for part in PARTS {
            // At least 20 ms a turn.
            let begun = seconds();
            arms[0](part);
            let repeat = (0.02 / (seconds() - begun).max(1e-6)).ceil() as usize;
            let mut times = [Vec::new(), Vec::new()];
            for round in 0..rounds {
                // Who goes first alternates.
                for i in [round % 2, 1 - round % 2] {
                    let begun = seconds();
                    (0..repeat).for_each(|_| _ = arms[i](part));
                    times[i].push((seconds() - begun) / repeat as f64);
                }
            }
            let least = |t: &[f64]| t.iter().copied().fold(f64::INFINITY, f64::min);
            let ends = least(&times[1]) / least(&times[0]);
            // Not of the ratios of rounds: who goes first in one is slower, and half of them would decide.
            let [a, b] = times.map(median);
            let middle = b / a;
            if part == "step" {
                steps[0].push(middle);
                steps[1].push(ends);
            }
            let [a, b] = [a, b].map(|t| t * 1e3);
            println!("| {side}x{side} | {density} | {batch} | {part} | {a:.3} | {b:.3} | {middle:.4} | {ends:.4} |");
        }
    }
    let [middle, ends] = steps.map(|s| (s.iter().map(|r| r.ln()).sum::<f64>() / s.len() as f64).exp());
    println!("\nGeometric mean of the steps' ratios: {middle:.4} of medians, {ends:.4} of the least times");
}
