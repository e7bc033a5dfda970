//! Contraction of two tensors by named axes.

use super::*;

/// Sums over axes that `spec` names on the left only, such as `"bij,bjk->bik"` (Einstein's convention). Each operand may
/// name an axis once.
///
/// # Panics
/// When `spec` does not parse or extents of one name differ.
pub fn contract<T: Real>(spec: &str, a: &Var<T>, b: &Var<T>) -> Var<T> {
    let parse = || {
        let (left, out) = spec.split_once("->")?;
        let (first, second) = left.split_once(',')?;
        Some([first, second, out].map(|s| s.trim().chars().collect::<Vec<char>>()))
    };
    let [na, nb, out] = parse().unwrap_or_else(|| panic!("`{spec}` is no contraction such as \"ij,jk->ik\""));
    let (na, a) = only(&na, a, |c| nb.contains(&c) || out.contains(&c), spec);
    let (nb, b) = only(&nb, b, |c| na.contains(&c) || out.contains(&c), spec);
    let extent = |c: char| {
        let of = |names: &[char], v: &Var<T>| names.iter().position(|&n| n == c).map(|i| v.shape()[i]);
        match (of(&na, &a), of(&nb, &b)) {
            (Some(x), Some(y)) if x != y => panic!("`{spec}`: axis {c} has {x} and {y} entries"),
            (x, y) => x.or(y).unwrap_or_else(|| panic!("`{spec}`: no operand has axis {c}")),
        }
    };
    let size = |names: &[char]| names.iter().map(|&c| extent(c)).product::<usize>();
    let both = |c: &char| na.contains(c) && nb.contains(c);
    let batch: Vec<char> = out.iter().copied().filter(both).collect();
    let rows: Vec<char> = out.iter().copied().filter(|c| na.contains(c) && !nb.contains(c)).collect();
    let cols: Vec<char> = out.iter().copied().filter(|c| !na.contains(c)).collect();
    let inner: Vec<char> = na.iter().copied().filter(|c| both(c) && !out.contains(c)).collect();
    let ordered = |names: &[char], v: &Var<T>, groups: [&[char]; 3]| {
        let place = |c: &char| names.iter().position(|n| n == c).expect("grouped by membership");
        let order: Vec<usize> = groups.concat().iter().map(place).collect();
        reshape(&permute(v, &order), &groups.map(size))
    };
    let x = ordered(&na, &a, [&batch, &rows, &inner]);
    let y = ordered(&nb, &b, [&batch, &inner, &cols]);
    let made = [batch, rows, cols].concat();
    let shape: Vec<usize> = made.iter().map(|&c| extent(c)).collect();
    let z = reshape(&batch_matmul(&x, false, &y, false), &shape);
    let order: Vec<usize> = out.iter().map(|c| made.iter().position(|m| m == c).expect("every output axis")).collect();
    permute(&z, &order)
}

/// Sums over the axes that `keep` rejects.
fn only<T: Real>(names: &[char], v: &Var<T>, keep: impl Fn(char) -> bool, spec: &str) -> (Vec<char>, Var<T>) {
    let repeats = (0..names.len()).any(|i| names[..i].contains(&names[i]));
    assert!(names.len() == v.shape().len() && !repeats, "`{spec}` does not name the axes of {:?}", v.shape());
    let gone: Vec<usize> = (0..names.len()).filter(|&i| !keep(names[i])).collect();
    let left = names.iter().copied().filter(|&c| keep(c)).collect();
    (left, if gone.is_empty() { v.clone() } else { sum_over(v, &gone) })
}
