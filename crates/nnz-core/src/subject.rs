//! The one interpreter of what methods ask for: of a network in training, a trained one, a graph of another program, a language model that
//! streams from its file.

use crate::{
    Command, Edit, Error, MethodInstance, Plan, Procedure, Result, Shape, Signals, Sparsifier, Target, TargetKind,
    Topology,
};

/// Shows one target, by its index, to a function.
pub type Show<'a> = dyn FnMut(usize, &mut dyn FnMut(&Target)) -> Result<()> + 'a;

/// Makes edits of targets: a sparsifier at a step, or a procedure.
pub trait Editor: Send {
    /// What the targets are sets of.
    fn kind(&self) -> TargetKind;

    /// Whether an edit depends on its own target alone, so that targets may be shown one at a time.
    fn layerwise(&self) -> bool {
        false
    }

    /// Fixes how many entries each target keeps, after which the editor is layerwise; whether it could. A subject calls this that
    /// holds one target at a time.
    ///
    /// # Errors
    /// When the budget cannot be shared, and those of `show`.
    fn divide(&mut self, shapes: &[&Shape], show: &mut Show) -> Result<bool>;

    /// Zeros of target `index` whose gradient is wanted; see [`Sparsifier::candidates`].
    fn candidates(&self, _index: usize, _topology: &Topology) -> Vec<u64> {
        Vec::new()
    }

    /// One edit for each target.
    ///
    /// # Errors
    /// Those of the method.
    fn edit(&mut self, targets: &[Target]) -> Result<Vec<Edit>>;
}

/// What a method acts on. Only a network in training trains between commands.
pub trait Subject {
    /// What goes wrong.
    type Error: From<Error>;

    /// Names and extents of its targets, in order.
    fn shapes(&self, kind: TargetKind) -> Vec<Shape>;

    /// Measures `signals`, shows the targets, and applies the edits.
    ///
    /// # Errors
    /// When a signal cannot be measured here, or an edit cannot be made.
    fn edit(&mut self, signals: Signals, by: &mut dyn Editor) -> Result<(), Self::Error>;

    /// A score, of which more is better.
    ///
    /// # Errors
    /// When there is nothing to score by.
    fn evaluate(&mut self) -> Result<f64, Self::Error>;

    /// Keeps values, connections and optimizer state under a name.
    ///
    /// # Errors
    /// When there is no room for it.
    fn snapshot(&mut self, name: String) -> Result<(), Self::Error>;

    /// Goes back to what was kept.
    ///
    /// # Errors
    /// When nothing was kept under that name.
    fn restore(&mut self, name: &str) -> Result<(), Self::Error>;

    /// Takes the mean of the values that were kept, of those connections that exist now.
    ///
    /// # Errors
    /// When nothing was kept under one of the names, and where nothing trains.
    fn average(&mut self, names: &[String]) -> Result<(), Self::Error>;
}

struct BySparsifier<'a> {
    sparsifier: &'a mut dyn Sparsifier,
    step: u64,
}

impl Editor for BySparsifier<'_> {
    fn kind(&self) -> TargetKind {
        self.sparsifier.kind()
    }

    fn layerwise(&self) -> bool {
        self.sparsifier.layerwise()
    }

    fn divide(&mut self, shapes: &[&Shape], show: &mut Show) -> Result<bool> {
        self.sparsifier.divide(self.step, shapes, show)
    }

    fn candidates(&self, index: usize, topology: &Topology) -> Vec<u64> {
        self.sparsifier.candidates(self.step, index, topology)
    }

    fn edit(&mut self, targets: &[Target]) -> Result<Vec<Edit>> {
        self.sparsifier.rewire(self.step, targets)
    }
}

struct ByProcedure<'a> {
    procedure: &'a mut dyn Procedure,
    kind: TargetKind,
}

impl Editor for ByProcedure<'_> {
    fn kind(&self) -> TargetKind {
        self.kind
    }

    fn divide(&mut self, shapes: &[&Shape], show: &mut Show) -> Result<bool> {
        self.procedure.divide(shapes, show)
    }

    fn edit(&mut self, targets: &[Target]) -> Result<Vec<Edit>> {
        self.procedure.edit(targets)
    }
}

/// Carries out the rounds of a step at which the sparsifier rewires; how many there were.
///
/// # Errors
/// Those of the subject.
pub fn rewire<S: Subject>(sparsifier: &mut dyn Sparsifier, step: u64, subject: &mut S) -> Result<u32, S::Error> {
    for round in 0..sparsifier.rounds(step) {
        let Plan::Rewire(signals) = sparsifier.plan(step) else { return Ok(round) };
        subject.edit(signals, &mut BySparsifier { sparsifier, step })?;
    }
    Ok(sparsifier.rounds(step))
}

/// Carries out a command that is neither [`Command::Train`] nor [`Command::Done`]; the score, where it asked for one.
///
/// # Errors
/// Those of the subject.
pub fn perform<S: Subject>(
    command: Command,
    procedure: &mut dyn Procedure,
    kind: TargetKind,
    subject: &mut S,
) -> Result<Option<f64>, S::Error> {
    match command {
        Command::Edit(signals) => subject.edit(signals, &mut ByProcedure { procedure, kind })?,
        Command::Snapshot(name) => subject.snapshot(name)?,
        Command::Restore(name) => subject.restore(&name)?,
        Command::Rewind(name) => subject.average(&[name])?,
        Command::Average(names) => subject.average(&names)?,
        Command::Evaluate => return subject.evaluate().map(Some),
        Command::Train { .. } | Command::Done => {}
    }
    Ok(None)
}

/// Prunes a trained subject by what a method does at step 0, or by a procedure that trains nothing.
///
/// # Errors
/// When the method does nothing without training, or would throw trained weights away; and those of the subject.
pub fn prune<S: Subject>(work: &mut MethodInstance, subject: &mut S) -> Result<(), S::Error> {
    let kind = work.sparsifier.kind();
    trained(work, &subject.shapes(kind))?;
    let idle = || Error::Refused("this method changes nothing without training".into());
    let MethodInstance { sparsifier, procedure, parametrization, .. } = work;
    if parametrization.is_some() || procedure.as_ref().is_some_and(|p| p.steps() > 0) {
        return Err(idle().into());
    }
    let Some(procedure) = procedure else {
        return match rewire(&mut **sparsifier, 0, subject)? {
            0 => Err(idle().into()),
            _ => Ok(()),
        };
    };
    let mut score = None;
    loop {
        match procedure.next(score.take()) {
            Command::Done => return Ok(()),
            Command::Train { span, .. } if !span.is_empty() => return Err(idle().into()),
            command => score = perform(command, &mut **procedure, kind, subject)?,
        }
    }
}

/// Refuses a method that cannot act on trained weights of these shapes.
///
/// # Errors
/// When the shapes do not fit the method, or it starts from a random topology.
pub fn trained(work: &MethodInstance, shapes: &[Shape]) -> Result<()> {
    let shapes: Vec<&Shape> = shapes.iter().collect();
    work.sparsifier.check(&shapes)?;
    if work.sparsifier.initial_topologies(&shapes)?.is_some() {
        return Err(Error::Refused(
            "this method starts from a random topology and would throw the trained weights away; methods that prune a \
             trained model are those that start from all of its weights, such as magnitude, lamp, gmp, snip, grasp and wanda"
                .into(),
        ));
    }
    Ok(())
}
