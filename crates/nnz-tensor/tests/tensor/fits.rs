//! Fits: their rules against formulas, row gradients against dense ones, interrupted against uninterrupted.

use crate::check::*;
use nnz_core::{Numbers, Rng, State, Visit};
use nnz_tensor::fit::{
    Adam, At, Fit, FitSpec, Fitting, Hook, Lbfgs, LrSchedule, OptimizerSpec, Parameter, Rule, Seen, Sgd, Slot,
};
use nnz_tensor::ops::{self, Rank};
use nnz_tensor::{Gradient, Result, Tensor, Var};

const WIDTH: usize = 6;
const FEATURES: usize = 24;

/// Rows that are sums of two of a few directions, derived from the step.
fn rows(step: u64) -> Tensor<f64> {
    let atoms = random(&[8, WIDTH], 77);
    let mut rng = Rng::stream(5, "rows", 0, step);
    let atoms = |i: u64| &atoms.data()[i as usize * WIDTH..][..WIDTH];
    let mut all = Vec::new();
    for _ in 0..16 {
        let (a, b) = (atoms(rng.bits() % 8), atoms(rng.bits() % 8));
        all.extend(a.iter().zip(b).map(|(a, b)| a + b));
    }
    Tensor::new(&[16, WIDTH], all)
}

fn autoencoder(step: u64, params: &[V], seen: &mut Seen<f64>) -> Result<V> {
    let [encoder, decoder, bias] = params else { panic!("three parameters") };
    let x = Var::constant(rows(step));
    let z = ops::linear_topk(&ops::sub(&x, bias), encoder, None, 3, Rank::Relu);
    seen.numbers.insert("entries", z.codes().nnz() as f64);
    seen.codes.insert("features", z.codes().clone());
    Ok(ops::mse(&ops::decode(&z, decoder, Some(bias)), &x))
}

/// Counts how often a feature was used, and re-initializes those not used for ten steps.
struct Resample {
    idle: Vec<u32>,
    sown: u64,
}

impl State for Resample {
    fn visit(&mut self, v: &mut dyn Visit) -> nnz_core::Result<()> {
        v.vector("idle", Numbers::U32(&mut self.idle))?;
        v.count("sown", &mut self.sown)
    }
}

impl Hook<f64> for Resample {
    fn after(&mut self, at: &mut Fitting<'_, f64>, seen: &Seen<f64>) -> Result<()> {
        for (idle, used) in self.idle.iter_mut().zip(seen.codes["features"].counts()) {
            *idle = if used > 0 { 0 } else { *idle + 1 };
        }
        let encoder = at.position("encoder")?;
        for f in 0..FEATURES {
            if self.idle[f] >= 10 {
                let mut rng = Rng::stream(1, "resample", f as u64, at.step);
                let row = &mut at.params[encoder].value.data_mut()[f * WIDTH..(f + 1) * WIDTH];
                row.iter_mut().for_each(|w| *w = rng.normal());
                at.state[encoder].iter_mut().for_each(|s| s.data_mut()[f * WIDTH..(f + 1) * WIDTH].fill(0.0));
                (self.idle[f], self.sown) = (0, self.sown + 1);
            }
        }
        Ok(())
    }
}

fn params() -> Vec<Parameter<f64>> {
    vec![
        Parameter::weight("encoder", random(&[FEATURES, WIDTH], 1)),
        Parameter::weight("decoder", random(&[FEATURES, WIDTH], 2)),
        Parameter::vector("bias", Tensor::zeros(&[WIDTH])),
    ]
}

