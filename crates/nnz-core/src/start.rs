use crate::{Error, Result, Rng, Shape, Topology, graph_stats};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::{fmt, str::FromStr};

/// Distribution of the initial topology. Each draw has exactly the number of connections asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Start {
    /// Uniform over all topologies of the pattern; without a pattern, an Erdős-Rényi graph.
    #[default]
    Random,
    /// Every output reads inputs around its position, and a fraction of its connections goes to random ones (Watts &
    /// Strogatz 1998, on two rings).
    SmallWorld {
        /// That fraction.
        rewired: f64,
    },
    /// Connections are drawn in proportion to the product of end weights, which fall such that degrees have the density k^-γ
    /// (Goh, Kahng & Kim 2001, arXiv:cond-mat/0106565).
    ScaleFree {
        /// γ, above 2.
        exponent: f64,
    },
    /// Equally many connections for all outputs and for all inputs, up to one; the second singular value of the adjacency matrix is at
    /// most sqrt(d_in - 1) + sqrt(d_out - 1) if that is found in 20 draws; else the best draw is taken.
    Ramanujan,
}

/// Draws for a Ramanujan graph. About half of them are below the bound.
const DRAWS: u64 = 20;

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Random => f.write_str("random"),
            Self::SmallWorld { rewired } => write!(f, "small-world:{rewired}"),
            Self::ScaleFree { exponent } => write!(f, "scale-free:{exponent}"),
            Self::Ramanujan => f.write_str("ramanujan"),
        }
    }
}

impl FromStr for Start {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let why = "expected random, ramanujan, small-world:SHARE such as small-world:0.1, or scale-free:EXPONENT such as \
                   scale-free:2.5 (above 2)";
        let bad = || Error::Parse { text: text.into(), what: "a starting topology", why: why.into() };
        let (name, number) = text.split_once(':').map_or((text, None), |(n, x)| (n, Some(x)));
        let number = number.map(|x| x.parse::<f64>().map_err(|_| bad())).transpose()?;
        match (name, number) {
            ("random", None) => Ok(Self::Random),
            ("ramanujan", None) => Ok(Self::Ramanujan),
            ("small-world", rewired) => match rewired.unwrap_or(0.1) {
                rewired if (0.0..=1.0).contains(&rewired) => Ok(Self::SmallWorld { rewired }),
                _ => Err(bad()),
            },
            ("scale-free", exponent) => match exponent.unwrap_or(2.5) {
                exponent if exponent > 2.0 && exponent.is_finite() => Ok(Self::ScaleFree { exponent }),
                _ => Err(bad()),
            },
            _ => Err(bad()),
        }
    }
}

