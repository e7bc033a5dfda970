//! Memory of codes of a large dictionary, counted by the allocator.

use nnz_core::Rng;
use nnz_tensor::ops::Rank;
use nnz_tensor::{Tensor, Var, ops};
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

fn random(shape: &[usize], stream: u64) -> Var<f32> {
    let mut rng = Rng::stream(0, "memory", stream, 0);
    Var::leaf(Tensor::new(shape, (0..shape.iter().product()).map(|_| rng.normal() as f32).collect()))
}

/// 64 rows by 65,536 columns are 16 MiB of numbers, which never exist: neither forward nor backward.
#[test]
fn codes_take_room_for_their_entries() {
    const ROWS: usize = 64;
    const COLS: usize = 1 << 16;
    let (x, w, b) = (random(&[ROWS, 16], 0), random(&[COLS, 16], 1), random(&[COLS], 2));
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let z = ops::linear_topk(&x, &w, Some(&b), 32, Rank::Relu);
    let y = ops::decode(&z, &w, None);
    let mut found = ops::mse(&y, &x.detach()).backward(false).unwrap();
    let gradients = [&x, &w, &b].map(|v| found.take_gradient(v).unwrap());
    let taken = MEMORY.peak_usage() - before;
    assert_eq!(z.codes().nnz(), ROWS * 32);
    assert!(gradients[1].values().shape()[0] <= ROWS * 32);
    assert!(taken < ROWS * COLS * 4 / 4, "{taken} bytes for {} of the dense product", ROWS * COLS * 4);
}
