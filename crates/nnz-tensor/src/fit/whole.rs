use super::LrSchedule;
use super::objective::{Fitting, Hook, Objective, Parameter, Seen, position};
use super::rule::{At, Rule, Slot, clip_gradients};
use super::store::{load_state, save_state, visit_tensor};
use crate::{Error, Gradient, Real, Result, Tensor, Var};
use nnz_core::{State, Visit, visit_within};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Length and learning-rate schedule of a fit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FitSpec {
    /// Updates.
    pub steps: u64,
    /// Shape of the learning rate over the run.
    #[serde(default = "constant")]
    pub schedule: LrSchedule,
    /// Share of the run over which the learning rate first rises from zero.
    #[serde(default)]
    pub warmup: f64,
    /// Largest Euclidean norm of all gradients together (Pascanu et al. 2013, arXiv:1211.5063).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip: Option<f64>,
}

fn constant() -> LrSchedule {
    LrSchedule::Constant
}

impl FitSpec {
    /// A fit at a constant rate.
    pub fn new(steps: u64) -> Self {
        Self { steps, schedule: LrSchedule::Constant, warmup: 0.0, clip: None }
    }
}

/// One step of a fit.
#[derive(Clone, Debug, PartialEq)]
pub struct FitProgress {
    /// Steps done and total.
    pub steps: (u64, u64),
    /// The loss before the update.
    pub loss: f64,
    /// The learning rate of the update.
    pub lr: f64,
    /// Numbers that the objective reported.
    pub numbers: BTreeMap<&'static str, f64>,
}

/// Parameters under an update rule, with hooks. It knows no model and no data: an [`Objective`] is passed to its steps.
///
/// Besides the values it holds the state of rule and hooks; [`Fit::save`] writes all of it, [`Fit::resume`] restores it,
/// and the rest of the fit is the same bit for bit.
pub struct Fit<'h, T: Real> {
    params: Vec<Parameter<T>>,
    rule: Box<dyn Rule<T> + 'h>,
    state: Vec<Vec<Tensor<T>>>,
    spec: FitSpec,
    hooks: Vec<(String, Box<dyn Hook<T> + 'h>)>,
    step: u64,
}

impl<'h, T: Real> Fit<'h, T> {
    /// Starts a fit at step 0.
    ///
    /// # Errors
    /// When two parameters have one name, or a number of `spec` is out of its range.
    pub fn new(params: Vec<Parameter<T>>, rule: impl Rule<T> + 'h, spec: FitSpec) -> Result<Self> {
        let mut names = BTreeSet::new();
        if let Some(p) = params.iter().find(|p| !names.insert(&p.name)) {
            return Err(Error::Refused(format!("two parameters are named `{}`", p.name)));
        }
        if !(0.0..=1.0).contains(&spec.warmup) {
            return Err(Error::Refused(format!("the warm-up is a share of the run, from 0 to 1, got {}", spec.warmup)));
        }
        if let Some(clip) = spec.clip.filter(|c| !(*c > 0.0 && c.is_finite())) {
            return Err(Error::Refused(format!("the largest gradient norm must be above 0, got {clip}")));
        }
        let state = |p: &Parameter<T>| if p.trained { rule.state(p.value.shape()) } else { Vec::new() };
        let state = params.iter().map(state).collect();
        Ok(Self { params, state, rule: Box::new(rule), spec, hooks: Vec::new(), step: 0 })
    }

    /// Adds a hook, called after the existing ones; its state is saved under `name`.
    ///
    /// # Panics
    /// When another hook has this name.
    pub fn hook(mut self, name: &str, hook: impl Hook<T> + 'h) -> Self {
        assert!(self.hooks.iter().all(|h| h.0 != name), "two hooks are named `{name}`");
        self.hooks.push((name.into(), Box::new(hook)));
        self
    }

    /// The parameters.
    pub fn params(&self) -> &[Parameter<T>] {
        &self.params
    }

    /// The values of a parameter.
    ///
    /// # Errors
    /// When no parameter has this name.
    pub fn value(&self, name: &str) -> Result<&Tensor<T>> {
        Ok(&self.params[position(&self.params, name)?].value)
    }

    /// Steps done and total.
    pub fn steps(&self) -> (u64, u64) {
        (self.step, self.spec.steps)
    }

    /// Bytes of the rule's state.
    pub fn state_bytes(&self) -> usize {
        self.state.iter().flatten().map(|s| s.len() * size_of::<T>()).sum()
    }

    /// Runs until the end, or until `observe` returns `false`. Returns whether the end was reached.
    ///
    /// # Errors
    /// Those of [`Fit::advance`].
    pub fn run(
        &mut self,
        objective: &mut dyn Objective<T>,
        mut observe: impl FnMut(&Self, &FitProgress) -> bool,
    ) -> Result<bool> {
        while self.step < self.spec.steps {
            let progress = self.advance(objective)?;
            if !observe(self, &progress) {
                return Ok(self.step == self.spec.steps);
            }
        }
        Ok(true)
    }

