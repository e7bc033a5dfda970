use crate::Budget;
use serde::{Deserialize, Serialize};

/// Budgets from many nonzeros to few, of which a trained network takes the last before its score falls: P(s') ≥ (1 - tolerance)
/// P(0) for all s' ≤ s. What is removed is smallest by |w|.
#[derive(Clone, Debug, PartialEq)]
pub struct Grid {
    /// What is tried, in order.
    pub budgets: Vec<Budget>,
    /// Share of the score with every weight that may be lost.
    pub tolerance: f64,
}

/// How far down a grid a network may go.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Knee {
    /// The score with every weight, once known, and at each point tried.
    pub scores: Vec<f64>,
}

impl Knee {
    /// Takes the next score; whether a further point is to be tried.
    pub fn tell(&mut self, score: f64, tolerance: f64) -> bool {
        self.scores.push(score);
        score >= (1.0 - tolerance) * self.scores[0]
    }

    /// Points of the grid that stay within the tolerance.
    pub fn within(&self, tolerance: f64) -> usize {
        self.scores.iter().skip(1).take_while(|s| **s >= (1.0 - tolerance) * self.scores[0]).count()
    }
}
