use crate::Budget;
use serde::{Deserialize, Serialize};

/// Budgets in descending order; a trained network takes the last one before its score falls: P(s') ≥ (1 - tolerance)
/// P(0) for all s' ≤ s. Removes the smallest |w|.
#[derive(Clone, Debug, PartialEq)]
pub struct Grid {
    /// Budgets to try, in order.
    pub budgets: Vec<Budget>,
    /// Fraction of the dense score that may be lost.
    pub tolerance: f64,
}

/// Search state: how far down a grid a network may go.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Knee {
    /// The dense score, once known, then the score at each point tried.
    pub scores: Vec<f64>,
}

impl Knee {
    /// Records the next score; returns whether to try another point.
    pub fn tell(&mut self, score: f64, tolerance: f64) -> bool {
        self.scores.push(score);
        score >= (1.0 - tolerance) * self.scores[0]
    }

    /// Counts the points of the grid that stay within the tolerance.
    pub fn within(&self, tolerance: f64) -> usize {
        self.scores.iter().skip(1).take_while(|s| **s >= (1.0 - tolerance) * self.scores[0]).count()
    }
}
