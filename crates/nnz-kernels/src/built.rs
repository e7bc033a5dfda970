//! Code compiled in this crate, once for `f32` and once for `f64`.
//!
//! A generic function is compiled by every crate that calls it, with that crate's options: each program, test and example would
//! carry its own matrix product for three instruction sets, optimized or not. The functions below are the work behind the public
//! ones, which reach them through [`Real`]. Functions that take closures cannot be here.

use crate::blocks::Part;
use crate::{Attention, Bsr, Conv, Csc, Csr, Direct, Expanded, Isa, Packing, Plan, Real, Sliced, Start, Tiled};

macro_rules! built {
    ($(fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $out:ty)? = $work:path;)*) => {
        /// The kernels, by number.
        #[allow(clippy::too_many_arguments, missing_docs)]
        #[doc(hidden)]
        pub trait Built: Sized {
            $(fn $name($($arg: $type),*) $(-> $out)? where Self: Real;)*
        }

        impl Built for f32 {
            $(fn $name($($arg: $type),*) $(-> $out)? { $work($($arg),*) })*
        }

        impl Built for f64 {
            $(fn $name($($arg: $type),*) $(-> $out)? { $work($($arg),*) })*
        }
    };
}

type Size = (usize, usize);

built! {
    fn gemm(isa: Isa, m: usize, n: usize, k: usize, a: &[Self], of_a: Size, b: &[Self], of_b: Size, start: Start<Self>,
        c: &mut [Self], ldc: usize) = crate::dense::gemm::gemm_on;
    fn conv(of: &Conv, isa: Isa, x: &[Self], w: &[Self], bias: Option<&[Self]>, y: &mut [Self]) = Conv::forward_on;
    fn conv_input(of: &Conv, isa: Isa, dy: &[Self], w: &[Self], dx: &mut [Self]) = Conv::backward_input_on;
    fn conv_weight(of: &Conv, isa: Isa, x: &[Self], dy: &[Self], dw: &mut [Self]) = Conv::backward_weight_on;
    fn max_pool(of: &Conv, isa: Isa, x: &[Self], y: &mut [Self], at: &mut [u32]) = crate::dense::max_pool::max_pool_on;
    fn attention(of: &Attention, isa: Isa, qkv: [&[Self]; 3], y: &mut [Self], log_sums: &mut [Self]) = Attention::forward_on;
    fn attention_backward(of: &Attention, isa: Isa, qkv: [&[Self]; 3], y: [&[Self]; 2], g: &[Self], d: [&mut [Self]; 3])
        = Attention::backward_on;

    fn softmax(isa: Isa, data: &mut [Self], cols: usize) = crate::rows::softmax_on;
    fn softmax_backward(isa: Isa, p: &[Self], g: &[Self], cols: usize, to: &mut [Self]) = crate::rows::softmax_backward_on;
    fn column_moments(x: &[Self], cols: usize) -> (Vec<f64>, Vec<f64>) = crate::rows::column_moments_of;
    fn layer_norm(isa: Isa, x: &[Self], by: [&[Self]; 2], epsilon: f64, y: &mut [Self], found: [&mut [Self]; 2])
        = crate::rows::layer_norm_on;
    fn layer_norm_backward(isa: Isa, x: &[Self], g: &[Self], gain: &[Self], found: [&[Self]; 2], dx: &mut [Self])
        = crate::rows::layer_norm_backward_on;
    fn layer_norm_sums(isa: Isa, x: &[Self], g: &[Self], found: [&[Self]; 2], cols: usize) -> (Vec<f64>, Vec<f64>)
        = crate::rows::layer_norm_sums_on;

    fn keep_masked(isa: Isa, to: &mut [Self], mask: &[bool]) = crate::elementwise::keep_on;
    fn permute(by: &Packing, isa: Isa, values: &[Self], to: &mut [Self]) = Packing::gather;
    fn pack(plan: &Plan, isa: Isa, values: &[Self], packed: &mut [Self]) = Plan::pack_on;
    fn spmm(isa: Isa, parts: &[Part], values: &[Self], x: &Tiled<Self>, bias: Option<&[Self]>, relu: bool, y: &mut Tiled<Self>)
        = crate::forward::forward_on;
    fn spmm_backward(plan: &Plan, isa: Isa, values: &[Self], x: &Tiled<Self>, g: &Tiled<Self>, dx: Option<&mut Tiled<Self>>,
        relu: bool, dw: &mut [Self]) = Plan::backward_on;
    fn bsr(of: &Bsr<Self>, isa: Isa, x: &Tiled<Self>, bias: Option<&[Self]>, y: &mut Tiled<Self>) = Bsr::forward_on;
    fn bsr_backward(of: &Bsr<Self>, isa: Isa, x: &Tiled<Self>, g: &Tiled<Self>, dx: Option<&mut Tiled<Self>>, dw: &mut [Self])
        = Bsr::backward_on;
    fn sliced(of: &Sliced<Self>, isa: Isa, batch: usize, x: &[Self], bias: Option<&[Self]>, y: &mut [Self]) = Sliced::apply_on;
    fn expanded(of: &Expanded<Self>, isa: Isa, batch: usize, x: &[Self], bias: Option<&[Self]>, y: &mut [Self])
        = Expanded::apply_on;
    fn direct(of: &Direct, isa: Isa, values: &[Self], batch: usize, x: &[Self], bias: Option<&[Self]>, y: &mut [Self])
        = Direct::apply_on;
    fn bags(isa: Isa, x: Csr, values: Option<&[Self]>, table: &[Self], width: usize, bias: Option<&[Self]>, y: &mut [Self])
        = crate::bags::bags_on;
    fn bags_gradient(isa: Isa, x: Csr, values: Option<&[Self]>, width: usize, g: &[Self]) -> (Vec<u32>, Vec<Self>)
        = crate::bags::bags_gradient_on;
    fn spmm_sparse(csr: Csr, csc: Csc, values: &[Self], x: Csr, x_values: Option<&[Self]>, bias: Option<&[Self]>, y: &mut [Self])
        = crate::bags::spmm_sparse_of;
    fn top_zeros(csr: Csr, batch: usize, x: &[Self], g: &[Self], count: usize) -> Vec<(u64, Self)> = crate::growth::top_zeros;
    fn products_at(positions: &[u64], x: &Tiled<Self>, g: &Tiled<Self>) -> Vec<Self> = crate::growth::products_at;

    fn tile(to: &mut Tiled<Self>, isa: Isa, rows: &[Self]) = Tiled::tile_on;
    fn untile(from: &Tiled<Self>, isa: Isa, rows: &mut [Self]) = Tiled::untile_on;
    fn sum_batch(of: &Tiled<Self>, isa: Isa, sums: &mut [Self]) = Tiled::sum_batch_on;
}