impl TryFrom<String> for Start {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Start> for String {
    fn from(s: Start) -> Self {
        s.to_string()
    }
}

impl Start {
    /// Draws a topology of `count` connections. O(nnz log nnz); scale-free ones above a tenth of all entries
    /// take O(entries).
    pub fn draw(self, shape: &Shape, count: usize, rng: &mut Rng) -> Topology {
        let (rows, cols, count) = (shape.rows, shape.cols, count.min(shape.len()));
        let mut positions = match self {
            Self::Random => rng.distinct(shape.len() as u64, count),
            Self::SmallWorld { rewired } => small_world(rows, cols, count, rewired, rng),
            Self::ScaleFree { exponent } => scale_free(rows, cols, count, exponent, rng),
            Self::Ramanujan => return ramanujan(rows, cols, count, rng),
        };
        positions.sort_unstable();
        Topology::from_positions(rows, cols, positions)
    }
}

/// Splits `count` over `n` units, evenly up to one.
fn even(count: usize, n: usize) -> impl Iterator<Item = usize> {
    let upto = move |i: usize| (i as u128 * count as u128 / n as u128) as usize;
    (0..n).map(move |i| upto(i + 1) - upto(i))
}

fn small_world(rows: usize, cols: usize, count: usize, rewired: f64, rng: &mut Rng) -> Vec<u64> {
    let mut all = Vec::with_capacity(count);
    for (r, degree) in even(count, rows).enumerate() {
        let middle = (r as f64 + 0.5) * cols as f64 / rows as f64;
        let first = (middle - degree as f64 / 2.0).round().rem_euclid(cols as f64) as usize;
        let mut row: Vec<usize> = (first..first + degree).map(|c| c % cols).collect();
        let mut taken: HashSet<usize> = row.iter().copied().collect();
        for slot in &mut row {
            if rng.unit64() < rewired && taken.len() < cols {
                let mut new = rng.below(cols as u64) as usize;
                while taken.contains(&new) {
                    new = rng.below(cols as u64) as usize;
                }
                taken.remove(slot);
                taken.insert(new);
                *slot = new;
            }
        }
        all.extend(row.into_iter().map(|c| (r * cols + c) as u64));
    }
    all
}

/// Draws with probabilities in proportion to the products of weights (i + 1)^(-1 / (γ - 1)), without replacement.
fn scale_free(rows: usize, cols: usize, count: usize, exponent: f64, rng: &mut Rng) -> Vec<u64> {
    let mut weights = |n: usize| -> Vec<f64> {
        let mut w: Vec<f64> = (1..=n).map(|i| (i as f64).powf(-1.0 / (exponent - 1.0))).collect();
        rng.shuffle(&mut w);
        w
    };
    let (of_rows, of_cols) = (weights(rows), weights(cols));
    if count > rows * cols / 10 {
        // Efraimidis & Spirakis 2006: the largest u^(1/w), as logarithms.
        let mut keys: Vec<(f64, u64)> = (0..(rows * cols) as u64)
            .map(|p| {
                let (r, c) = ((p / cols as u64) as usize, (p % cols as u64) as usize);
                ((1.0 - rng.unit64()).ln() / (of_rows[r] * of_cols[c]), p)
            })
            .collect();
        let order = |a: &(f64, u64), b: &(f64, u64)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        if count < keys.len() {
            keys.select_nth_unstable_by(count, order);
        }
        return keys.into_iter().take(count).map(|(_, p)| p).collect();
    }
    let sums = |w: &[f64]| -> Vec<f64> {
        w.iter()
            .scan(0.0, |sum, w| {
                *sum += w;
                Some(*sum)
            })
            .collect()
    };
    let (rows_to, cols_to) = (sums(&of_rows), sums(&of_cols));
    let mut pick = |sums: &[f64]| {
        let x = rng.unit64() * sums.last().copied().unwrap_or(0.0);
        sums.partition_point(|s| *s <= x).min(sums.len() - 1) as u64
    };
    let mut found = HashSet::with_capacity(count);
    let mut all = Vec::with_capacity(count);
    while all.len() < count {
        let p = pick(&rows_to) * cols as u64 + pick(&cols_to);
        if found.insert(p) {
            all.push(p);
        }
    }
    all
}

fn ramanujan(rows: usize, cols: usize, count: usize, rng: &mut Rng) -> Topology {
    let mut best: Option<(f64, Topology)> = None;
    for _ in 0..DRAWS {
        let t = biregular(rows, cols, count, rng);
        let found = graph_stats::spectral(&t);
        let excess = found.adjacency.second - found.ramanujan;
        if best.as_ref().is_none_or(|(e, _)| excess < *e) {
            best = Some((excess, t));
        }
        if excess <= 0.0 {
            break;
        }
    }
    best.map_or_else(|| Topology::from_positions(rows, cols, []), |(_, t)| t)
}

/// Draws degrees even up to one on both sides: a random matching of stubs, in which repeated pairs swap partners.
fn biregular(rows: usize, cols: usize, count: usize, rng: &mut Rng) -> Topology {
    let len = (rows * cols) as u64;
    if count as u64 > len / 2 {
        // Its complement is sparser, and as even.
        let rest = biregular(rows, cols, (len - count as u64) as usize, rng);
        let mut gone = rest.positions().peekable();
        return Topology::from_positions(rows, cols, (0..len).filter(|p| gone.next_if_eq(p).is_none()));
    }
    let stubs = |n: usize| even(count, n).enumerate().flat_map(|(i, d)| std::iter::repeat_n(i as u64, d));
    let (left, mut right): (Vec<u64>, Vec<u64>) = (stubs(rows).collect(), stubs(cols).collect());
    rng.shuffle(&mut right);
    let at = |r: u64, c: u64| r * cols as u64 + c;
    let mut exists = HashSet::with_capacity(count);
    let mut double: Vec<usize> = (0..count).filter(|&i| !exists.insert(at(left[i], right[i]))).collect();
    while let Some(&i) = double.last() {
        let j = rng.below(count as u64) as usize;
        let (new_i, new_j) = (at(left[i], right[j]), at(left[j], right[i]));
        if double.contains(&j) || exists.contains(&new_i) || exists.contains(&new_j) || new_i == new_j {
            continue;
        }
        exists.remove(&at(left[j], right[j]));
        exists.extend([new_i, new_j]);
        right.swap(i, j);
        double.pop();
    }
    let mut positions: Vec<u64> = exists.into_iter().collect();
    positions.sort_unstable();
    Topology::from_positions(rows, cols, positions)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [&str; 4] = ["random", "small-world:0.1", "scale-free:2.5", "ramanujan"];

    fn draw(text: &str, rows: usize, cols: usize, count: usize, seed: u64) -> Topology {
        let start: Start = text.parse().unwrap();
        start.draw(&Shape::matrix("w", rows, cols), count, &mut Rng::stream(seed, "birth", 0, 0))
    }

    #[test]
    fn names_round_trip_and_nonsense_is_refused() {
        for text in ALL {
            assert_eq!(text.parse::<Start>().unwrap().to_string(), text);
        }
        assert_eq!("small-world".parse::<Start>().unwrap(), Start::SmallWorld { rewired: 0.1 });
        for bad in ["", "ring", "random:1", "small-world:2", "scale-free:2", "scale-free:x", "ramanujan:3"] {
            assert!(bad.parse::<Start>().is_err(), "{bad}");
        }
    }

    #[test]
    fn counts_are_exact_and_seeds_decide() {
        for text in ALL {
            for (rows, cols, count) in
                [(300, 784, 9051), (784, 300, 9051), (20, 30, 500), (10, 100, 1000), (3, 5, 1), (1, 1, 1)]
            {
                let t = draw(text, rows, cols, count, 0);
                assert_eq!((t.rows(), t.cols(), t.nnz()), (rows, cols, count), "{text}");
                assert_eq!(t, draw(text, rows, cols, count, 0), "{text}");
                assert!(count != 9051 || t != draw(text, rows, cols, count, 1), "{text}");
            }
        }
    }

    #[test]
    fn small_worlds_are_local_but_for_the_share_that_is_rewired() {
        // 100 outputs on 1000 inputs, 20 connections each.
        let near = |text: &str| {
            let t = draw(text, 100, 1000, 2000, 0);
            assert_eq!(t.row_degrees(), [20; 100]);
            let far = |r: usize, c: u32| {
                let d = (f64::from(c) - (r as f64 + 0.5) * 10.0).abs();
                d.min(1000.0 - d) > 11.0
            };
            (0..100).flat_map(|r| t.row(r).iter().filter(move |&&c| far(r, c))).count()
        };
        assert_eq!(near("small-world:0"), 0);
        // 200 of 2000 are expected to move, 2% of them to near places.
        let moved = near("small-world:0.1");
        assert!((150..250).contains(&moved), "{moved}");
        assert!(near("small-world:1") > 1900);
    }

    #[test]
    fn scale_free_degrees_have_hubs() {
        let widest = |text: &str| {
            let t = draw(text, 1000, 1000, 10_000, 0);
            graph_stats::fan_in(&t).max.max(graph_stats::fan_out(&t).max)
        };
        let (hub, plain) = (widest("scale-free:2.5"), widest("random"));
        assert!(hub > 5 * plain, "{hub} and {plain}");
        // Above a tenth, too, the unit of largest weight has the most connections.
        let t = draw("scale-free:2.5", 100, 100, 3000, 0);
        assert!(graph_stats::fan_in(&t).max > 60, "{:?}", graph_stats::fan_in(&t));
    }

    #[test]
    fn ramanujan_graphs_are_regular_and_keep_to_the_bound() {
        // 300 x 784 with fan-in 28 has fan-out 75/7; 256 x 512 with 16 and 8 is regular on both sides.
        for (rows, cols, count) in [(256, 512, 4096), (100, 300, 3000), (64, 64, 256)] {
            let t = draw("ramanujan", rows, cols, count, 0);
            assert_eq!(t.row_degrees(), vec![count / rows; rows]);
            assert_eq!(
                t.col_degrees().iter().max().unwrap() - t.col_degrees().iter().min().unwrap(),
                usize::from(count % cols > 0)
            );
            let found = graph_stats::spectral(&t);
            assert!(found.adjacency.converged && found.adjacency.second <= found.ramanujan, "{found:?}");
            // A small world of the same size mixes badly.
            let ring = graph_stats::spectral(&draw("small-world:0", rows, cols, count, 0));
            assert!(ring.adjacency.second > found.adjacency.second, "{ring:?}");
        }
    }
}