fn fit(rule: impl Rule<f64> + 'static, steps: u64) -> Fit<'static, f64> {
    let spec = FitSpec { schedule: LrSchedule::Cosine, warmup: 0.1, clip: Some(5.0), ..FitSpec::new(steps) };
    let hook = Resample { idle: vec![0; FEATURES], sown: 0 };
    Fit::new(params(), rule, spec).unwrap().hook("resample", hook)
}

fn rules() -> Vec<(&'static str, Box<dyn Rule<f64>>)> {
    vec![
        ("sgd", OptimizerSpec::sgd(0.02).rule()),
        ("plain", Box::new(Sgd { lr: 0.1, momentum: 0.0, nesterov: false, weight_decay: 0.0 })),
        ("adam", OptimizerSpec::adam(0.02).rule()),
        ("adamw", OptimizerSpec::adamw(0.02).rule()),
        ("lazy", Box::new(Adam { lazy: true, ..Adam::new(0.02) })),
        ("lbfgs", Box::new(Lbfgs { memory: 3, weight_decay: 1e-4 })),
    ]
}

/// Bits of everything in a fit's state.
fn everything(fit: &mut Fit<'static, f64>) -> Vec<u64> {
    struct Bits(Vec<u64>);
    impl Visit for Bits {
        fn array(&mut self, _: &str, _: &mut Vec<usize>, numbers: Numbers) -> nnz_core::Result<()> {
            match numbers {
                Numbers::F64(v) => self.0.extend(v.iter().map(|x| x.to_bits())),
                Numbers::U32(v) => self.0.extend(v.iter().map(|&x| u64::from(x))),
                Numbers::U64(v) => self.0.extend(v.iter()),
                other => panic!("{other:?}"),
            }
            Ok(())
        }
    }
    let mut bits = Bits(Vec::new());
    fit.visit(&mut bits).unwrap();
    bits.0
}

#[test]
fn an_autoencoder_learns_under_every_rule() {
    for (name, rule) in rules() {
        let (mut fit, mut losses) = (fit(rule, 300), Vec::new());
        fit.run(&mut autoencoder, |_, p| {
            assert!(p.numbers["entries"] > 0.0);
            losses.push(p.loss);
            true
        })
        .unwrap();
        let mean = |l: &[f64]| l.iter().sum::<f64>() / l.len() as f64;
        let (first, last) = (mean(&losses[..20]), mean(&losses[280..]));
        assert!(last < 0.6 * first, "{name}: {first} to {last}");
    }
}

#[test]
fn a_fit_that_was_interrupted_is_the_one_that_was_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fit.safetensors");
    for (at, (name, rule)) in rules().into_iter().enumerate() {
        let mut whole = fit(rule, 40);
        assert!(whole.run(&mut autoencoder, |_, _| true).unwrap());
        let cut = 7 + 3 * at as u64;
        let mut first = fit(rules().swap_remove(at).1, 40);
        assert!(!first.run(&mut autoencoder, |_, p| p.steps.0 < cut).unwrap());
        first.save(&path, "a").unwrap();
        let mut second = fit(rules().swap_remove(at).1, 40);
        second.resume(&path, "a").unwrap();
        assert_eq!((second.steps(), everything(&mut second)), ((cut, 40), everything(&mut first)), "{name}");
        second.run(&mut autoencoder, |_, _| true).unwrap();
        assert_eq!(everything(&mut second), everything(&mut whole), "{name}");
    }
    // Mismatches are refused by name.
    let resumed = |rule: Box<dyn Rule<f64>>, run: &str| fit(rule, 40).resume(&path, run).unwrap_err().to_string();
    assert!(resumed(OptimizerSpec::lbfgs().rule(), "b").contains("run a, not of b"));
    assert!(resumed(OptimizerSpec::lbfgs().rule(), "a").contains("`rule.encoder.6` is missing"));
    assert!(resumed(OptimizerSpec::adam(0.1).rule(), "a").contains("belongs to nothing"));
    let mut other =
        Fit::<f64>::new(vec![Parameter::weight("encoder", Tensor::zeros(&[2]))], Adam::new(0.1), FitSpec::new(1));
    assert!(
        other.as_mut().unwrap().resume(&path, "a").unwrap_err().to_string().contains("[24, 6] where [2] is needed")
    );
    std::fs::write(&path, "no file of ours").unwrap();
    assert!(resumed(OptimizerSpec::adam(0.1).rule(), "a").contains("not a whole safetensors file"));
}

#[test]
fn threads_change_no_bit_of_a_fit() {
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut fit = fit(OptimizerSpec::adam(0.02).rule(), 30);
            fit.run(&mut autoencoder, |_, _| true).unwrap();
            everything(&mut fit)
        })
    };
    assert_eq!(run(1), run(3));
}

/// A gradient of rows does what the dense one does, except under a lazy rule, which leaves the other rows alone.
#[test]
fn rows_are_updated_as_the_dense_gradient_would() {
    let rows = Gradient::Rows { rows: vec![0, 3], values: random(&[2, 3], 1) };
    let dense = Gradient::Dense(rows.clone().dense(&[5, 3]));
    for (name, rule) in rules().into_iter().filter(|r| r.0 != "lbfgs") {
        let after = |gradient: &Gradient<f64>| {
            let mut value = random(&[5, 3], 2);
            let mut state = rule.state(&[5, 3]);
            state.iter_mut().for_each(|s| s.data_mut().fill(0.5));
            for count in 1..4 {
                let slot = Slot { value: &mut value, state: &mut state, decays: true };
                rule.update(slot, gradient, At { lr: 0.1, count });
            }
            (value, state)
        };
        let (got, want) = (after(&rows), after(&dense));
        if name == "lazy" {
            assert_eq!(got.0.data()[3..9], random(&[5, 3], 2).data()[3..9]);
            assert_eq!((&got.0.data()[..3], &got.1[1].data()[9..12]), (&want.0.data()[..3], &want.1[1].data()[9..12]));
        } else {
            assert_eq!(got, want, "{name}");
        }
    }
}

#[test]
fn what_breaks_is_named() {
    type Loss = dyn FnMut(u64, &[V], &mut Seen<f64>) -> Result<V>;
    let one = || vec![Parameter::weight("w", Tensor::new(&[2], vec![0.0, 1.0]))];
    let spec = FitSpec::new(3);
    let error = |objective: &mut Loss| {
        let mut objective = |s: u64, p: &[V], seen: &mut Seen<f64>| objective(s, p, seen);
        Fit::new(one(), Adam::new(0.1), spec).unwrap().advance(&mut objective).unwrap_err().to_string()
    };
    assert!(error(&mut |_, p, _| Ok(p[0].clone())).contains("a loss is one number, not [2]"));
    assert!(error(&mut |_, p, _| Ok(ops::sum(&ops::log(&p[0])))).contains("the loss is -inf at step 0"));
    assert!(error(&mut |_, p, _| Ok(ops::sum(&ops::sqrt(&p[0])))).contains("gradient of `w` at step 0"));
    let twice = Fit::new([one(), one()].concat(), Adam::new(0.1), spec);
    assert!(twice.err().unwrap().to_string().contains("two parameters are named `w`"));
    let fit = Fit::new(one(), Adam::new(0.1), spec).unwrap();
    assert!(fit.value("v").unwrap_err().to_string().contains("`v`; there are w"));
}
