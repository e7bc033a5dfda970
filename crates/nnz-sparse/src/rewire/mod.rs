//! How does a sparse topology change while it trains?

nnz_core::methods![
    set,
    rigl,
    srigl,
    dst_ee,
    sparse_momentum,
    sr_ste,
    decay_masks,
    bdwp,
    s2ft,
    grass,
    deep_rewiring,
    dsr,
    itop,
    mest,
    granet,
    top_kast,
    cht,
    continuous_growing,
];

pub use s2ft::co_permute;

use nnz_core::Target;

/// Splits `total` in proportion to `weights`, none above its room; the others share the excess. The sum is less
/// only if there is no room left.
fn share(total: usize, weights: &[f64], room: &[usize]) -> Vec<usize> {
    let mut out = vec![0usize; weights.len()];
    let mut left = total.min(room.iter().sum());
    while left > 0 {
        let open: Vec<usize> = (0..out.len()).filter(|&i| out[i] < room[i]).collect();
        let sum: f64 = open.iter().map(|&i| weights[i]).sum();
        let ideal = |i: usize| if sum > 0.0 { left as f64 * weights[i] / sum } else { left as f64 / open.len() as f64 };
        let before = left;
        let shares: Vec<(usize, f64)> = open.iter().map(|&i| (i, ideal(i))).collect();
        for &(i, x) in &shares {
            let got = (x as usize).min(room[i] - out[i]);
            out[i] += got;
            left -= got;
        }
        if left == before {
            // Distribute the remainder: one each, largest fraction first.
            let mut order = shares;
            order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            for (i, _) in order.into_iter().take(left) {
                out[i] += 1;
                left -= 1;
            }
        }
    }
    out
}

/// Counts the entries of a target that do not exist.
fn zeros(t: &Target) -> usize {
    t.shape.len() - t.topology.nnz()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_whole_numbers_in_proportion_within_their_room() {
        assert_eq!(share(10, &[3.0, 1.0, 1.0], &[100, 100, 100]), [6, 2, 2]);
        assert_eq!(share(10, &[3.0, 1.0, 1.0], &[2, 100, 100]), [2, 4, 4]);
        assert_eq!(share(10, &[1.0, 1.0, 1.0], &[100; 3]).iter().sum::<usize>(), 10);
        assert_eq!(share(10, &[0.0, 0.0], &[3, 100]), [3, 7]);
        assert_eq!(share(10, &[1.0, 2.0], &[3, 4]), [3, 4]);
    }
}
