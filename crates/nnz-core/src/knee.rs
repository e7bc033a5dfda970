use serde::{Deserialize, Serialize};

/// How far down a grid of budgets, from many nonzeros to few, a trained network may go before its score falls: P(s') ≥
/// (1 - tolerance) P(0) for all s' ≤ s.
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
