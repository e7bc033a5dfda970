use super::{Context, Fit, Init, Layer, LayerSpec, ParamSpec, describe};
use crate::Real;
use crate::ops::{self, AttentionMask};
use crate::{Result, Var};
use nnz_core::LayerRole;
use serde::{Deserialize, Serialize};

/// Multi-head self-attention over `[length, width]`: four matrices `NAME.query`, `.key`, `.value`, `.output`. With a
/// [`crate::Cache`], keys and values of earlier passes precede those of this one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attention {
    /// Name of its parameters.
    pub name: String,
    /// Extent of each position.
    pub width: usize,
    /// Heads of queries.
    pub heads: usize,
    /// Heads of keys and values; by default as many as of queries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<usize>,
    /// Whether a position attends only to itself and those before it.
    pub causal: bool,
    /// Whether to apply rotary positions to queries and keys, base 10000.
    #[serde(default)]
    pub rotary: bool,
}

impl Attention {
    fn groups(&self) -> usize {
        self.groups.unwrap_or(self.heads)
    }

    /// Width of each head.
    fn each(&self) -> usize {
        self.width / self.heads.max(1)
    }
}

impl Layer for Attention {
    fn name(&self) -> Option<&str> {
        Some(&self.name)
    }

    fn params(&self) -> Vec<ParamSpec> {
        let narrow = self.each().saturating_mul(self.groups());
        let parts = [
            (LayerRole::Query, self.width),
            (LayerRole::Key, narrow),
            (LayerRole::Value, narrow),
            (LayerRole::Output, self.width),
        ];
        let matrix = |(part, outputs)| {
            let name = format!("{}.{part}", self.name);
            [
                ParamSpec::weight(&name, outputs, self.width, [1, 1], Init::Lecun).acting(part),
                ParamSpec::vector(&name, "bias", outputs, Init::Zero),
            ]
        };
        parts.into_iter().flat_map(matrix).collect()
    }

    fn output(&self, input: &[usize]) -> Fit<Vec<usize>> {
        let Self { name, width, heads, rotary, .. } = self;
        let groups = self.groups();
        match *input {
            [_, n] if n == *width => {}
            _ => return Err(format!("{name} takes positions of {width} numbers but gets {}", describe(input))),
        }
        if *heads == 0 || width % heads != 0 || groups == 0 || heads % groups != 0 {
            return Err(format!("{heads} heads in {groups} groups do not divide {width} numbers"));
        }
        match *rotary && !self.each().is_multiple_of(2) {
            true => Err(format!("rotary positions turn pairs, and a head has {} numbers", self.each())),
            false => Ok(input.to_vec()),
        }
    }

    fn forward<T: Real>(&self, x: &Var<T>, cx: &mut Context<'_, T>) -> Result<Var<T>> {
        let (batch, t, at) = (x.shape()[0], x.shape()[1], cx.position());
        let mut heads = |count: usize| ops::reshape(&cx.linear(x, true), &[batch, t, count, self.each()]);
        let (mut q, mut k, mut v) = (heads(self.heads), heads(self.groups()), heads(self.groups()));
        if self.rotary {
            let seen = cx.seen();
            (q, k) = (ops::rope(&q, seen, 10_000.0), ops::rope(&k, seen, 10_000.0));
        }
        (k, v) = cx.remember(at, &k, &v);
        let y = ops::attention(&q, &k, &v, AttentionMask { causal: self.causal, keys: &[] });
        Ok(cx.linear(&ops::reshape(&y, &[batch, t, self.width]), true))
    }

    fn causal(&self, _: &[usize]) -> bool {
        self.causal
    }

    fn resized(&self, input: &[usize], _: &dyn Fn(usize) -> usize, _: bool) -> LayerSpec {
        Self { width: input.last().copied().unwrap_or(self.width), ..self.clone() }.into()
    }

    fn multiple(&self) -> usize {
        self.heads.max(1).saturating_mul(if self.rotary { 2 } else { 1 })
    }
}
