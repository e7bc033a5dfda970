//! An honest experiment passes every check, and those that cheat are found out.

use nnz_conform::{Trials, checks};
use nnz_core::{
    Better, Context, Error, Experiment, Input, InputKind, Launch, Method, Metric, Paper, Result, State, Unit, Visit,
};
use serde::{Deserialize, Serialize};

const PAPER: Paper = Paper { number: None, title: "", authors: "", year: 2000, venue: "", arxiv: "" };
const METRICS: &[Metric] = &[Metric::new("mean", Unit::Number, Better::Neither, "Mean of what was drawn.")];
const INPUTS: &[Input] = &[Input { name: "text", kind: InputKind::Text, default: None, about: "Words to count." }];

/// A running sum of random numbers and letters.
#[derive(Default)]
struct Sum {
    done: u64,
    sum: f64,
}

impl State for Sum {
    fn visit(&mut self, v: &mut dyn Visit) -> Result<()> {
        v.u64("done", &mut self.done)?;
        v.f64("sum", &mut self.sum)
    }
}

/// Keeps how far it is and forgets what it found.
struct Half<'a>(&'a mut Sum);

impl State for Half<'_> {
    fn visit(&mut self, v: &mut dyn Visit) -> Result<()> {
        v.u64("done", &mut self.0.done)
    }
}

/// What is wrong with it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    Undeclared,
    HidesUndeclared,
    Missing,
    IgnoresSeed,
    DeniesSeed,
    Forgets,
    DoesNotStop,
    CountsThreads,
}

macro_rules! card {
    ($name:ident, $key:literal, $fault:ident) => {
        #[derive(Serialize, Deserialize)]
        struct $name {
            draws: u64,
        }
        impl Default for $name {
            fn default() -> Self {
                Self { draws: 1000 }
            }
        }
        impl Launch for $name {
            fn launch(self) -> Result<Box<dyn Experiment>> {
                Ok(Box::new(Mean { draws: self.draws, fault: Fault::$fault }))
            }
        }
        impl $name {
            const METHOD: Method = Method::experiment::<Self>($key, $key, "memory", "", PAPER).quick("draws = 10");
        }
    };
}

struct Mean {
    draws: u64,
    fault: Fault,
}

impl Experiment for Mean {
    fn inputs(&self) -> &'static [Input] {
        INPUTS
    }

    fn metrics(&self) -> &'static [Metric] {
        METRICS
    }

    fn stochastic(&self) -> bool {
        self.fault != Fault::DeniesSeed
    }

    fn run(&mut self, cx: &mut Context) -> Result<()> {
        let text: &String = cx.input("text")?;
        let mut sum = Sum { done: 0, sum: text.len() as f64 };
        match self.fault {
            Fault::Forgets => drop(cx.resume(&mut Half(&mut sum))?),
            _ => drop(cx.resume(&mut sum)?),
        }
        while sum.done < self.draws {
            sum.sum += match self.fault {
                Fault::IgnoresSeed => 0.5,
                Fault::CountsThreads => rayon::current_num_threads() as f64 + cx.rng("draw", 0, sum.done).unit64(),
                _ => cx.rng("draw", 0, sum.done).unit64(),
            };
            sum.done += 1;
            let (done, of) = (sum.done, self.draws);
            let go_on = match self.fault {
                Fault::Forgets => cx.checkpoint(done, of, &mut Half(&mut sum)),
                _ => cx.checkpoint(done, of, &mut sum),
            };
            if self.fault != Fault::DoesNotStop || !matches!(go_on, Err(Error::Stopped)) {
                go_on?;
            }
        }
        match self.fault {
            Fault::Undeclared => cx.report("other", 1.0)?,
            Fault::HidesUndeclared => drop(cx.report("other", 1.0)),
            Fault::Missing => return Ok(()),
            _ => {}
        }
        cx.report("mean", sum.sum / self.draws as f64)
    }
}

card!(Honest, "honest", None);
card!(Undeclared, "undeclared", Undeclared);
card!(HidesUndeclared, "hides-undeclared", HidesUndeclared);
card!(Missing, "missing", Missing);
card!(IgnoresSeed, "ignores-seed", IgnoresSeed);
card!(DeniesSeed, "denies-seed", DeniesSeed);
card!(Forgets, "forgets", Forgets);
card!(DoesNotStop, "does-not-stop", DoesNotStop);
card!(CountsThreads, "counts-threads", CountsThreads);
static HONEST: Method = Honest::METHOD;

#[test]
fn an_honest_experiment_passes_every_check() {
    let all = checks(&HONEST);
    assert_eq!(all.len(), Trials::CHECKS.len());
    for (name, check) in all {
        check().unwrap_or_else(|why| panic!("fails `{name}`: {why}"));
    }
}

#[test]
fn every_cheat_is_found_out() {
    static CHEATS: [(Method, &str, &str); 8] = [
        (Undeclared::METHOD, "metrics", "not declared"),
        (HidesUndeclared::METHOD, "metrics", "not declared"),
        (Missing::METHOD, "metrics", "not reported"),
        (IgnoresSeed::METHOD, "seed", "two seeds"),
        (DeniesSeed::METHOD, "seed", "two seeds"),
        (Forgets::METHOD, "interruption", "another way"),
        (DoesNotStop::METHOD, "interruption", "went on"),
        (CountsThreads::METHOD, "threads", "differ"),
    ];
    for (cheat, caught_by, word) in &CHEATS {
        let why = Trials::new(cheat).check(caught_by).err();
        let why = why.unwrap_or_else(|| panic!("{} passes `{caught_by}`", cheat.key));
        assert!(why.contains(word), "{}: {why}", cheat.key);
    }
}