    /// Makes one step: hooks, loss, gradients, clipping, update, hooks.
    ///
    /// # Errors
    /// Those of the objective and the hooks, and when the loss or a gradient is not finite.
    pub fn advance(&mut self, objective: &mut dyn Objective<T>) -> Result<FitProgress> {
        let (step, steps) = (self.step, self.spec.steps);
        let Self { params, rule, state, hooks, .. } = self;
        let mut at = Fitting { step, steps, params: &mut params[..], state: &mut state[..] };
        hooks.iter_mut().try_for_each(|(_, hook)| hook.before(&mut at))?;
        let on_tape = |p: &Parameter<T>| match p.trained {
            true => Var::leaf(p.value.clone()),
            false => Var::constant(p.value.clone()),
        };
        let vars: Vec<Var<T>> = params.iter().map(on_tape).collect();
        let mut seen = Seen::new();
        let (loss, mut found) = differentiate(objective.loss(step, &vars, &mut seen)?, step)?;
        let trained: Vec<usize> = (0..params.len()).filter(|&i| params[i].trained).collect();
        let mut take = |v: &Var<T>| found.take_gradient(v).unwrap_or_else(|| Gradient::zero(v.shape()));
        let mut gradients: Vec<Gradient<T>> = trained.iter().map(|&i| take(&vars[i])).collect();
        let broken = |g: &Gradient<T>| g.values().data().iter().any(|v| !v.is_finite());
        if let Some(k) = gradients.iter().position(broken) {
            let name = &params[trained[k]].name;
            return Err(Error::Refused(format!(
                "the gradient of `{name}` at step {step} is not finite; a smaller learning rate usually helps"
            )));
        }
        if let Some(limit) = self.spec.clip {
            clip_gradients(&mut gradients, limit);
        }
        let lr = rule.lr() * self.spec.schedule.factor(step, steps, self.spec.warmup);
        let slots = params.iter_mut().zip(state.iter_mut()).filter(|(p, _)| p.trained);
        let slots = slots.map(|(p, state)| Slot { value: &mut p.value, state, decays: p.decays }).collect();
        let mut elsewhere = |values: &[Tensor<T>]| {
            let mut vars = vars.clone();
            trained.iter().zip(values).for_each(|(&i, v)| vars[i] = Var::leaf(v.clone()));
            let loss = objective.loss(step, &vars, &mut Seen::new())?;
            let value = loss.value().data()[0].f64();
            let mut found = loss.backward(false)?;
            let take = |&i: &usize| found.take(&vars[i]).unwrap_or_else(|| Tensor::zeros(vars[i].shape()));
            Ok((value, trained.iter().map(take).collect()))
        };
        rule.step(slots, loss, &gradients, At { lr, count: step + 1 }, &mut elsewhere)?;
        let mut at = Fitting { step, steps, params: &mut params[..], state: &mut state[..] };
        hooks.iter_mut().try_for_each(|(_, hook)| hook.after(&mut at, &seen))?;
        self.step += 1;
        Ok(FitProgress { steps: (self.step, steps), loss, lr, numbers: seen.numbers })
    }

    /// Writes everything needed to resume bit for bit, whole or not at all. `run` names what determines the fit: its data,
    /// options and seed.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&mut self, path: &Path, run: &str) -> Result<()> {
        save_state(path, self, run)
    }

    /// Restores the state saved for `run`.
    ///
    /// # Errors
    /// When it belongs to another run, or has other parameters, state or hooks. Then this fit must not be used further.
    pub fn resume(&mut self, path: &Path, run: &str) -> Result<()> {
        load_state(path, self, run)
    }
}

fn differentiate<T: Real>(loss: Var<T>, step: u64) -> Result<(f64, crate::Gradients<T>)> {
    let value = match loss.value().data() {
        [one] => one.f64(),
        _ => return Err(Error::Refused(format!("a loss is one number, not {:?}", loss.shape()))),
    };
    match value.is_finite() {
        true => Ok((value, loss.backward(false)?)),
        false => {
            Err(Error::Refused(format!("the loss is {value} at step {step}; a smaller learning rate usually helps")))
        }
    }
}

impl<T: Real> State for Fit<'_, T> {
    fn visit(&mut self, v: &mut dyn Visit) -> nnz_core::Result<()> {
        v.count("step", &mut self.step)?;
        for (p, state) in self.params.iter_mut().zip(&mut self.state) {
            visit_tensor(v, &format!("params.{}", p.name), &mut p.value)?;
            for (k, slot) in state.iter_mut().enumerate() {
                visit_tensor(v, &format!("rule.{}.{k}", p.name), slot)?;
            }
        }
        self.hooks.iter_mut().try_for_each(|(name, hook)| {
            struct Inner<'i, T: Real>(&'i mut dyn Hook<T>);
            impl<T: Real> State for Inner<'_, T> {
                fn visit(&mut self, v: &mut dyn Visit) -> nnz_core::Result<()> {
                    self.0.visit(v)
                }
            }
            visit_within(v, &format!("hooks.{name}"), &mut Inner(&mut **hook))
        })
    }
}
