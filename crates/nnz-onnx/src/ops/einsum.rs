//! Sums of products by the names of axes.

use super::math::spread;
use super::{Cx, Done, Given, one, runs, strides};
use crate::value::Value;
use nnz_engine::Tensor;

/// Most additions.
const MOST: usize = 1 << 36;

/// Axes of a term: letters, and the axes that `...` stands for.
struct Term {
    letters: Vec<Option<char>>,
}

fn term(text: &str, rank: Option<usize>, dots: usize) -> Done<Term> {
    let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    let (before, behind) = text.split_once("...").unwrap_or((&text, ""));
    let has = text.contains("...");
    let named = before.chars().chain(behind.chars());
    if named.clone().any(|c| !c.is_ascii_alphabetic()) {
        return Err(format!("`{text}` in an equation"));
    }
    let count = named.count();
    let open = match rank {
        Some(rank) if has => rank.checked_sub(count).ok_or(format!("`{text}` for a value of {rank} axes"))?,
        Some(rank) if rank != count => return Err(format!("`{text}` for a value of {rank} axes")),
        _ if has => dots,
        _ => 0,
    };
    let letters = before.chars().map(Some).chain(vec![None; open]).chain(behind.chars().map(Some)).collect();
    Ok(Term { letters })
}

impl Term {
    /// Places of its axes among all, of which the first `dots` are those of `...`.
    fn places(&self, all: &[char], dots: usize) -> Vec<usize> {
        let open = self.letters.iter().filter(|l| l.is_none()).count();
        let mut next = dots - open;
        let place = |l: &Option<char>| match l {
            None => {
                next += 1;
                next - 1
            }
            Some(c) => dots + all.iter().position(|a| a == c).unwrap_or(0),
        };
        self.letters.iter().map(place).collect()
    }
}

pub(crate) fn einsum(cx: &Cx, mut given: Given) -> Done {
    let equation = cx.text("equation", "")?;
    let (left, right) = match equation.split_once("->") {
        Some((left, right)) => (left, Some(right)),
        None => (equation, None),
    };
    let texts: Vec<&str> = left.split(',').collect();
    if texts.len() != given.len() {
        return Err(format!("{} terms for {} values", texts.len(), given.len()));
    }
    let mut values: Vec<Tensor<f32>> = Vec::with_capacity(texts.len());
    let mut terms = Vec::with_capacity(texts.len());
    for (i, text) in texts.iter().enumerate() {
        let x = given.tensor(i)?;
        terms.push(term(text, Some(x.shape().len()), 0)?);
        values.push(x);
    }
    let open = |t: &Term| t.letters.iter().filter(|l| l.is_none()).count();
    let dots = terms.iter().map(open).max().unwrap_or(0);
    let letters = terms.iter().flat_map(|t| t.letters.iter().flatten().copied());
    let mut counts = std::collections::BTreeMap::new();
    letters.for_each(|c| *counts.entry(c).or_insert(0) += 1);
    let output = match right {
        Some(text) => term(text, None, dots)?,
        // What appears once, in alphabetical order.
        None => {
            let single = counts.iter().filter(|(_, n)| **n == 1).map(|(c, _)| Some(*c));
            Term { letters: vec![None; dots].into_iter().chain(single).collect() }
        }
    };
    // Axes of the output first, then those that are summed.
    let mut all: Vec<char> = output.letters.iter().flatten().copied().collect();
    let distinct: std::collections::BTreeSet<char> = all.iter().copied().collect();
    if distinct.len() != all.len() || all.iter().any(|c| !counts.contains_key(c)) {
        return Err(format!("the output of `{equation}`"));
    }
    all.extend(counts.keys().filter(|c| !distinct.contains(c)));
    let mut extents = vec![1usize; dots + all.len()];
    for (t, x) in terms.iter().zip(&values) {
        for (p, &d) in t.places(&all, dots).into_iter().zip(x.shape()) {
            extents[p] = spread(&[extents[p]], &[d]).map_err(|_| format!("an axis of {} and {d}", extents[p]))?[0];
        }
    }
    // Steps of each value along all axes; a repeated letter walks the diagonal.
    let steps: Vec<Vec<usize>> = terms
        .iter()
        .zip(&values)
        .map(|(t, x)| {
            let mut all_steps = vec![0; extents.len()];
            let own = strides(x.shape());
            for ((p, s), &d) in t.places(&all, dots).into_iter().zip(own).zip(x.shape()) {
                all_steps[p] += if d == 1 { 0 } else { s };
            }
            all_steps
        })
        .collect();
    let kept = output.places(&all, dots);
    // `...` is summed if the output does not name it.
    let to: Vec<usize> = kept.iter().map(|&p| extents[p]).collect();
    let n = cx.room(&to)?;
    match crate::graph::count(&extents) {
        Ok(work) if work <= MOST.min(cx.most.saturating_mul(64)) && extents.len() <= 64 => {}
        _ => return Err(format!("sums over {extents:?}")),
    }
    let mut out_steps = vec![0; extents.len()];
    kept.iter().zip(strides(&to)).for_each(|(&p, s)| out_steps[p] = s);
    let mut sums = vec![0.0f64; n];
    let inner = |s: &[usize]| s.last().copied().unwrap_or(0);
    let ends: Vec<usize> = steps.iter().map(|s| inner(s)).collect();
    let end = inner(&out_steps);
    let mut at = vec![0usize; extents.len()];
    let mut offsets = vec![0usize; values.len()];
    let line = extents.last().copied().unwrap_or(1);
    runs(&extents, [&out_steps], |[o], _| {
        for (offset, s) in offsets.iter_mut().zip(&steps) {
            *offset = at.iter().zip(s).map(|(a, s)| a * s).sum();
        }
        for i in 0..line {
            let product: f64 =
                values.iter().zip(&offsets).zip(&ends).map(|((x, o), e)| f64::from(x.data()[o + i * e])).product();
            sums[o + i * end] += product;
        }
        for a in (0..extents.len().saturating_sub(1)).rev() {
            at[a] += 1;
            if at[a] < extents[a] {
                break;
            }
            at[a] = 0;
        }
    });
    one(Value::floats(&to, sums.iter().map(|&v| v as f32).collect()))
}
